"""`heatcli.explain`: a model, a batch and a method in; relevance, biases and the ledger out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.artifact.layout import TOKENS
from heatcli.engine.ledger import Books, Ledger
from heatcli.errors import ImageError, ModelError, UsageError
from heatcli.graph.lookups import beyond, vocabulary
from heatcli.graph.operator import Boxes, Graph, Verified
from heatcli.graph.outputs import probabilities, quantity, settled
from heatcli.images.baselines import Reference, beside
from heatcli.methods import joining
from heatcli.methods.concept import restricted
from heatcli.methods.detections import choose_for
from heatcli.methods.exported import answer, asked, own_target, reference
from heatcli.methods.method import Concept, OneWalk
from heatcli.methods.pairs import COSINE, goals
from heatcli.methods.question import Progress, Question, laid_out
from heatcli.methods.remarks import remarks
from heatcli.methods.table import DEFAULT, DEFAULT_BASELINE, Method
from heatcli.methods.table import method as find_method
from heatcli.methods.targets import Contrast, Target
from heatcli.model.model import Model, load

if TYPE_CHECKING:
    from PIL.Image import Image

    from heatcli.images.drawing import Drawing


_ROWS, _SAME = {"join": joining.rows}, {"join": joining.same}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation:
    """What `explain` found for a batch of N images.

    `relevance` [N, C, H, W], of the input as the network sees it; `biases`: name → [N, size], in forward order, per
    element of the bias; `absorbed`, `unexplained`: operator → float64 [N]; `outputs`: the explained scores
    [N, classes], summed over the target's region where there are positions; `probabilities`: their mean there after the
    final activation (softmax where the artifact ends in none).
    `operators`: bias name → ATen operator. `quantity`: what the score is, as
    `heatcli.graph.outputs.quantity` says it.
    `seconds`: forward and backward an image. `verified`: how the explained graph compares with the artifact on its own
    runtime, None where that could not be asked.
    `notes`: what a reader of the maps should know, as `model.notes` has it. `model`, `batch`: what was explained, for
    figures and reports; `pictures`: the originals, where `explain` was given them. `boxes`: how the output is boxes,
    None where it is none. `concept`: the channels whose map this is, None where it is the map of the whole score.
    `pair`: of a pair of pictures, the explanation of the same similarity on the other picture.

    Each field's metadata say how it is joined where a batch goes through the network in parts.
    """

    relevance: Tensor = field(metadata=_ROWS)
    biases: dict[str, Tensor] = field(metadata=_ROWS)
    ledger: Ledger = field(metadata=_ROWS)
    absorbed: dict[str, Tensor] = field(metadata=_ROWS)
    unexplained: dict[str, Tensor] = field(metadata=_ROWS)
    outputs: Tensor = field(metadata=_ROWS)
    probabilities: Tensor = field(metadata=_ROWS)
    target: Target = field(metadata={"join": joining.targets})
    method: Method = field(metadata=_SAME)
    reference: Reference = field(metadata={"join": joining.references})
    operators: dict[str, str] = field(metadata=_SAME)
    quantity: str = field(metadata=_SAME)
    seconds: dict[str, float] = field(metadata={"join": joining.mean_seconds})
    verified: Verified | None = field(metadata=_SAME, default=None)
    notes: tuple[str, ...] = field(metadata={"join": joining.each_once}, default=())
    model: Model | None = field(metadata=_SAME, default=None)
    batch: Tensor | None = field(metadata=_ROWS, default=None)
    pictures: tuple[Any, ...] = field(metadata=_SAME, default=())
    boxes: Boxes | None = field(metadata=_SAME, default=None)
    concept: Concept | None = field(metadata={"join": joining.concepts}, default=None)
    pair: Explanation | None = field(metadata=_SAME, default=None)

    def figure(
        self, kind: str = "panel", i: int = 0, picture: str | Path | Image | None = None, **style: Any
    ) -> Drawing:
        """Image `i` as a figure, which notebooks show and `.save(path)` writes.

        `kind` and `style` as `heatcli.figures.draw.Style` has them; `picture`: the original, as a file or a Pillow
        image, by default what `explain` was given; else the map lies on what the network saw. Raises `UsageError`.
        """
        found: Drawing = _looking().figure(self, i, picture, kind=kind, **style)
        return found

    def overlay(self, i: int = 0, picture: str | Path | Image | None = None, **style: Any) -> Image:
        """Relevance of image `i` over its picture, as a Pillow image; as `figure` otherwise."""
        return self.figure("overlay", i, picture, **style).image

    def report(self, i: int = 0, picture: str | Path | Image | None = None) -> dict[str, Any]:
        """The report on image `i`, as `heatcli explain` writes it."""
        found: dict[str, Any] = _looking().report(self, i, picture)
        return found

    def save(self, path: str | Path, i: int = 0, picture: str | Path | Image | None = None, **style: Any) -> Path:
        """Write image `i`, as the suffix says: a figure (.png, .jpg, .webp, .svg, .pdf), .json, .npy or .npz."""
        found: Path = _looking().save(self, path, i, picture, **style)
        return found

    def __repr__(self) -> str:
        found: str = _looking().described(self)
        return found

    def _repr_png_(self) -> bytes:
        return self.figure().content()

    def _repr_html_(self) -> str:
        found: str = _looking().as_html(self)
        return found


def _looking() -> Any:
    """`heatcli.figures.looking`, on first use: figures are drawn from reports, which are made of explanations."""
    return import_module("heatcli.figures.looking")


def explain(
    model: Any,
    images: Any,
    method: str | Method | None = None,
    target: str | int | Sequence[int] | Tensor | Target | Contrast | None = None,
    baseline: str | Tensor | Reference | None = None,
    region: Tensor | None = None,
    progress: Progress | None = None,
    concept: str | None = None,
    pair: Any = None,
    similarity: str = COSINE,
    **parameters: Any,
) -> Explanation:
    """Attribute one score of each image to its pixels and to the network's biases.

    `model`: a loaded `Model`, or what `heatcli.load` takes. `images`: the network's input, a tensor [N, C, H, W] of
    floating point, or pictures, one or a list of them: paths, Pillow images, arrays and tensors of whole numbers.
    `method`: None is the default of `heatcli explain`, pictures against a blurred one where no `baseline` is given, and
    of a model that explains itself (`heatcli export`) its own, in its own runtime.
    `target`: None or "top" (the highest score), an index, a label, "A-B", "A@T" at position T of a dense or sequential
    output, "path" (the best score of each position), one index an image, a `Contrast`, or a `Target`. `baseline`: None
    (the method's own), a name (`none`, `zero`, `black`, `blur:SIGMA`, `mean`, a file), a tensor that broadcasts
    against the batch, or a `Reference` that was read before. `region`: for outputs [N, classes, h, w], the part of the
    input, [H, W] or [N, H, W], whose positions are summed over; None is where the class wins. `progress` is told how
    many passes are done and of how many, where a method takes many. `concept`: `LAYER:CHANNEL,CHANNEL…`, for the map of
    what flows through these channels, or `LAYER` through all. `pair`: a picture to compare with each image, or one an
    image, as `images` has them; the score is the `similarity` of their embeddings, cosine or dot
    (`heatcli.methods.pairs`), and the result's `pair` has the maps of the other pictures. `parameters` are the
    method's, such as `epsilon`.
    Raises `UsageError`, `ModelError`.
    """
    if not isinstance(model, Model):
        given = images if isinstance(images, Tensor) and images.is_floating_point() else None
        model = load(model, example=given)
    if pair is not None:
        how = _How(method, baseline, progress, concept, parameters)
        return _of_pair(model, images, pair, similarity, how, (target, region))
    note = model.explained
    chosen = find_method(method or DEFAULT, **parameters) if note is None else asked(model, note, method, parameters)
    if concept is not None:
        if note is not None:
            raise UsageError(f"{model.path}: explains itself, by a map of all its layers; explain {note.source.name}")
        chosen = restricted(chosen, concept)
    batch, pictures = model.pictures.batch(images)
    if batch.dim() < 2 or not len(batch):
        raise UsageError(f"a batch [N, …] of at least one image is needed, this one has the shape {tuple(batch.shape)}")
    batch = batch.to(model.device, model.pictures.dtype)
    if note is None:
        if method is None and baseline is None and batch.dim() == 4:
            baseline = DEFAULT_BASELINE
        origin = chosen.reference(baseline, model.pictures, batch)
    else:
        origin, target = reference(model, note, baseline), own_target(note, target)
    if model.artifact.paired:
        raise UsageError(f"{model.path}: takes two pictures; give the other one as pair (--pair)")
    return replace(_in_parts(model, batch, chosen, target, origin, region, progress), pictures=pictures)


def _in_parts(
    model: Model, batch: Tensor, chosen: Method, target: Any, origin: Reference, region: Tensor | None,
    progress: Progress | None,
) -> Explanation:  # fmt: skip
    """The explanation of a batch, as many images at once as the artifact takes."""
    model.network.seen(batch)
    parts = list(model.network.batches(batch.shape))
    if len(parts) == 1 and len(parts[0][0]) == len(batch):
        return _on_its_graph(model, batch, chosen, target, origin, region, progress)
    found, counts = [], []
    for index, n in parts:
        area = region[index] if region is not None and region.dim() == 3 and len(region) > 1 else region
        own = _target_of(target, index)
        found.append(_on_its_graph(model, batch[index], chosen, own, origin.rows(index), area, progress))
        counts.append(n)
    return joining.joined_parts(found, counts)


@dataclass(frozen=True, eq=False)
class _How:
    """What `explain` was told besides the pictures and the score."""

    method: str | Method | None
    baseline: str | Tensor | Reference | None
    progress: Progress | None
    concept: str | None
    parameters: dict[str, Any]

    def explain(self, model: Model, batch: Tensor, goal: Target) -> Explanation:
        """The explanation of a score of a batch."""
        return explain(
            model, batch, self.method, goal, self.baseline, None, self.progress, self.concept, **self.parameters
        )


def _of_pair(
    model: Model, images: Any, pair: Any, similarity: str, how: _How, others: tuple[Any, Tensor | None]
) -> Explanation:
    """The similarity of each image with the other one of its pair, explained on both. Raises `UsageError`."""
    if not model.artifact.paired and (others[0] is not None or others[1] is not None):
        raise UsageError("the score of a pair is its similarity; leave target and region out")
    if model.explained is not None:
        raise UsageError(f"{model.path}: explains itself, and not pairs; explain {model.explained.source.name}")
    (batch, pictures), (other, seconds) = (model.pictures.batch(given) for given in (images, pair))
    if len(other) not in (1, len(batch)):
        raise UsageError(f"{len(batch)} images have {len(other)} others; give one for all, or one an image")
    batch, other = (x.to(model.device, model.pictures.dtype) for x in (batch, other))
    seconds = seconds * (len(batch) if len(seconds) == 1 else 1)
    other = other.expand(len(batch), *other.shape[1:])
    if model.artifact.paired:
        first, second = _of_two(model, batch, other, how, others[0])
        return replace(first, pictures=pictures, pair=replace(second, pictures=seconds))
    model.network.seen(batch)
    embedding = model.as_embedding(batch.shape)
    first, second = (
        replace(how.explain(embedding, x, goal), quantity=similarity)
        for x, goal in zip((batch, other), goals(embedding, batch, other, similarity), strict=True)
    )
    return replace(first, pictures=pictures, pair=replace(second, pictures=seconds))


def _of_two(model: Model, batch: Tensor, other: Tensor, how: _How, target: Any) -> tuple[Explanation, Explanation]:
    """One score of a network that takes two pictures: its relevance on the first and on the second ones."""
    chosen = find_method(how.method or DEFAULT, **how.parameters)
    chosen = chosen if how.concept is None else restricted(chosen, how.concept)
    if chosen.kind == "cam":
        raise UsageError(f"{model.path}: takes two pictures, whose layers {chosen.name} cannot tell apart; use another")
    baseline = DEFAULT_BASELINE if how.method is None and how.baseline is None else how.baseline
    origins = [chosen.reference(baseline, model.pictures, x) for x in (batch, other)]
    width, whole = batch.shape[3], torch.cat([batch, other], 3)
    found = _in_parts(model, whole, chosen, target, beside(*origins), None, how.progress)

    def half(left: bool) -> Explanation:
        """The part of one picture."""
        x, relevance = (v[..., :width] if left else v[..., width:] for v in (whole, found.relevance))
        return replace(found, relevance=relevance.contiguous(), batch=x, reference=origins[0 if left else 1])

    return half(True), half(False)


def _on_its_graph(model: Model, batch: Tensor, *rest: Any) -> Explanation:
    """As `_explain`, by the graph that the artifact is on this batch, which the network takes at once."""
    with model.network.holding(batch):
        return _explain(model, batch, *rest)


def _target_of(target: Any, index: Tensor) -> Any:
    """The target of the images `index`."""
    if isinstance(target, Target):
        return target.rows(index.to(target.index.device))
    if isinstance(target, Contrast):
        return target.rows(index)
    return target if target is None or isinstance(target, str | int) else torch.as_tensor(target).cpu()[index.cpu()]


def _explain(
    model: Model, batch: Tensor, method: Method, target: Any, origin: Reference, region: Tensor | None,
    progress: Progress | None,
) -> Explanation:  # fmt: skip
    """The explanation of a batch that the network takes at once. Raises `UsageError`, `ModelError`."""
    graph = settled(model.graph(batch.shape), model.path)
    _check_tokens(model, graph, batch, origin)
    started = time.perf_counter()
    method.fits(graph)
    note = model.explained
    start = model.network.values_on(origin.batch, origin.shared) if method.procedure.compares else None
    one_walk = note is None and isinstance(method.procedure, OneWalk)
    tape = model.forward(batch, method.rules if note is None else {}, start, compiled=one_walk)
    between = time.perf_counter()
    output, n = tape.output, len(batch)
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"{model.path}: its output is not finite (NaN or infinite) on this image")
    scores = laid_out(output)
    goal = choose_for(model, graph, target, scores, _on_grid(model, region, batch, output))
    question = Question(
        model=model, graph=graph, batch=batch, reference=origin, goal=goal, tape=tape, progress=progress
    )  # fmt: skip
    found = method.procedure(question, method) if note is None else answer(question, note)
    found = replace(found, relevance=found.relevance.contiguous())
    books, ledger = found.closed(question, method.conserves)
    if not bool(torch.isfinite(ledger.pixels).all()):  # a sum is finite only where all that it sums is
        raise ModelError(f"{model.path}: the relevance of {method.name} is not finite; try another method")
    at = goal.region[:, None].to(scores)
    chances = laid_out(probabilities(graph, output))
    return Explanation(
        relevance=found.relevance,
        biases=books.biases,
        ledger=ledger,
        absorbed=books.absorbed,
        unexplained=books.unexplained,
        outputs=(scores * at).sum(2),
        probabilities=(chances * at).sum(2) / at.sum(2).clamp(min=1),
        target=goal,
        method=method,
        reference=origin,
        operators=_operators(graph, books),
        quantity=quantity(graph) if graph.boxes is None else _of_box(graph.boxes, goal, quantity(graph)),
        seconds={"forward": (between - started) / n, "backward": (time.perf_counter() - between) / n},
        verified=graph.verified,
        notes=remarks(question, ledger, found.relevance, books, method),
        model=model,
        batch=batch,
        boxes=graph.boxes,
        concept=found.concept,
    )


def _check_tokens(model: Model, graph: Graph, batch: Tensor, origin: Reference) -> None:
    """Raise `ImageError`, or `UsageError` for the baseline, for a token beyond the table that it is looked up in."""
    known = vocabulary(graph) if model.pictures.layout.kind == TOKENS else None
    if known is None:
        return
    if int(batch.max()) >= known:
        raise ImageError(beyond(int(batch.max()), known))
    if origin.batch is not None and int(origin.batch.max()) >= known:
        raise UsageError(f"the baseline {beyond(int(origin.batch.max()), known)}")


def _of_box(boxes: Boxes, goal: Target, quantity: str) -> str:
    """What the scores are: `coordinate` where all are numbers of boxes, else as classes are."""
    return "coordinate" if bool((goal.index >= boxes.classes).all()) else quantity


def _operators(graph: Graph, books: Books) -> dict[str, str]:
    """The operator of each bias; of a model that explains itself none is known."""
    known = {name: operator for name, (operator, _) in graph.offsets.items()}
    return {name: known.get(name, "") for name in books.biases}


def _on_grid(model: Model, region: Tensor | None, batch: Tensor, output: Tensor) -> Tensor | None:
    """A region [N, H, W] of the input as one of the output's positions, [N, positions]."""
    if region is None:
        return None
    if output.dim() != 4 or output[0, 0].numel() == 1:
        raise UsageError(f"{model.path}: its output has no positions, so a region makes no sense")
    if region.dim() == 2:
        region = region[None]
    if region.shape[-2:] != batch.shape[-2:] or region.shape[0] not in (1, len(batch)):
        raise UsageError(f"the region has the shape {tuple(region.shape)}, the input {tuple(batch.shape)}")
    grid = torch.nn.functional.interpolate(region[:, None].to(batch), output.shape[-2:], mode="area")
    return (grid[:, 0] >= 0.5).flatten(1).expand(len(batch), -1)
