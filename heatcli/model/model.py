"""A loaded model: the only place that combines an artifact, its network and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace as replace_fields
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.contained import Contained
from heatcli.artifact.explained import Note, as_explained, read_note
from heatcli.artifact.formats import recognise
from heatcli.artifact.held import Example, Held, held, with_example
from heatcli.artifact.notes import Notes
from heatcli.artifact.paired import side_by_side
from heatcli.artifact.recognise import Format
from heatcli.artifact.sandbox import AVAILABLE, MEMORY, SECONDS, Limits
from heatcli.artifact.sidecar import Input
from heatcli.artifact.unbatched import with_batch
from heatcli.engine.network import Network
from heatcli.engine.tape import Tape
from heatcli.errors import MissingError, ModelError, UsageError, edge, first_line, unknown_name
from heatcli.graph.heads import Thresholds
from heatcli.graph.kinds import FIRST
from heatcli.graph.layers import Layer
from heatcli.graph.operator import Graph
from heatcli.graph.outputs import EMBEDDING, Wanted
from heatcli.graph.passes import DEFAULT, KEEPING_OUTPUT, PASSES
from heatcli.images.pictures import Pictures
from heatcli.model.cache import Cache
from heatcli.model.capture import Capture
from heatcli.model.embedded import default_model
from heatcli.model.named import is_named, named
from heatcli.model.remarks import note_graph, note_same_labels
from heatcli.model.settings import Flags, Settings, explained_input
from heatcli.rules.rule import Table
from heatcli.system.files import digest, seen_from

if TYPE_CHECKING:
    from heatcli.engine.compiled import Compiler


@dataclass(eq=False, kw_only=True, repr=False)
class Model:
    """An artifact ready to be explained.

    `path`: its name for the user. `file`: the file that was opened, whose hash is `sha256`; for a model in memory the
    path again.
    `network` runs the artifact, `pictures` converts pictures to its input, `capture` captures its graphs and holds
    their options. `settings`: what sidecar and flags say. `notes`: remarks for the user. `explained`: the note of a
    model that explains itself, else None.
    """

    path: Path
    file: Path
    format: Format
    sha256: str
    artifact: Artifact
    network: Network
    pictures: Pictures
    capture: Capture
    settings: Settings
    notes: Notes = field(default_factory=Notes, repr=False)
    explained: Note | None = None
    _embedding: Model | None = field(default=None, init=False, repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in index order; empty if unknown."""
        return self.settings.labels

    def label(self, index: int) -> str | None:
        """The name of class `index`, or None."""
        return self.labels[index] if index < len(self.labels) else None

    def called(self, index: int) -> str:
        """The name of class `index`, or its number where it has none."""
        return self.label(index) or str(index)

    @property
    def thresholds(self) -> Thresholds:
        """What counts as a box of a detector."""
        return Thresholds(self.settings.output.confidence, self.settings.output.overlap)

    @property
    def input(self) -> Input:
        """How a picture becomes the input, from sidecar and flags."""
        return self.settings.input

    @property
    def shape(self) -> tuple[int, ...]:
        """The input as (channels, height, width), or with the axes that it has instead.

        Raises `UsageError`, naming the flag, if the size is unknown.
        """
        return self.pictures.shape

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return self.network.device

    @property
    def batch_size(self) -> int | None:
        """How many images the artifact takes at once, as far as known; None for any number."""
        return self.network.batch_size

    def preprocess(self, images: Any) -> Tensor:
        """One picture or several to the network's input [N, C, H, W]: paths, Pillow images, arrays, tensors.

        See `heatcli.images.pictures.Pictures.preprocess`.
        """
        return self.pictures.preprocess(images)

    def named_in(self, folder: str | Path) -> str:
        """The model's name in a file in `folder`: its path seen from there, or the name that it has everywhere."""
        return self.path.name if is_named(self.path) else seen_from(folder, self.path)

    @property
    def stem(self) -> str:
        """What names of files made of the model begin with."""
        return str(self.path).replace(":", "-") if is_named(self.path) else self.path.stem

    def as_embedding(self, shape: Sequence[int]) -> Model:
        """The model whose explained output, for inputs of that shape, is an embedding as the artifact returns it.

        Of a classifier that is the output itself, not the logits before it.
        """
        reading = self.graph(shape).reading
        if reading is not None and reading.kind == EMBEDDING and self.graph(shape).final is None:
            return self
        if self._embedding is None:
            passes = tuple(name for name in self.capture.passes if name in KEEPING_OUTPUT)
            capture = replace(self.capture, passes=passes, contained=None)
            wanted = replace(self.network.wanted, kind=EMBEDDING)
            network = replace(self.network, capture=capture, wanted=wanted, noted=None)
            self._embedding = replace(self, capture=capture, network=network)
        return self._embedding

    def __repr__(self) -> str:
        shape, labels = self.pictures.input.shape, len(self.labels)
        size = "" if shape is None else f", input {'×'.join(map(str, self.pictures.input_shape))}"
        named = f", {labels} labels" if labels else ""
        return f"<Model {self.path.name}: {self.format}{size}{named}, on {self.device}>"

    def graph(self, shape: Sequence[int]) -> Graph:
        """The graph for an input of shape [N, C, H, W]. Raises `ModelError`."""
        return self.network.graph(shape)

    def forward(
        self, batch: Tensor, rules: Table, baseline: Tensor | Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (), compiled: bool = True, until: Layer | None = None,
    ) -> Tape:  # fmt: skip
        """A forward run on a batch [N, …] for a walk by `rules`, as `heatcli.engine.network.Network.forward`.

        For a batch of pictures, rules of first layers get the range of pixels.
        """
        wanted = FIRST in rules or any(rule.first_only for rule in rules.values())
        bounds = self.pictures.pixel_range(batch) if wanted and batch.dim() == 4 else None
        return self.network.forward(batch, rules, baseline, keep, bounds, compiled, until)


