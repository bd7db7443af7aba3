"""What a user should know of a loaded model: labels, outputs, differences from the artifact, unknown preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from heatcli.artifact.explained import Note
from heatcli.artifact.layout import PICTURES
from heatcli.artifact.notes import Notes
from heatcli.graph.operator import Graph
from heatcli.images.pictures import Pictures
from heatcli.model.preprocessing import unknown
from heatcli.model.settings import Settings


def note_same_labels(notes: Notes, labels: Sequence[str]) -> None:
    """Note labels that several classes share."""
    for name, count in Counter(labels).items():
        if count > 1:
            first, second, *_ = (i for i, label in enumerate(labels) if label == name)
            notes.add(f"classes {first} and {second} have the same label {name!r}; --target takes their indices")


def note_graph(
    notes: Notes, name: str, head: int | None, settings: Settings, pictures: Pictures, note: Note | None, graph: Graph
) -> None:  # fmt: skip
    """Note what the first graph shows about the artifact `name`. `head`: the user's, `note`: of an explained model."""
    reading, heads, labels = graph.reading, graph.returned, settings.labels
    for remark in graph.remarks:
        notes.add(f"{name} {remark}")
    if graph.verified is not None and graph.verified.elsewhere:
        notes.add(
            f"{name}: {graph.verified.elsewhere:.1%} of the places where it looks again are others in "
            f"{graph.verified.against}, whose rounding differs; the others agree"
        )
    if graph.verified is not None and not graph.verified.agrees:
        notes.add(
            f"{name} is explained unverified: the graph's output is {graph.verified.error:.2g} of the largest off "
            f"what {graph.verified.against} says"
        )
    if note is not None:
        notes.add(f"{name} explains itself, by {note.method.name}, and was made of {note.source.name}")
    elif head is None and len(heads) > 1 and graph.boxes is None:
        shapes = ", ".join(f"{i} {list(returned.shape)}" for i, returned in enumerate(heads))
        notes.add(f"{name} returns {len(heads)} outputs ({shapes}); the first is explained, --head says which")
    if labels and reading is not None and not reading.unclear and reading.classes != len(labels):
        notes.add(
            f"{name} has {reading.classes:,} class{'es' if reading.classes > 1 else ''}, and there are "
            f"{len(labels):,} labels; check --labels"
        )
    if pictures.used and not settings.told_by and not pictures.alphabet and pictures.layout == PICTURES:
        notes.add(unknown(graph, name, settings.input))
