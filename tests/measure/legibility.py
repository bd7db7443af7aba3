"""How well a heatmap is seen on busy and dark photos, and by the colour-blind.

`python tests/measure/legibility.py [COLOUR MAP]`

A planted map lies over photos that scikit-image ships and over the samples: two discs of full relevance, for and
against, each with a ring of a quarter of it, and a thirtieth everywhere else. Differences are ΔE (CIE 1976) between
the overlay and its own backdrop: `full`, `quarter`: of the 5 % of pixels where they show least; `haze`: the median
where relevance is next to nothing, which should be small; `texture`: the median difference of the backdrop to itself
8 pixels away, which the map has to stand out from. `colour-blind`: ΔE between for and against as seen with each kind
of dichromacy (Machado et al. 2009, severity 1), the least over all photos.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

from heatcli.images import overlay as drawing
from heatcli.images.overlay import BACKDROPS, Scale, faded, overlay

PHOTOS = {
    "dark": ("hubble_deep_field.jpg", "rocket.jpg", "retina.jpg"),
    "busy": ("grass.png", "gravel.png", "brick.png", "motorcycle_left.png"),
    "plain": ("coffee.png", "astronaut.png", "chelsea.png", "moon.png", "page.png"),
}
DICHROMACY = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
NOW = "heatcli"
VARIANTS = {  # palest tint, exponent of the opacity
    NOW: (1.0, 1.0),
    "version 0.1": (0.0, 0.5),
    "half way": (0.5, 0.75),
}
Array = NDArray[np.float64]


def planted(height: int, width: int) -> tuple[Array, dict[str, NDArray[np.bool_]]]:
    """The map [H, W], and where its parts are."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    value = np.full((height, width), 1 / 30) * np.where((x * 40).astype(int) % 2, 1, -1)
    parts = {"haze": np.ones((height, width), bool)}
    for name, centre, sign in (("for", 0.3, 1), ("against", 0.7, -1)):
        distance = np.hypot(y - 0.5, x - centre * width / min(height, width))
        ring, disc = distance < 0.22, distance < 0.14
        value[ring], value[disc] = sign / 4, sign
        parts[name], parts[f"{name} quarter"] = disc, ring & ~disc
        parts["haze"] &= ~ring
    return value, parts


def lab(picture: Image.Image, seen: str | None = None) -> Array:
    """A picture in CIELAB [H, W, 3], as a dichromat sees it."""
    rgb = np.asarray(picture.convert("RGB")) / 255
    if seen is not None:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = np.clip(linear @ np.array(DICHROMACY[seen]).T, 0, 1)
        rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(rgb2lab(rgb))


def measured(photo: Image.Image, cmap: str, backdrop: str) -> dict[str, float]:
    """What the docstring of this file says, for one photo."""
    value, parts = planted(photo.height, photo.width)
    box = (0.0, 0.0, float(photo.width), float(photo.height))
    laid = overlay(photo, value, box, cmap, 0.9, Scale(1.0, 1.0), backdrop)
    own = lab(faded(photo, backdrop))
    gap = np.linalg.norm(lab(laid) - own, axis=2)
    found = {
        "full": float(np.percentile(gap[parts["for"] | parts["against"]], 5)),
        "quarter": float(np.percentile(gap[parts["for quarter"] | parts["against quarter"]], 5)),
        "haze": float(np.median(gap[parts["haze"]])),
        "texture": float(np.median(np.linalg.norm(own[:, 8:] - own[:, :-8], axis=2))),
    }
    for seen in DICHROMACY:
        colours = lab(laid, seen)
        means = [colours[parts[name]].mean(0) for name in ("for", "against")]
        found[seen] = float(np.linalg.norm(means[0] - means[1]))
    return found


def main() -> None:
    """Print the page."""
    folder, own = Path(skimage.__file__).parent / "data", Path(__file__).parents[2] / "samples"
    photos = {kind: [folder / name for name in names] for kind, names in PHOTOS.items()}
    photos["samples"] = sorted(own.glob("*.png"))[:6]
    cmap = sys.argv[1] if len(sys.argv) > 1 else "bwr"
    apart: dict[str, list[float]] = {}
    for name in drawing.DIVERGING:
        ends = [tuple(round(255 * c) for c in drawing.colour_map(name)(x)[:3]) for x in (0.0, 1.0)]
        seen = [[lab(Image.new("RGB", (1, 1), end), kind)[0, 0] for end in ends] for kind in DICHROMACY]
        apart[name] = [float(np.linalg.norm(one - other)) for one, other in seen]
    columns = ("full", "quarter", "haze", "texture", *DICHROMACY)
    print("# How well a map is seen on its picture\n\n```\n" + __doc__ + "```\n")
    print(f"| drawing | backdrop | photos | {' | '.join(columns)} |\n|---|---|---|{'--:|' * len(columns)}")
    tints, strengths = drawing._tints.__wrapped__, drawing._strengths.__wrapped__
    for name, (palest, power) in VARIANTS.items():
        drawing._tints = partial(tints, palest=palest)
        drawing._strengths = partial(strengths, power=power)
        for backdrop in BACKDROPS if name == NOW else BACKDROPS[:1]:
            for kind, files in photos.items():
                rows = [measured(Image.open(file).convert("RGB"), cmap, backdrop) for file in files]
                least = {c: (min if c not in ("haze", "texture") else max)(row[c] for row in rows) for c in columns}
                print(f"| {name} | {backdrop} | {kind} | " + " | ".join(f"{least[c]:.1f}" for c in columns) + " |")
    heads = " | ".join(DICHROMACY)
    print(f"\nThe two ends of each colour map:\n\n| colour map | {heads} |\n|---|{'--:|' * len(DICHROMACY)}")
    for name, gaps in apart.items():
        print(f"| `{name}` | " + " | ".join(f"{gap:.0f}" for gap in gaps) + " |")


if __name__ == "__main__":
    main()