# --- loading ------------------------------------------------------------------------------------------------------


def load(
    path: str | Path | Any = None,
    example: Example | None = None,
    device: str = "cpu",
    passes: Iterable[str] = DEFAULT,
    inputs: Mapping[str, Tensor] | None = None,
    head: int | None = None,
    cache: bool = False,
    compiled: bool = False,
    class_axis: int | None = None,
    kind: str | None = None,
    confidence: float | None = None,
    overlap: float | None = None,
    pair: bool = False,
    unverified: bool = False,
    sandbox: bool = False,
    max_seconds: float = SECONDS,
    max_memory: int = MEMORY,
    **flags: Any,
) -> Model:
    """Load a TorchScript, ONNX or torch.export artifact; None loads the embedded animals model.

    `torchvision:NAME[:WEIGHTS]` loads a classifier of torchvision (`heatcli.model.named`). `path` may also
    be a model in memory: a `torch.nn.Module` (a copy is explained, in evaluation mode), a ScriptModule or an
    ExportedProgram. `example`: the input [N, C, H, W], or all inputs in order. Its shapes are used where the
    artifact declares none, and its other values replace `inputs`.
    `passes`: the graph passes to apply (`heatcli.graph.passes.PASSES`). `inputs`: values of all inputs except the
    picture, [1, …] or [N, …], if the artifact takes several inputs. `head`: the index of the floating-point output to
    explain, from 0. `class_axis`: the axis of the classes in that output. `kind`: what the output is
    (`heatcli.artifact.sidecar.Output`). `confidence`, `overlap`: what counts as a box
    (`heatcli.graph.heads.Thresholds`). `pair`: pairs of pictures are explained: the two inputs of a network that takes
    two, else the embeddings that it returns (`heatcli.explain`). `cache`: keep graphs in the user's cache
    folder and reuse them (`heatcli.model.cache`). `compiled`: compile repeated walks (`heatcli.engine.compiled`).
    `unverified`: explain even a graph that differs from the artifact in its own runtime (`heatcli.model.verification`).
    `sandbox`: open and capture the artifact in a child process, with at most `max_seconds` for opening and for each
    capture, and at most `max_memory` bytes beside ten times the size of the file (`heatcli.artifact.sandbox`). `flags`
    override the sidecar's `[input]`: size, channels, mean, std, resize, interpolation, order, range, axes, rate, names.
    `preset` sets several of them (`heatcli.model.presets`), `labels` is a file of labels,
    `concept_names` one of names of channels (`heatcli.artifact.sidecar.read_concepts`), `max_pixels` the largest
    picture to read.
    Raises `ModelError` if the artifact cannot be used, `UsageError` for an invalid flag.
    """
    in_memory = path is not None and not isinstance(path, str | Path)
    file = held(path) if in_memory else _model_path(path)
    name = file.name if isinstance(file, Held) else file
    if in_memory and (cache or sandbox):
        raise UsageError(f"{name}: a model in memory has no cache and needs no sandbox; leave them out")
    if sandbox and not AVAILABLE:
        raise UsageError("a model can be opened in a child process with limits on Linux only; leave --sandbox out")
    labels, named, max_pixels, concepts = (
        flags.pop(name, None) for name in ("labels", "preset", "max_pixels", "concept_names")
    )
    if max_pixels is not None and max_pixels < 1:
        raise UsageError(f"--max-pixels {max_pixels} is not allowed; it is at least 1")
    output = {"axis": class_axis, "kind": kind, "confidence": confidence, "overlap": overlap}
    said = Flags(input=flags, output=output, preset=named, labels=labels, max_pixels=max_pixels, concepts=concepts)
    options = Options(
        device=device, passes=tuple(passes), inputs=dict(inputs or {}), head=head, cache=cache, compiled=compiled,
        example=example, unverified=unverified, pair=pair, limits=Limits(max_seconds, max_memory) if sandbox else None,
        memory=max_memory, axes=flags.get("axes"),
    )  # fmt: skip
    model = assembled(file, options, partial(said.settings, name))
    for remark in model.artifact.remarks:
        model.notes.add(f"{name.name} {remark}")
    note_same_labels(model.notes, model.labels)
    return model


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `load`. `limits`: those of the child process that opens the artifact, None for this process."""

    device: str
    passes: tuple[str, ...] = DEFAULT
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    head: int | None = None
    example: Example | None = None
    cache: bool = False
    compiled: bool = False
    unverified: bool = False
    pair: bool = False
    limits: Limits | None = None
    memory: int = MEMORY
    axes: str | None = None


Tell = Callable[[Artifact, InputInfo], Settings]  # from an opened artifact and its explained input


def assembled(file: Path | Held, options: Options, tell: Tell, path: Path | None = None) -> Model:
    """The model of the artifact in `file`. `tell` returns its settings. `path`: the file's name for the user."""
    path, notes = path or (file.name if isinstance(file, Held) else file), Notes()
    cache = contained = None
    if isinstance(file, Held):
        kind, artifact, sha256 = file.format, file.artifact, file.sha256
    else:
        with edge(path, "opened"):
            if is_named(path):
                found, file = named(path).format, named(path).fetch()
            else:
                found = recognise(file)
            opened = found.load
            if options.limits is not None:
                limits = Limits(options.limits.seconds, options.limits.memory + 10 * file.stat().st_size)
                contained = Contained(file, limits, opened, partial(_capture_in_child, path, options, tell))
                opened = contained.artifact
            cache = Cache(file, opened) if options.cache else None
            artifact = cache.artifact() if cache else opened(file)
            kind, sha256 = found.name, cache.sha256 if cache else digest(file)
    artifact, options, note = _with_note_and_example(path, artifact, options)
    try:
        picture = explained_input(path, artifact, options.inputs)
    except MissingError as error:
        error.opened = kind, artifact
        raise
    settings = _settings(options, artifact, tell(artifact, picture))
    pictures = _pictures(path, picture, settings, options.device, notes)
    capture = _capture(path, artifact, picture, pictures, settings, options, cache, contained)
    network = Network(
        capture=capture,
        path=path,
        device=pictures.device,
        batch_size=picture.shape[0] if picture.shape else None,
        wanted=Wanted(
            axis=settings.output.axis, kind=settings.output.kind, labels=len(settings.labels), head=options.head or 0
        ),
        compiler=_compiler() if options.compiled else None,
        noted=partial(note_graph, notes, path.name, options.head, settings, pictures, note),
    )
    return Model(
        path=path, file=path if isinstance(file, Held) else file, format=kind, sha256=sha256, artifact=artifact,
        network=network, pictures=pictures, capture=capture, settings=settings, notes=notes, explained=note,
    )  # fmt: skip


