"""How a picture becomes the input: who says so, whether it is plausible, and the note if nobody does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from heatcli.artifact.layout import PICTURES
from heatcli.artifact.sidecar import Input, Sidecar
from heatcli.errors import HeatcliError, ModelError, UsageError
from heatcli.graph.kinds import is_diagonal
from heatcli.graph.operator import Graph
from heatcli.images.values import DATA, parse_range
from heatcli.model.named import is_named
from heatcli.system.files import is_there

LARGEST = 1 << 20  # the longest side of an input, in pixels, channels or letters
CENTRED = 0.3  # inputs beyond this on both sides of 0 count as normalised
NARROW = 0.1  # a range below this for pixels in 0..1 suggests that 0..255 is expected


def told_by(path: Path, sidecar: Sidecar, preset: str | None, flags: Mapping[str, Any]) -> str:
    """Who says how a picture becomes the input; "" for nobody."""
    given = [f"--{name}" for name in ("mean", "std", "resize") if flags.get(name) is not None]
    if given or preset:
        return ", ".join([*([f"--preset {preset}"] if preset else []), *given])
    if sidecar.input is None:
        return ""
    file = path.with_suffix(".toml")
    inside = "the weights of" if is_named(path) else "the sidecar inside"
    return file.name if is_there(file) else f"{inside} {path.name}"


def checked(spec: Input, path: Path, flags: Mapping[str, Any]) -> None:
    """Raise `UsageError` for implausible flags, `ModelError` for an implausible sidecar."""
    if spec.range:
        parse_range(spec.range)
    if spec.order == "bgr" and spec.channels not in (None, 3):
        raise UsageError(f"{path}: takes {spec.channels} channels, so --channels-order bgr makes no sense")
    dims = spec.layout.dims
    if spec.shape is not None and len(spec.shape) != dims:
        wanted = {1: "LENGTH", 2: "HEIGHTxWIDTH", 3: "DEPTHxHEIGHTxWIDTH"}[dims]
        text = "×".join(map(str, spec.shape))
        raise _wrong("size", path, flags, f"{text} is not that of a {spec.layout.kind}; give {wanted}")
    sizes = (("size", spec.shape or ()), ("channels", (spec.channels,)), ("length", (spec.length or None,)))
    for name, numbers in sizes:
        if any(number is not None and not 1 <= number <= LARGEST for number in numbers):
            text = "×".join(map(str, numbers))
            raise _wrong(name, path, flags, f"{text} is not allowed; it is from 1 to {LARGEST:,}")
    for name in ("mean", "std"):
        values = _listed(getattr(spec, name))
        if not all(map(math.isfinite, values)) or not values:
            raise _wrong(name, path, flags, f"{', '.join(map(str, values))}: give finite numbers, one a channel")
        text = ", ".join(f"{value:g}" for value in values)
        if name == "std" and 0 in values:
            raise _wrong(name, path, flags, f"{text}: 0 divides no pixel; give the standard deviation of each channel")
        beyond = [value for value in values if not -1 <= value <= 1]
        if beyond and spec.layout == PICTURES and spec.range != DATA and spec.channels in (None, 1, 3):
            way = f"{','.join(f'{value / 255:.3f}' for value in values)} is that of 0..255; or say --range data"
            raise _wrong(name, path, flags, f"{text}: pixels are in 0..1 before it is applied; {way}")


def _wrong(name: str, path: Path, flags: Mapping[str, Any], text: str) -> HeatcliError:
    """The error for a value: `UsageError` if a flag gave it, else `ModelError`, since the sidecar did."""
    if flags.get(name) is not None:
        return UsageError(f"--{name} {text}")
    file = path.with_suffix(".toml")
    return ModelError(f"{file if is_there(file) else path}: {name} = {text}")


def _listed(value: tuple[float, ...] | float) -> tuple[float, ...]:
    return (value,) if isinstance(value, float | int) else tuple(value)


def unknown(graph: Graph, name: str, spec: Input) -> str:
    """The note if nobody says how a picture becomes the input; "" if the network normalises the input itself."""
    low, high, span = _first_sees(graph)
    if low < -CENTRED and high > CENTRED:
        return ""
    if span < NARROW:
        return (
            f"{name} itself makes {low:.3g} to {high:.3g} of pixels in 0..1, so it seems to take 0..255; "
            f"--mean 0 --std {1 / 255:.6f} gives it those, --preset none confirms 0..1"
        )
    size = "at their own size" if spec.shape is None else f"stretched to {spec.shape[0]}×{spec.shape[1]}"
    return (
        f"nothing says which preprocessing {name} was trained with: pixels go in as 0..1, {size}; "
        "change that with --preset imagenet, or --mean, --std and --resize; --preset none confirms it"
    )


def _first_sees(graph: Graph) -> tuple[float, float, float]:
    """The range of the first layer's input for pixels in 0..1: lowest value, highest value, and largest difference.

    The difference is between pixels 0 and 1.
    """
    first = {name for op in graph.operators if op.first for name in op.sources}
    scaled = [op for op in graph.operators if op.before_first and is_diagonal(op)]
    if not first or not scaled:
        return 0.0, 1.0, 1.0
    device = next((c.value.device for op in graph.operators for c in op.constants), torch.device("cpu"))
    seen: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for end in (0.0, 1.0):
            values = {graph.input: torch.full(graph.input_shape, end, device=device, dtype=scaled[0].dtype)}
            for op in graph.operators:
                if op.before_first and all(name in values for name in op.refs):
                    values[op.name] = op.run(values)
            seen.append([values[name] for name in first if name in values])
    both = [value for ends in seen for value in ends]
    span = max(float((b - a).abs().max()) for a, b in zip(*seen, strict=True))
    return min(float(value.min()) for value in both), max(float(value.max()) for value in both), span
