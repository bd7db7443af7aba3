"""Baselines: what the image is compared with.

`none` is no image: biases take the operators' output at zero input. Every other baseline is an image, as the network
reads it, or a pool of images for methods that average over several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.layout import TABLE, TOKENS
from heatcli.errors import HeatcliError, ImageError, UsageError, boundary, unknown_name
from heatcli.images.mean import read_mean
from heatcli.images.pictures import Pictures
from heatcli.images.pool import is_pool, read_pool
from heatcli.system.files import is_folder, is_there


@dataclass(frozen=True, eq=False)
class Reference:
    """A baseline's name, its parameters, and its tensor [N, C, H, W]; None for `none`.

    `shared`: all images have the same baseline. `pool` [B, C, H, W]: all images use each of these, and `batch` is None.
    """

    name: str
    batch: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)
    shared: bool = False
    pool: Tensor | None = None

    def rows(self, index: Tensor) -> Reference:
        """The baseline for the images `index`, int64 [M]."""
        return self if self.batch is None else replace(self, batch=self.batch[index])


def beside(one: Reference, other: Reference) -> Reference:
    """The baseline of pictures side by side, from the baselines of the left and the right ones."""

    def joined(left: Tensor | None, right: Tensor | None) -> Tensor | None:
        return None if left is None or right is None else torch.cat([left, right], 3)

    return replace(
        one, batch=joined(one.batch, other.batch), pool=joined(one.pool, other.pool), shared=one.shared and other.shared
    )


def is_named(baseline: str) -> bool:
    """Whether the baseline is one of `BASELINES`, rather than a file or folder."""
    return baseline.partition(":")[0] in BASELINES


def several_in(baseline: str, pictures: Pictures) -> str:
    """What kind of pool `baseline` names: "a directory" or "a file of several images"; "" if it names no pool."""
    if is_named(baseline) or not is_pool(Path(baseline), pictures.reader):
        return ""
    return "a directory" if is_folder(baseline) else "a file of several images"


def read_several(baseline: str, pictures: Pictures) -> Reference:
    """The images of a folder or an array file as a pool. Raises `UsageError`."""
    pixels = read_pool(Path(baseline), pictures.reader, pictures.fit)
    return Reference("pool", pool=pictures.stack(pixels), details={"file": baseline, "images": len(pixels)})


def read(baseline: str, pictures: Pictures, batch: Tensor) -> Reference:
    """One of `BASELINES` for `batch` [N, C, H, W], or the image in a file. Raises `UsageError`, `ImageError`."""
    name, colon, argument = baseline.partition(":")
    if pictures.layout.kind == TOKENS and baseline.isdecimal():
        return Reference("token", torch.full_like(batch[:1], float(baseline)), {"token": int(baseline)})
    if name in BASELINES and (not colon or (argument and name in ("blur", "mean"))):
        return BASELINES[name](pictures, batch, argument)
    if is_there(baseline) or "/" in baseline or Path(baseline).suffix:
        return _image(pictures, Path(baseline))
    raise unknown_name("baseline", baseline, BASELINES, ways="; blur:SIGMA, mean:FILE or an image's path work too")


def fitted(reference: Reference, batch: Tensor) -> Reference:
    """The baseline with the dtype and device of `batch` [N, …], one row an image.

    Raises `UsageError`; `ImageError` for a file of another size than the images, since others may have that size.
    """
    if reference.pool is not None:
        return replace(reference, pool=_fitting(reference, reference.pool.to(batch), batch))
    if reference.batch is None:
        return reference
    try:
        tensor = reference.batch.to(batch).expand_as(batch).contiguous()
    except RuntimeError as error:
        raise _misfit(reference, reference.batch, batch) from error
    tensor = _fitting(reference, tensor, batch)
    shared = reference.batch.dim() < batch.dim() or len(reference.batch) == 1
    return replace(reference, batch=tensor, shared=shared)


def _misfit(reference: Reference, tensor: Tensor, batch: Tensor) -> HeatcliError:
    """The error for a baseline of another shape."""
    file, (own, wanted) = reference.details.get("file"), ("×".join(map(str, t.shape[1:])) for t in (tensor, batch))
    if file is not None:
        return ImageError(
            f"is {wanted} as input, and the baseline {file} is {own}; give one of that size or, as zero, of any size"
        )
    return UsageError(
        f"the baseline has the shape {tuple(tensor.shape)}, which does not fit inputs {tuple(batch.shape)}"
    )


def _fitting(reference: Reference, tensor: Tensor, batch: Tensor) -> Tensor:
    """The baseline, if it has the shape of the inputs and is finite. Raises `UsageError`, `ImageError`."""
    if tensor.shape[1:] != batch.shape[1:]:
        raise _misfit(reference, tensor, batch)
    if not bool(torch.isfinite(tensor).all()):
        if not bool(torch.isfinite(batch).all()):  # the picture's fault, not the command's
            raise ImageError("is not finite as the network's input; its values are too large")
        raise UsageError(f"the baseline {reference.name} is not finite")
    return tensor


def _none(pictures: Pictures, batch: Tensor, argument: str) -> Reference:
    return Reference("none")


def _zero(pictures: Pictures, batch: Tensor, argument: str) -> Reference:
    return Reference("zero", torch.zeros_like(batch[:1]))


def _black(pictures: Pictures, batch: Tensor, argument: str) -> Reference:
    return Reference("black", pictures.normalise(torch.zeros_like(batch[:1])))


def _blur(pictures: Pictures, batch: Tensor, argument: str) -> Reference:
    """Each image, blurred; by default by a sixteenth of its longest side. Raises `UsageError` for tables."""
    layout = pictures.layout_of(batch)
    if layout.kind == TABLE:
        raise UsageError(f"{pictures.path}: a table has no neighbours to blur; give --baseline mean, zero or a file")
    if pictures.layout.kind == TOKENS:
        raise UsageError(f"{pictures.path}: nothing is between tokens; give --baseline a token, such as 0, or a file")
    planes = layout.first(batch)
    sigma = max(planes.shape[2:]) / 16 if not argument else _positive(argument)
    return Reference("blur", layout.back(gaussian_blur(planes, sigma)).contiguous(), {"sigma": sigma})


def _mean(pictures: Pictures, batch: Tensor, argument: str) -> Reference:
    """The mean image of the sidecar, or of the file `argument`. Raises `UsageError`."""
    path = Path(argument) if argument else pictures.mean_file
    if path is None:
        raise UsageError(
            f"{pictures.path}: its sidecar names no mean image; give mean:FILE, made by heatcli mean FOLDER -o FILE"
        )
    if pictures.layout.kind == TOKENS:
        raise UsageError(f"{pictures.path}: tokens have no mean; give --baseline a token, such as 0, or a file")
    mean, layout = torch.from_numpy(read_mean(path)).to(batch), pictures.layout_of(batch)
    wanted = layout.first(batch).shape[1:]
    if mean.shape[0] != wanted[0]:
        raise UsageError(f"{path}: the mean image has {mean.shape[0]} channels, the model takes {wanted[0]}")
    if mean.dim() == 3 == len(wanted) and mean.shape != wanted:
        mean = functional.interpolate(mean[None], wanted[1:], mode="bilinear", antialias=True)[0]
    return Reference("mean", pictures.normalise(layout.back(mean[None])), {"file": str(path)})


def _image(pictures: Pictures, path: Path) -> Reference:
    """The image in a file. Raises `UsageError`."""
    try:
        with boundary(path, ImageError):
            return Reference("image", pictures.preprocess([pictures.reader.picture(path)]), {"file": str(path)})
    except ImageError as error:
        raise UsageError(f"baseline {error}") from error


_DENSE = 4096  # positions up to which a blur is a product with a matrix
BASELINES: dict[str, Callable[[Pictures, Tensor, str], Reference]] = {
    "none": _none, "zero": _zero, "black": _black, "blur": _blur, "mean": _mean,
}  # fmt: skip


def _positive(text: str) -> float:
    """The number in `blur:SIGMA`. Raises `UsageError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"blur:{text} is not allowed; the width of the blur is a number of pixels above 0")
    return value


def gaussian_blur(batch: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, C, positions …], standard deviation `sigma` pixels, edges replicated, cut at 4 sigma."""
    radius = math.ceil(4 * sigma)
    weights = torch.exp(-((torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2) / 2)
    weights /= weights.sum()
    for dim in range(2, batch.dim()):
        blurred = _multiplied if batch.shape[dim] <= _DENSE else _transformed
        batch = torch.movedim(blurred(torch.movedim(batch, dim, -1), weights, radius), -1, dim)
    return batch


def _multiplied(rows: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Rows [..., L] convolved with weights [2 · radius + 1], by a matrix [L, L]."""
    size = rows.shape[-1]
    taps = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, taps, weights.expand(size, -1).contiguous())
    return rows @ matrix.T.to(rows)


def _transformed(rows: Tensor, weights: Tensor, radius: int) -> Tensor:
    """As `_multiplied`, by way of Fourier transforms, for long signals, whose matrix would not fit in memory."""
    size, own = rows.shape[-1], rows.cpu().double()
    wide = torch.cat(
        [own[..., :1].expand(*own.shape[:-1], radius), own, own[..., -1:].expand(*own.shape[:-1], radius)], -1
    )
    length = wide.shape[-1]
    product = torch.fft.rfft(wide, length) * torch.fft.rfft(weights, length)
    blurred: Tensor = torch.fft.irfft(product, length)[..., 2 * radius : 2 * radius + size].to(rows)
    return blurred
