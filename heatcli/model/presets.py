"""Preprocessing by name: `imagenet`, `mnist`, `none`, or the name of torchvision weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatcli.errors import UsageError, first_line, unknown_name

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"size": (224, 224), "channels": 3, "resize": "crop:256", **IMAGENET},
    "mnist": {"size": (28, 28), "channels": 1, "resize": "stretch", "mean": (0.1307,), "std": (0.3081,)},
    "none": {"mean": 0.0, "std": 1.0, "resize": "stretch"},
}


def for_size(given: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The values of a preset for a network of another size (height, width).

    A centre crop keeps its share of the picture: `crop:256` of 224 × 224 is `crop:342` of 299 × 299. Where height and
    width differ, pictures are stretched, since no crop of a square says what to leave out.
    """
    own, resize = given.get("size"), str(given.get("resize", ""))
    if own is None or tuple(own) == size:
        return dict(given)
    kind, _, shorter = resize.partition(":")
    if kind == "crop":
        share = int(shorter or min(own)) / min(own)
        resize = f"crop:{round(share * size[0])}" if size[0] == size[1] else "stretch"
    return {**given, "size": size, **({"resize": resize} if resize else {})}


def preset(name: str) -> dict[str, Any]:
    """The `[input]` values of a preset. Raises `UsageError` for an unknown one.

    A name with a dot, such as `ResNet50_Weights.IMAGENET1K_V2`, takes the transforms of those torchvision weights.
    """
    if name in PRESETS:
        return PRESETS[name]
    if "." not in name:
        raise unknown_name(
            "preset", name, PRESETS, ways="; or torchvision weights, such as ResNet50_Weights.IMAGENET1K_V2"
        )
    from torchvision.models import get_weight

    try:
        return of_weights(get_weight(name))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UsageError(
            f"preset {name!r}: torchvision has no classification weights of that name: {first_line(error)}"
        ) from error


def of_weights(weights: Any) -> dict[str, Any]:
    """The `[input]` values of torchvision's weights of a classifier."""
    transforms = weights.transforms()
    size, shorter = transforms.crop_size[0], transforms.resize_size[0]
    return {
        "size": (size, size), "channels": 3, "resize": f"crop:{shorter}", "mean": tuple(transforms.mean),
        "std": tuple(transforms.std), "interpolation": transforms.interpolation.value,
    }  # fmt: skip