def _with_note_and_example(path: Path, artifact: Artifact, options: Options) -> tuple[Artifact, Options, Note | None]:
    """Artifact and options with what the artifact's note and an example say of its inputs."""
    note = read_note(path, artifact.note)
    if note is not None:
        artifact = as_explained(artifact, note)
        classes = {name: torch.zeros(1, dtype=torch.int64) for name in note.inputs[1:]}
        options = replace(options, inputs={**classes, **options.inputs})
    if options.axes is None or len(options.axes) > 3:
        artifact = with_batch(artifact)
    if options.pair:
        artifact = side_by_side(path, artifact, options.inputs)
        if not artifact.paired:  # the embedding is what the artifact returns, not a logit before it
            options = replace(options, passes=tuple(name for name in options.passes if name in KEEPING_OUTPUT))
    artifact, inputs = with_example(artifact, options.inputs, options.example)
    return artifact, replace(options, inputs=inputs), note


def _settings(options: Options, artifact: Artifact, given: Settings) -> Settings:
    """The settings, in which the output of a network whose pairs are explained is an embedding."""
    if not options.pair or artifact.paired or given.output.kind is not None:
        return given
    return replace(given, output=replace_fields(given.output, kind=EMBEDDING))


def _pictures(path: Path, picture: InputInfo, settings: Settings, device: str, notes: Notes) -> Pictures:
    """How pictures become the artifact's input."""
    return Pictures(
        path=path, input=settings.input, declared=picture.shape, channels_last=picture.channels_last,
        device=_device(device),
        dtype=picture.dtype if picture.dtype.is_floating_point else torch.get_default_dtype(),
        mean_file=settings.mean_file, max_pixels=settings.max_pixels, say=notes.add,
    )  # fmt: skip


