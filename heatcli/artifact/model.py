"""A loaded model: the artifact, how images become its input, its labels, and its graph for any input shape."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.cache import Cache
from heatcli.artifact.contained import Contained
from heatcli.artifact.edge import edge
from heatcli.artifact.notes import Notes
from heatcli.artifact.onnx import load_onnx
from heatcli.artifact.preprocessing import checked, told_by, unknown
from heatcli.artifact.presets import preset
from heatcli.artifact.pt2 import load_pt2
from heatcli.artifact.recognise import ONNX, PT2, TORCHSCRIPT, Format, recognise
from heatcli.artifact.sandbox import AVAILABLE, MEMORY, SECONDS, Limits
from heatcli.artifact.sidecar import Input, Labels, Output, overridden, read_labels, read_sidecar
from heatcli.artifact.torchscript import load_torchscript
from heatcli.artifact.verification import QUANTISED, first_difference, verify
from heatcli.compiled import CompiledTape, Compiler
from heatcli.errors import (
    DiffersError,
    ImageError,
    ModelError,
    NotComparedError,
    UsageError,
    boundary,
    first_line,
    unknown_name,
)
from heatcli.files import digest
from heatcli.graph.batch import rebatched
from heatcli.graph.capture import record, scores
from heatcli.graph.kinds import FIRST
from heatcli.graph.operator import Graph, Verified
from heatcli.graph.outputs import Wanted, read
from heatcli.graph.passes import DEFAULT, KEEPING_OUTPUT, PASSES, apply
from heatcli.memory import is_out_of_memory
from heatcli.rules.base import Table
from heatcli.walk import Tape, forward, values_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from heatcli.images.baselines import Reference
    from heatcli.images.preprocess import Fit
    from heatcli.images.read import Picture, Pixels, Reader

LOADERS: dict[Format, Callable[[Path], Artifact]] = {
    TORCHSCRIPT: load_torchscript,
    ONNX: load_onnx,
    PT2: load_pt2,
}


@dataclass(eq=False)
class Model:
    """An artifact ready to be explained.

    `picture` is the input that is explained, `others` are the values of the rest. `batch_size` is the number of images
    it takes at once, None for any. `unverified`: whether graphs that compute something else than the artifact are let
    by. `cache`: where its graphs are kept, None for nowhere. `contained`: the child process that captures them, None
    for this one. `memory`: bytes that one value of its graphs may take. `compiler`: of walks that come back, or None.
    `max_pixels`: of the largest picture that is read, None for the default (`heatcli.images.read.MAX_PIXELS`).
    `sample`: the first input that was explained, [1, …], which graphs are verified on. `output`: what the user says of
    the explained output, number `head` (None: nobody chose, so the first). `told_by`: who said how a picture becomes
    the input; "" for nobody. `compared_in`: seconds that comparisons with the artifact's runtime took. `notes`: what a
    user should know.
    """

    path: Path
    format: Format
    sha256: str
    artifact: Artifact
    picture: InputInfo
    others: Mapping[str, Tensor]
    input: Input
    labels: tuple[str, ...]
    mean_file: Path | None
    device: torch.device
    background: tuple[float, ...] = ()
    max_pixels: int | None = None
    batch_size: int | None = None
    passes: tuple[str, ...] = DEFAULT
    head: int | None = None
    unverified: bool = False
    output: Output = field(default_factory=Output)
    told_by: str = ""
    notes: Notes = field(default_factory=Notes, repr=False)
    cache: Cache | None = None
    contained: Contained | None = None
    memory: int = MEMORY
    compiler: Compiler | None = None
    sample: Tensor | None = field(default=None, repr=False)
    compared_in: float = 0.0
    _graphs: dict[tuple[int, ...], Graph] = field(default_factory=dict, repr=False)
    _lock: RLock = field(default_factory=RLock, repr=False)  # threads may ask for graphs at the same time
    _pictures: bool = field(default=False, repr=False)  # whether it was given any
    _remarked: bool = field(default=False, repr=False)
    _shared: tuple[Tensor | None, Mapping[str, Tensor]] = field(default=(None, {}), repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its input as (channels, height, width). Raises `UsageError`, naming the flag, where nothing says it."""
        size = self.input.shape
        if self.alphabet:
            raise UsageError(f"{self.path}: reads sequences of {self.alphabet}, and this is for pictures")
        if size is None:
            raise UsageError(
                f"{self.path}: neither the artifact nor {self.path.with_suffix('.toml').name} says its input size; "
                "give --size HEIGHTxWIDTH"
            )
        return (self.input.channels or 3, *size)

    @property
    def alphabet(self) -> str:
        """The letters that are its channels, in order, where it reads sequences; else empty."""
        shape = self.picture.shape
        return self.input.alphabet or ("ACGT" if shape is not None and len(shape) == 3 and shape[1] == 4 else "")

    @property
    def length(self) -> int | None:
        """How long the sequences are that it reads; None for any length."""
        shape = self.picture.shape
        own = shape[2] if shape is not None and len(shape) == 3 else None
        return own or self.input.length or None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input without the batch: (channels, height, width), or (letters, length) of a sequence.

        A sequence of any length counts as 100 letters. Raises `UsageError` where nothing says the size of a picture.
        """
        return (len(self.alphabet), self.length or 100) if self.alphabet else self.shape

    @property
    def fit(self) -> Fit:
        """How pictures are made to fit its input."""
        from heatcli.images.preprocess import Fit

        return Fit(*self.shape, self.input.resize_to, self.input.interpolation)

    @property
    def reader(self) -> Reader:
        """What reads pictures for it; what that has to guess goes to the notes."""
        from heatcli.images.read import MAX_PIXELS, Reader

        most = MAX_PIXELS if self.max_pixels is None else self.max_pixels
        return Reader(self.shape[0], self.input.range or "", self.notes.add, most)

    def preprocess(self, images: Sequence[Picture | Image | NDArray[Any]]) -> Tensor:
        """Pictures as the command line reads them, to the network's input [N, C, H, W].

        Pillow images of any size and mode, or arrays [C, H, W], [H, W, C] or [H, W] of any dtype, such as uint8. Of the
        network's dtype, on the model's device. Raises `ImageError` for an array that does not fit.
        """
        from heatcli.images.preprocess import to_pixels
        from heatcli.images.read import Picture

        reader, fit, arrays = self.reader, self.fit, []
        for one in images:
            named = one.path if isinstance(one, Picture) else "the picture"
            with boundary(named, ImageError, "cannot be made to fit the input"):
                arrays.append(to_pixels(one.pixels if isinstance(one, Picture) else reader.ready(named, one), fit))
        return self.stack(arrays)

    def fitted(self, pixels: Sequence[Pixels]) -> Tensor:
        """Pictures as a reader has read them, of any size, to the network's input [N, C, H, W]."""
        from heatcli.images.preprocess import to_pixels

        return self.stack([to_pixels(one, self.fit) for one in pixels])

    def stack(self, arrays: Sequence[NDArray[np.float32]]) -> Tensor:
        """Pictures that fit already, float32 [C, H, W] in 0..1, to the network's input [N, C, H, W]."""
        self._pictures = True
        pixels = torch.stack([torch.from_numpy(array) for array in arrays])
        return self.normalise(pixels.to(self.device)).to(self.picture.dtype)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels − mean)/std, for pixels [N, C, H, W] in 0..1, its channels in the order that the network takes."""
        mean, std = (self._per_channel(name) for name in ("mean", "std"))
        return self._ordered((pixels - mean) / std)

    def pixels(self, batch: Tensor) -> Tensor:
        """Its input [N, C, H, W] back as pixels, in 0..1 where it came from a picture: batch·std + mean."""
        mean, std = (self._per_channel(name) for name in ("mean", "std"))
        return self._ordered(batch) * std + mean

    def _ordered(self, channels: Tensor) -> Tensor:
        """Red, green, blue as blue, green, red, and back, where the network takes them so."""
        return channels.flip(1) if self.input.order == "bgr" else channels

    def _per_channel(self, name: str) -> Tensor:
        given = getattr(self.input, name)
        values = [given] if isinstance(given, float | int) else list(given)
        channels = self.shape[0]
        if len(values) not in (1, channels):
            raise ModelError(f"{self.path}: {name} has {len(values)} values for an input of {channels} channels")
        return torch.tensor(values, dtype=torch.float32, device=self.device).reshape(1, -1, 1, 1)

    def graph(self, shape: Sequence[int]) -> Graph:
        """The graph for an input of that shape [N, C, H, W]. Raises `ModelError`.

        Two captures, of one image and of two, serve all batch sizes where the artifact allows it, and take little
        memory; each other size of picture takes its own.
        """
        key = tuple(shape)
        with self._lock, edge(self.path, "captured"):
            if key not in self._graphs:
                self._graphs[key] = self._derived(key) or self._read(self._cached(key))
            if not self._remarked:
                self._remarked = True
                self._remark(self._graphs[key])
        return self._graphs[key]

    def _read(self, graph: Graph) -> Graph:
        """The graph with its output as [N, classes, …]."""
        n, *rest = graph.input_shape
        one = None
        if n > 1 and self.batch_size is None and graph.output_shape.count(n) > 1:
            with contextlib.suppress(ModelError):  # one image alone may be none that it takes
                one = self.graph((1, *rest)).returned[self.head or 0].shape
        return read(graph, Wanted(self.output.axis, self.output.kind, len(self.labels)), one)

    def _remark(self, graph: Graph) -> None:
        """Note what the first graph shows."""
        name, reading, heads = self.path.name, graph.reading, graph.returned
        for remark in graph.remarks:
            self.notes.add(f"{name} {remark}")
        if graph.verified is not None and not graph.verified.agrees:
            self.notes.add(
                f"{name} is explained unverified: the graph's output is {graph.verified.error:.2g} of the largest off "
                f"what {graph.verified.against} says"
            )
        if self.head is None and len(heads) > 1:
            shapes = ", ".join(f"{i} {list(head.shape)}" for i, head in enumerate(heads))
            self.notes.add(f"{name} returns {len(heads)} outputs ({shapes}); the first is explained, --head says which")
        if self.labels and reading is not None and not reading.unclear and reading.classes != len(self.labels):
            self.notes.add(
                f"{name} has {reading.classes:,} class{'es' if reading.classes > 1 else ''}, and there are "
                f"{len(self.labels):,} labels; check --labels"
            )
        if self._pictures and not self.told_by and not self.alphabet:
            self.notes.add(unknown(graph, name, self.input))

    def _derived(self, shape: tuple[int, ...]) -> Graph | None:
        """The graph for a batch from those for one image and for two; None where only a capture can tell."""
        n, *rest = shape
        if n < 3 or self.batch_size is not None:
            return None
        try:
            one = self.graph((1, *rest))
            return None if one.guards else rebatched(one, self.graph((2, *rest)), n)
        except ModelError:  # not a number of images that it takes
            return None

    def _cached(self, shape: tuple[int, ...]) -> Graph:
        if self.cache is None:
            return self._recorded(shape)
        others = {name: (tuple(value.shape), str(value.dtype), _sha256(value)) for name, value in self.others.items()}
        about = {
            "shape": shape, "others": others, "passes": self.passes, "head": self.head or 0, "device": str(self.device),
            "dtype": str(torch.get_default_dtype()),
        }  # fmt: skip
        return self.cache.graph(about, lambda: self._recorded(shape))

    def _recorded(self, shape: tuple[int, ...], example: Tensor | None = None) -> Graph:
        """The graph as `capture` yields it, from the child process where there is one.

        The child has no GPU: there it shows that the artifact does no harm, and the graph is captured here. So it is
        where the graph holds what has no stored form.
        """
        graph = None
        if self.contained is not None:
            graph, seconds = self.contained.graph(shape, example, self.sample)
            self.compared_in += seconds
            if self.cache is not None:
                self.cache.check_unchanged()
        if graph is None or self.device.type != "cpu":
            graph = self.capture(shape, example)
        return graph

    def capture(self, shape: tuple[int, ...], example: Tensor | None = None) -> Graph:
        """The graph as captured on `example`, by default on noise, and compared with the artifact. Raises `ModelError`.

        An artifact that decides by its picture is captured on `sample`, the picture explained, where there is one.
        """
        given = self._given(shape[0])
        last = self.picture.channels_last

        def inputs(x: Tensor) -> list[Tensor]:
            """A batch and all other inputs, in the artifact's order."""
            own = x.permute(0, 2, 3, 1) if last else x
            return [own if i is self.picture else given[i.name] for i in self.artifact.inputs]

        def recorded(x: Tensor) -> Graph:
            """The graph, captured on `x`."""
            values = inputs(x)
            shapes = {i.name: tuple(v.shape) for i, v in zip(self.artifact.inputs, values, strict=True)}
            module = self.artifact.module_for(shapes).to(self.device)
            names = {**self.artifact.names(module), **given}
            return record(lambda y: module(*inputs(y)), x, names, str(self.path), self.head or 0)

        noise = self._noise(shape, 0) if example is None else example
        graph = recorded(noise)
        if graph.guards and example is None and self.sample is not None:
            noise = self.sample.expand(shape)
            graph = recorded(noise)
        batches = [noise] if graph.guards else [self._noise(shape, 1)]
        if self.sample is not None and self.sample.shape[1:] == shape[1:] and not graph.guards:
            batches.append(self.sample.expand(shape))
        try:
            verified, remarks = self._verified(graph, batches, inputs, recorded), graph.remarks
        except NotComparedError as error:
            verified, remarks = None, (*graph.remarks, f"is not compared with what is deployed: {error}")
        graph = replace(apply(graph, self.passes), verified=verified, remarks=remarks)
        for op in graph.operators:
            if (size := math.prod(op.shape) * op.dtype.itemsize) > self.memory:
                raise ModelError(
                    f"{self.path}: its operator {op.name} makes a value of {size / (1 << 30):.3g} GiB; if its source "
                    "is trusted, --max-memory allows more"
                )
        return graph

    def _verified(
        self, graph: Graph, batches: Sequence[Tensor], inputs: Callable[[Tensor], list[Tensor]],
        recorded: Callable[[Tensor], Graph],
    ) -> Verified | None:  # fmt: skip
        """How a graph, as captured, compares with the artifact; None where the artifact has no runtime.

        Raises `DiffersError` where it is another function, `NotComparedError` where its runtime cannot run it.
        """
        runtime = self.artifact.runtime
        if runtime is None:
            return None
        checked = apply(graph, [name for name in self.passes if name in KEEPING_OUTPUT])

        def run(x: Tensor) -> Tensor:
            """The explained output, as the artifact has it."""
            return scores(runtime(inputs(x)), self.head or 0, str(self.path))

        started = time.perf_counter()
        tolerance = QUANTISED if "dequantise" in self.artifact.rewrites else None
        try:
            verified = verify(checked, run, batches, self.artifact.against, tolerance)
        except NotComparedError:
            raise
        except (RuntimeError, ModelError) as error:
            raise ModelError(f"{self.path}: {first_line(error).removeprefix(f'{self.path}: ')}") from error
        self.compared_in += time.perf_counter() - started
        if verified.agrees or self.unverified:
            return verified
        batch = batches[-1]
        place = self.artifact.differs(inputs(batch)) if self.artifact.differs is not None else None
        place = place or first_difference(graph, recorded, batch)
        raise DiffersError(
            f"{self.path}: what heatcli makes of it is another function: an output is off what {verified.against} says "
            f"by {verified.error:.2g} of the largest, first at {place}; --unverified goes on, and every report says so"
        )

    def _given(self, n: int) -> dict[str, Tensor]:
        """The values of all inputs but the picture, for n images."""
        return {name: _for_batch(value, n).to(self.device) for name, value in self.others.items()}

    def _noise(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Inputs of that shape as random pictures or sequences have them, the same for one seed."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(shape, generator=generator)
        if self.alphabet:
            values = torch.nn.functional.one_hot(values.argmax(1), shape[1]).movedim(-1, 1).float()
        elif len(shape) == 4:
            values = self.normalise(values.to(self.device))
        return values.to(self.device, self.picture.dtype)

    def recapture(self, batch: Tensor) -> None:
        """Capture the graph for a batch [1, …] on that batch, for an artifact that decides by its picture."""
        with self._lock, edge(self.path, "captured"):
            self._graphs[tuple(batch.shape)] = self._read(self._recorded(tuple(batch.shape), batch))

    def forward(
        self, batch: Tensor, rules: Table, baseline: Tensor | Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (), compiled: bool = True,
    ) -> Tape | CompiledTape:  # fmt: skip
        """A forward run on a batch [N, …] for a walk by `rules`, as `heatcli.walk.forward` says.

        By machine code where the model compiles, it is allowed, nothing is kept, and such a run was asked for before.
        """
        graph = self.graph(batch.shape)
        ends = self.pixel_range(batch) if FIRST in rules and batch.dim() == 4 else None
        if self.compiler is not None and compiled and not keep:
            found = self.compiler.forward(graph, batch, rules, baseline, ends)
            if found is not None:
                return found
        tape = forward(graph, batch, baseline, rules=rules, keep=keep)
        if ends is not None:
            tape.bound(*ends)
        return tape

    def reference_values(self, reference: Reference) -> Tensor | Mapping[str, Tensor] | None:
        """What a forward run takes as its baseline: the reference itself, or where all images share it, every value.

        Those are computed on one image, and again only when the baseline changes.
        """
        if reference.batch is None or not reference.shared or self.batch_size not in (None, 1):
            return reference.batch
        row = reference.batch[:1]
        known, values = self._shared
        if known is None or known.shape != row.shape or not torch.equal(known, row):
            one, whole = self.graph(row.shape), self.graph(reference.batch.shape)
            alike = [op.name for op in one.operators] == [op.name for op in whole.operators]
            values = values_of(one, row) if alike else {}
            self._shared = (row, values)
        return values or reference.batch

    def pixel_range(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest input that a picture can become, each [1, C, 1, 1] for a batch [N, C, H, W].

        Raises `UsageError` for inputs that are no pictures.
        """
        if batch.dim() != 4:
            raise UsageError(f"{self.path}: its input {tuple(batch.shape)} is no picture, so pixels have no range")
        ends = (self.normalise(torch.full_like(batch[:1, :, :1, :1], value)) for value in (0.0, 1.0))
        low, high = (end.to(batch.dtype) for end in ends)
        return torch.minimum(low, high), torch.maximum(low, high)

    def fixed_batch(self, shape: Sequence[int]) -> int | None:
        """How many images it takes at once for inputs of that shape; None for any number. Tried once, then known.

        One, too, where operators lay the images of a batch side by side (windows, patches), so that what they book
        could not be told apart; where it takes no single image, as many as in `shape`.
        """
        n, *rest = shape
        if self.batch_size is None and n != 1:
            graph = None
            try:
                graph = self.graph(shape)
                if graph.keeps_images_apart and not graph.guards:
                    return None
            except DiffersError:
                raise
            except ModelError as error:
                if is_out_of_memory(error):  # which says nothing of the batch size
                    raise
            size = 1
            try:
                self.graph((1, *rest))
            except DiffersError:
                raise
            except ModelError:
                if graph is None:  # then it is not the batch size
                    raise
                size = n
            self.batch_size = size
        return self.batch_size

    def parts(self, shape: Sequence[int], most: int | None = None, alone: bool = False) -> Iterator[tuple[Tensor, int]]:
        """How inputs of that shape [M, …] go through the network: indices, int64, and how many of these count.

        At most `most` go together, by default all. Where the artifact takes a fixed number, the last one is repeated to
        fill it; `alone`: each one is.
        """
        count, *rest = shape
        size = most or count
        fixed = self.fixed_batch((min(size, count), *rest))
        step = 1 if alone else fixed or size
        for start in range(0, count, step):
            n = min(step, count - start)
            index = torch.arange(start, start + (fixed or n), device=self.device)
            yield index.clamp(max=start + n - 1), n

    def label(self, index: int) -> str | None:
        """The name of class `index`, None where the model has no labels."""
        return self.labels[index] if index < len(self.labels) else None


def default_model() -> Path:
    """The embedded model: beside the package's code when installed, in `models/` in a checkout."""
    packaged = Path(str(resources.files("heatcli") / "models" / "animals.pt"))
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "models" / "animals.pt"


def load(
    path: str | Path | None = None,
    device: str = "cpu",
    passes: Iterable[str] = DEFAULT,
    inputs: Mapping[str, Tensor] | None = None,
    head: int | None = None,
    cache: bool = False,
    compiled: bool = False,
    class_axis: int | None = None,
    unverified: bool = False,
    sandbox: bool = False,
    max_seconds: float = SECONDS,
    max_memory: int = MEMORY,
    **flags: Any,
) -> Model:
    """Load a TorchScript, ONNX or torch.export artifact; None is the embedded animals model.

    `passes` names the graph passes that its graph goes through (`heatcli.graph.passes.PASSES`). `inputs`: values of
    all inputs but the picture, [1, …] or [N, …], where the artifact takes several. `head`: which of its floating-point
    outputs is explained, where it returns several, from 0. `class_axis`: the axis of the classes in it. `cache`:
    whether its graphs are kept in the user's cache folder, and taken from there (`heatcli.artifact.cache`).
    `compiled`: whether walks that come back are compiled (`heatcli.compiled`). `unverified`: whether a graph
    that computes something else than the artifact on its own runtime is explained nevertheless
    (`heatcli.artifact.verification`). `sandbox`: whether the artifact is opened and captured in a child process, in at
    most `max_seconds` for opening and for each capture, and with at most `max_memory` bytes beside ten times the size
    of the file (`heatcli.artifact.sandbox`). `flags` override the sidecar's
    `[input]`: size, channels, mean, std, resize, interpolation, order, range; `preset` names several of them
    (`heatcli.artifact.presets`), `labels` a file of labels, `max_pixels` the largest picture that is read. Raises
    `ModelError` if the artifact cannot be used, `UsageError` for a flag that makes no sense.
    """
    path = Path(path) if path is not None else default_model()
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, not a model file")
    if not path.exists():
        raise ModelError(f"{path}: no such model file")
    if not path.is_file():
        raise ModelError(f"{path}: is no regular file; copy the model into one")
    if sandbox and not AVAILABLE:
        raise UsageError("a model can be opened in a child process with limits on Linux only; leave --sandbox out")
    labels_file, named, max_pixels = (flags.pop(name, None) for name in ("labels", "preset", "max_pixels"))
    if max_pixels is not None and max_pixels < 1:
        raise UsageError(f"--max-pixels {max_pixels} is not allowed; it is at least 1")

    def made(artifact: Artifact, known: Cache | None, contained: Contained | None, device: str) -> Model:
        """The model of an opened artifact."""
        picture = _picture(path, artifact, inputs or {})
        sidecar = read_sidecar(path, artifact.embedded)
        own = sidecar.input or Input()
        said = {name: value for name, value in _said_by(picture).items() if getattr(own, name) is None}
        chosen_labels = sidecar.labels if labels_file is None else Labels(file=str(Path(labels_file).absolute()))
        spec = overridden(overridden(overridden(own, said), preset(named) if named else {}), flags)
        checked(spec, path, flags)
        return Model(
            path=path,
            format=kind,
            sha256=known.sha256 if known else digest(path),
            artifact=artifact,
            picture=picture,
            others=dict(inputs or {}),
            input=spec,
            labels=read_labels(path, chosen_labels),
            mean_file=path.parent / sidecar.baseline.mean if sidecar.baseline.mean else None,
            device=_device(device),
            background=sidecar.baseline.background,
            max_pixels=max_pixels,
            batch_size=picture.shape[0] if picture.shape else None,
            passes=_known(passes),
            head=head,
            unverified=unverified,
            output=sidecar.output if class_axis is None else Output(axis=class_axis, kind=sidecar.output.kind),
            told_by=told_by(path, sidecar, named, flags),
            cache=known,
            contained=contained,
            memory=max_memory,
            compiler=Compiler() if compiled else None,
        )

    with edge(path, "opened"):
        kind = recognise(path)
        loader = LOADERS[kind]
        contained = None
        if sandbox:
            limits = Limits(max_seconds, max_memory + 10 * path.stat().st_size)
            contained = Contained(path, limits, loader, lambda artifact: made(artifact, None, None, "cpu"))
            loader = contained.artifact
        known = Cache(path, loader) if cache else None
        artifact = known.artifact() if known else loader(path)
    model = made(artifact, known, contained, device)
    for remark in artifact.remarks:
        model.notes.add(f"{path.name} {remark}")
    for name, count in Counter(model.labels).items():
        if count > 1:
            first, second, *_ = (i for i, label in enumerate(model.labels) if label == name)
            model.notes.add(f"the label {name!r} is that of classes {first} and {second}; a target names them by index")
    return model


def _picture(path: Path, artifact: Artifact, given: Mapping[str, Tensor]) -> InputInfo:
    """The input that is explained: the only one whose value is not given."""
    names = [i.name for i in artifact.inputs]
    for name in given:
        if name not in names:
            raise unknown_name(f"input of {path.name}", name, names)
    left = [i for i in artifact.inputs if i.name not in given]
    if len(left) != 1:
        raise UsageError(
            f"{path}: takes {len(names)} inputs ({', '.join(names)}); "
            "give all but the picture, each with --input NAME=FILE.npy"
        )
    if not left[0].dtype.is_floating_point:
        raise ModelError(f"{path}: its input {left[0].name} is of {left[0].dtype}, not floating-point pixels")
    return left[0]


def _for_batch(value: Tensor, n: int) -> Tensor:
    """A value [1, …] repeated for n images; others stay as they are."""
    return value.expand(n, *value.shape[1:]).contiguous() if value.dim() and value.shape[0] == 1 else value


def _sha256(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _known(passes: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(passes)
    for name in chosen:
        if name not in PASSES:
            raise unknown_name("graph pass", name, PASSES)
    return chosen


def _said_by(picture: InputInfo) -> dict[str, Any]:
    """What the input's own shape says of size and channels."""
    shape = picture.shape
    if shape is None or len(shape) != 4:
        return {}
    _, height, width, channels = shape if picture.channels_last else (shape[0], shape[2], shape[3], shape[1])
    return {"channels": channels, "size": (height, width) if height and width else None}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device(next((n for n in ("cuda", "mps") if getattr(torch, n).is_available()), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used here: {first_line(error)}; use auto, cpu, cuda or mps"
        ) from error
    return device
