"""Remarks for the user about a captured graph: decisions that it takes, and layers in training mode."""

from __future__ import annotations

from collections.abc import Sequence

from heatcli.graph.operator import Graph


def remarks(graph: Graph, standardised: Sequence[str]) -> tuple[str, ...]:
    """Sentences about a graph that no pass has rewritten yet. Their subject, omitted, is the artifact.

    `standardised`: the running means of its batch norms in training mode, by name.
    """
    sentences = []
    if standardised:
        sentences.append(
            f"was exported in training mode: batch norm {standardised[0].rpartition('.')[0] or standardised[0]}"
            + (f" and {len(standardised) - 1} more" if len(standardised) > 1 else "")
            + " standardises by the batch at hand; export it after model.eval()"
        )
    if graph.guards:
        sentences.append(
            f"decides by the picture (operator {graph.guards[0][0].output}); each picture is explained by the branch "
            "that it takes"
        )
    if graph.chosen_on is not None:
        sentences.append(
            "chooses by the picture where to look again; these places are held as it chose them for the explained "
            "picture, also for a baseline and for changed pictures"
        )
    if graph.before:
        sentences.append(
            f"chooses among its own scores at the end ({', '.join(graph.before)}); these scores are explained, as they "
            "are before that"
        )
    return tuple(sentences)