def _capture(
    path: Path, artifact: Artifact, picture: InputInfo, pictures: Pictures, settings: Settings, options: Options,
    cache: Cache | None = None, contained: Contained | None = None,
) -> Capture:  # fmt: skip
    """What captures the artifact's graphs."""
    return Capture(
        path=path, artifact=artifact, picture=picture, others=options.inputs, pictures=pictures,
        passes=_known_passes(options.passes), head=options.head, unverified=options.unverified, memory=options.memory,
        cache=cache, contained=contained, output=settings.output, labels=len(settings.labels),
        walked=tuple(settings.inputs), anchors=settings.anchors,
    )  # fmt: skip


def _capture_in_child(path: Path, options: Options, tell: Tell, artifact: Artifact) -> Callable[..., Any]:
    """The function that captures graphs in the child process, on the CPU."""
    artifact, options, _ = _with_note_and_example(path, artifact, options)
    picture = explained_input(path, artifact, options.inputs)
    settings = _settings(options, artifact, tell(artifact, picture))
    pictures = _pictures(path, picture, settings, "cpu", Notes())
    return _capture(path, artifact, picture, pictures, settings, options).here


def _compiler() -> Compiler:
    """A compiler of walks; the import takes time, so it is done only for `--compile`."""
    from heatcli.engine.compiled import Compiler

    return Compiler()


def _model_path(given: str | Path | None) -> Path:
    """The path of a regular file, or the full name of a network of torchvision. Raises `ModelError`, `UsageError`."""
    if given is not None and is_named(given):
        return named(given).path
    path = default_model() if given is None else Path(given)
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, not a model file")
    if not path.exists():
        way = "; give the file of an artifact: .pt, .onnx or .pt2; torchvision:NAME is a network of torchvision"
        way = "" if path.suffix else way
        raise ModelError(f"{path}: no such model file{way}")
    if not path.is_file():
        raise ModelError(f"{path}: is no regular file; copy the model into one")
    return path


def _known_passes(passes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of passes. Raises `UsageError` for an unknown one."""
    for name in passes:
        if name not in PASSES:
            raise unknown_name("graph pass", name, PASSES)
    return passes


def _device(name: str) -> torch.device:
    """The device of that name. Raises `UsageError` if it is unknown or cannot be used."""
    if name == "auto":
        return torch.device(next((n for n in ("cuda", "mps") if getattr(torch, n).is_available()), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if "device type at start" in str(error):
            raise UsageError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps") from error
        raise UsageError(
            f"device {name!r} cannot be used here: {first_line(error)}; use auto, cpu, cuda or mps"
        ) from error
    return device
