"""What a user should know of a graph as it was captured: decisions in it, and parts that are meant for training."""

from __future__ import annotations

from heatcli.graph.kinds import uses_own_statistics
from heatcli.graph.operator import Graph, Operator


def remarks(graph: Graph) -> tuple[str, ...]:
    """Sentences about a graph that no pass has rewritten yet, each without a subject: it is the artifact."""
    found = []
    norms = [op for op in graph.operators if _is_training_norm(op)]
    if norms:
        found.append(
            f"was exported in training mode: batch norm {_name(norms[0])}"
            + (f" and {len(norms) - 1} more" if len(norms) > 1 else "")
            + " standardises by the batch at hand; export it after model.eval()"
        )
    if graph.guards:
        found.append(
            f"decides by the picture (operator {graph.guards[0][0].output}); each picture is explained by the branch "
            "that it takes"
        )
    return tuple(found)


def _is_training_norm(op: Operator) -> bool:
    """Whether it is a batch norm in training mode; an instance norm, which has no running statistics, is none."""
    return uses_own_statistics(op) and op.index in (None, 0) and op.constant(3) is not None


def _name(op: Operator) -> str:
    parameter = op.constant(1) or op.constant(3)
    return op.name if parameter is None else parameter.name.rpartition(".")[0] or parameter.name
