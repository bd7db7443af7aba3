"""Baselines: what the image is compared with.

`none` is no image at all: the bias is blamed. Every other baseline is one, as the network sees it, or for the methods
that average over several a pool of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import ImageError, UsageError, boundary, unknown_name
from heatcli.files import is_folder, is_there
from heatcli.images.mean import read_mean
from heatcli.images.pool import is_pool, read_pool

if TYPE_CHECKING:
    from heatcli.artifact.model import Model
    from heatcli.methods.table import Method


@dataclass(frozen=True, eq=False)
class Reference:
    """A baseline's name, what it was made with, and its tensor [N, C, H, W]; None for `none`.

    `shared`: all images have the same one. `pool` [B, C, H, W]: all images have these, and `batch` is None.
    """

    name: str
    batch: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)
    shared: bool = False
    pool: Tensor | None = None

    def rows(self, index: Tensor) -> Reference:
        """The same baseline for some of the images."""
        return self if self.batch is None else replace(self, batch=self.batch[index])


def read_once(model: Model, method: Method, baseline: str | None) -> str | Reference | None:
    """A baseline that is an image, a folder or an array file, read for any number of batches; others as they are.

    Raises `UsageError` as `reference` does.
    """
    named = baseline is None or baseline == "given" or baseline.partition(":")[0] in BASELINES
    if named or method.baseline is None or not is_there(str(baseline)):
        return baseline
    return _found(model, torch.empty(0), method, str(baseline))


def reference(model: Model, batch: Tensor, method: Method, baseline: str | Tensor | Reference | None) -> Reference:
    """The baseline of that name for `batch` [N, C, H, W], or the method's own if it is None.

    A folder of images, an array file of several or a tensor of several rows is a pool for methods that take one. Raises
    `UsageError` for an unknown name, a file that is none, a tensor that does not fit, or a method to which a baseline
    would mean nothing, or several, or none.
    """
    if baseline is None:
        baseline = method.baseline or "none"
    elif method.baseline is None and not (isinstance(baseline, str) and baseline == "none"):
        raise UsageError(f"method {method.name} compares with nothing, so it takes no baseline")
    found = _found(model, batch, method, baseline)
    _allow(method, found)
    if found.pool is not None:
        return replace(found, pool=_fitting(found.name, found.pool.to(batch), batch))
    if found.batch is None:
        return found
    try:
        tensor = found.batch.to(batch).expand_as(batch).contiguous()
    except RuntimeError as error:
        raise _misfit(found.batch, batch) from error
    tensor = _fitting(found.name, tensor, batch)
    return Reference(found.name, tensor, found.details, shared=found.batch.dim() < batch.dim() or len(found.batch) == 1)


def _found(model: Model, batch: Tensor, method: Method, baseline: str | Tensor | Reference) -> Reference:
    if isinstance(baseline, Reference):
        return baseline
    several = method.procedure.takes in ("pool", "folder")
    if isinstance(baseline, Tensor):
        pool = several and baseline.dim() == batch.dim() and len(baseline) > 1
        return Reference("tensor", pool=baseline) if pool else Reference("tensor", baseline)
    if baseline == "given":
        raise UsageError(f"method {method.name} draws from a folder of images; give --baseline FOLDER")
    if baseline.partition(":")[0] not in BASELINES and is_pool(Path(baseline), model.reader):
        if not several:
            kind = "a directory" if is_folder(baseline) else "a file of several images"
            raise UsageError(f"baseline {baseline}: is {kind}; method {method.name} compares with one image")
        pixels = read_pool(Path(baseline), model.reader, model.fit)
        return Reference("pool", pool=model.stack(pixels), details={"file": baseline, "images": len(pixels)})
    return _named(model, batch, baseline)


def _allow(method: Method, found: Reference) -> None:
    """Raise `UsageError` for a baseline of a sort that the method cannot use."""
    takes = method.procedure.takes
    if takes == "folder" and found.pool is None:
        raise UsageError(f"method {method.name} draws from a folder of images; give --baseline FOLDER")
    if takes in ("one", "pool") and method.baseline is not None and found.name == "none":
        raise UsageError(
            f"method {method.name} compares with an image; give --baseline zero, black, blur, mean or a file"
        )


def _misfit(tensor: Tensor, batch: Tensor) -> UsageError:
    return UsageError(
        f"the baseline has the shape {tuple(tensor.shape)}, which does not fit inputs {tuple(batch.shape)}"
    )


def _fitting(name: str, tensor: Tensor, batch: Tensor) -> Tensor:
    if tensor.shape[1:] != batch.shape[1:]:
        raise _misfit(tensor, batch)
    if not bool(torch.isfinite(tensor).all()):
        raise UsageError(f"the baseline {name} is not finite")
    return tensor


def _none(model: Model, batch: Tensor, argument: str) -> Reference:
    return Reference("none")


def _zero(model: Model, batch: Tensor, argument: str) -> Reference:
    return Reference("zero", torch.zeros_like(batch[:1]))


def _black(model: Model, batch: Tensor, argument: str) -> Reference:
    return Reference("black", model.normalise(torch.zeros_like(batch[:1])))


def _blur(model: Model, batch: Tensor, argument: str) -> Reference:
    sigma = max(batch.shape[-2:]) / 16 if not argument else _positive(argument)
    return Reference("blur", gaussian_blur(batch, sigma), {"sigma": sigma})


def _mean(model: Model, batch: Tensor, argument: str) -> Reference:
    path = Path(argument) if argument else model.mean_file
    if path is None:
        raise UsageError(
            f"{model.path.with_suffix('.toml').name} names no mean image; "
            "give mean:FILE, made by heatcli mean FOLDER -o FILE"
        )
    mean = torch.from_numpy(read_mean(path)).to(batch)
    if mean.shape[0] != batch.shape[1]:
        raise UsageError(f"{path}: the mean image has {mean.shape[0]} channels, the model takes {batch.shape[1]}")
    if mean.shape[-2:] != batch.shape[-2:]:
        mean = functional.interpolate(mean[None], batch.shape[-2:], mode="bilinear", antialias=True)[0]
    return Reference("mean", model.normalise(mean[None]), {"file": str(path)})


def _image(model: Model, path: Path) -> Reference:
    try:
        with boundary(path, ImageError):
            return Reference("image", model.preprocess([model.reader.picture(path)]), {"file": str(path)})
    except ImageError as error:
        raise UsageError(f"baseline {error}") from error


BASELINES: dict[str, Callable[[Model, Tensor, str], Reference]] = {
    "none": _none, "zero": _zero, "black": _black, "blur": _blur, "mean": _mean,
}  # fmt: skip


def _named(model: Model, batch: Tensor, baseline: str) -> Reference:
    name, colon, argument = baseline.partition(":")
    if name in BASELINES and (not colon or (argument and name in ("blur", "mean"))):
        return BASELINES[name](model, batch, argument)
    if is_there(baseline) or "/" in baseline or Path(baseline).suffix:
        return _image(model, Path(baseline))
    raise unknown_name("baseline", baseline, BASELINES, ways="; blur:SIGMA, mean:FILE or an image's path work too")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"blur:{text} is not allowed; the width of the blur is a number of pixels above 0")
    return value


def gaussian_blur(batch: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, C, H, W] with standard deviation `sigma` pixels, edges continued; cut off at 4 sigma."""
    for dim in (-2, -1):
        size = batch.shape[dim]
        radius = math.ceil(4 * sigma)
        position = torch.arange(size, dtype=torch.float64)
        reach = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weights = torch.exp(-((reach / sigma) ** 2) / 2)
        taps = (position[:, None] + reach[None]).clamp(0, size - 1).long()
        matrix = torch.zeros(size, size, dtype=torch.float64)
        matrix.scatter_add_(1, taps, (weights / weights.sum()).expand(size, -1).contiguous())
        batch = torch.movedim(torch.movedim(batch, dim, -1) @ matrix.T.to(batch), -1, dim)
    return batch
