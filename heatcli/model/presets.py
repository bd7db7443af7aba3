"""Preprocessing by name: `imagenet`, `mnist`, `none`, or the name of torchvision weights."""

from __future__ import annotations

from typing import Any

from heatcli.errors import UsageError, first_line, unknown_name

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"size": (224, 224), "channels": 3, "resize": "crop:256", **IMAGENET},
    "mnist": {"size": (28, 28), "channels": 1, "resize": "stretch", "mean": (0.1307,), "std": (0.3081,)},
    "none": {"mean": 0.0, "std": 1.0, "resize": "stretch"},
}


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
