"""A loaded model: the artifact, how images become its input, its labels, and its graph for any input shape."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.artifact.formats import LOADERS, Artifact
from heatcli.artifact.recognise import Format, recognise
from heatcli.artifact.sidecar import Input, Labels, overridden, read_labels, read_sidecar
from heatcli.errors import ModelError, UsageError, first_line, unknown_name
from heatcli.graph.batch import rebatched
from heatcli.graph.capture import capture
from heatcli.graph.operator import Graph
from heatcli.graph.passes import DEFAULT, PASSES

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(eq=False)
class Model:
    """An artifact ready to be explained. `batch_size` is the number of images it takes at once, None for any."""

    path: Path
    format: Format
    sha256: str
    artifact: Artifact
    input: Input
    labels: tuple[str, ...]
    mean_file: Path | None
    device: torch.device
    batch_size: int | None = None
    passes: tuple[str, ...] = DEFAULT
    _graphs: dict[tuple[int, ...], Graph] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its input as (channels, height, width).

        Raises `UsageError`, naming the flag, where nothing says it, `ModelError` where no picture fits it.
        """
        size = self.input.shape
        if size is None:
            raise UsageError(
                f"{self.path}: neither the artifact nor {self.path.with_suffix('.toml').name} says its input size; "
                "give --size HEIGHTxWIDTH"
            )
        channels = self.input.channels or 3
        if channels not in (1, 3):
            raise ModelError(f"{self.path}: takes {channels} channels, and a picture has 1 or 3")
        return (channels, *size)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """Images of any size and mode to the network's input [N, C, H, W], of its dtype, on its device."""
        from heatcli.images.preprocess import to_pixels

        arrays = [to_pixels(image, self.shape, self.input.resize_to) for image in images]
        pixels = torch.stack([torch.from_numpy(array) for array in arrays])
        return self.normalise(pixels.to(self.device)).to(self.artifact.dtype)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels − mean)/std, for pixels [N, C, H, W] in 0..1."""
        mean, std = (self._per_channel(name) for name in ("mean", "std"))
        return (pixels - mean) / std

    def _per_channel(self, name: str) -> Tensor:
        given = getattr(self.input, name)
        values = [given] if isinstance(given, float | int) else list(given)
        channels = self.shape[0]
        if len(values) not in (1, channels):
            raise ModelError(f"{self.path}: {name} has {len(values)} values for an input of {channels} channels")
        return torch.tensor(values, dtype=torch.float32, device=self.device).reshape(1, -1, 1, 1)

    def graph(self, shape: Sequence[int]) -> Graph:
        """The graph for an input of that shape [N, C, H, W]. Raises `ModelError`.

        Two captures serve all batch sizes where the artifact allows it; each other size of picture takes its own.
        """
        key = tuple(shape)
        if key not in self._graphs:
            alike = [graph for known, graph in self._graphs.items() if known[1:] == key[1:]]
            derived = rebatched(alike[0], alike[1], key[0]) if len(alike) > 1 else None
            self._graphs[key] = derived or self._capture(key)
        return self._graphs[key]

    def _capture(self, shape: tuple[int, ...]) -> Graph:
        module = self.artifact.module_for(shape).to(self.device)
        example = torch.zeros(shape, device=self.device, dtype=self.artifact.dtype)
        return capture(module, example, self.artifact.names(module), str(self.path), self.passes)

    def fixed_batch(self, shape: Sequence[int]) -> int | None:
        """How many images it takes at once for inputs of that shape; None for any number. Tried once, then known."""
        n, *rest = shape
        if self.batch_size is None and n != 1:
            try:
                graph = self.graph(shape)
                if graph.output_shape[:1] == (n,):
                    return None
            except ModelError:
                pass
            self.graph((1, *rest))  # raises if that fails too: then it is not the batch size
            self.batch_size = 1
        return self.batch_size

    def label(self, index: int) -> str | None:
        """The name of class `index`, None where the model has no labels."""
        return self.labels[index] if index < len(self.labels) else None


def default_model() -> Path:
    """The embedded model: beside the package's code when installed, in `models/` in a checkout."""
    packaged = Path(str(resources.files("heatcli") / "models" / "animals.pt"))
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "models" / "animals.pt"


def load(path: str | Path | None = None, device: str = "cpu", passes: Iterable[str] = DEFAULT, **flags: Any) -> Model:
    """Load a TorchScript, ONNX or torch.export artifact; None is the embedded animals model.

    `passes` names the graph passes that its graph goes through (`heatcli.graph.passes.PASSES`).
    `flags` override the sidecar's `[input]`: size, channels, mean, std, resize; `labels` names a file of labels.
    Raises `ModelError` if the artifact cannot be used, `UsageError` for a flag that makes no sense.
    """
    path = Path(path) if path is not None else default_model()
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, not a model file")
    if not path.exists():
        raise ModelError(f"{path}: no such model file")
    kind = recognise(path)
    artifact = LOADERS[kind](path)
    sidecar = read_sidecar(path, artifact.embedded)
    labels_file = flags.pop("labels", None)
    said = _said_by(artifact)
    given = overridden(overridden(sidecar.input, said if sidecar.input.size is None else {}), flags)
    if given.channels is None:
        given = overridden(given, {"channels": said.get("channels")})
    chosen = _device(device)
    chosen_labels = sidecar.labels if labels_file is None else Labels(file=str(Path(labels_file).absolute()))
    return Model(
        path=path,
        format=kind,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        artifact=artifact,
        input=given,
        labels=read_labels(path, chosen_labels),
        mean_file=path.parent / sidecar.baseline.mean if sidecar.baseline.mean else None,
        device=chosen,
        batch_size=artifact.shape[0] if artifact.shape else None,
        passes=_known(passes),
    )


def _known(passes: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(passes)
    for name in chosen:
        if name not in PASSES:
            raise unknown_name("graph pass", name, PASSES)
    return chosen


def _said_by(artifact: Artifact) -> dict[str, Any]:
    """What the artifact's own input shape [N, C, H, W] says of size and channels."""
    shape = artifact.shape
    if shape is None or len(shape) != 4:
        return {}
    _, channels, height, width = shape
    return {"channels": channels, "size": (height, width) if height and width else None}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {first_line(error)}; use auto, cpu or cuda") from error
    return device
