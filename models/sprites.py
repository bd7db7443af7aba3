"""Animal drawings from open emoji sets: which drawings belong to which class, and their rendering with alpha.

The data folder holds ``node_modules`` and ``openclipart``; `HINT` says how to fill it.
"""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

ANIMALS: dict[str, dict[str, str]] = {
    "wolf": {"wolf": "1f43a"},
    "dog": {
        "dog-face": "1f436",
        "dog": "1f415",
        "guide-dog": "1f9ae",
        "service-dog": "1f415-200d-1f9ba",
        "poodle": "1f429",
    },
    "cat": {"cat-face": "1f431", "cat": "1f408", "black-cat": "1f408-200d-2b1b"},
    "horse": {"horse-face": "1f434", "horse": "1f40e"},
    "cow": {"cow-face": "1f42e", "cow": "1f404"},
    "pig": {"pig-face": "1f437", "pig": "1f416"},
    "monkey": {
        "monkey-face": "1f435",
        "monkey": "1f412",
        "see-no-evil-monkey": "1f648",
        "hear-no-evil-monkey": "1f649",
        "speak-no-evil-monkey": "1f64a",
    },
    "elephant": {"elephant": "1f418"},
    "panda": {"panda": "1f43c"},
    "rabbit": {"rabbit-face": "1f430", "rabbit": "1f407"},
    "frog": {"frog": "1f438"},
    "penguin": {"penguin": "1f427"},
    "tiger": {"tiger-face": "1f42f", "tiger": "1f405"},
    "mouse": {"mouse-face": "1f42d", "mouse": "1f401"},
    "koala": {"koala": "1f428"},
    "turtle": {"turtle": "1f422"},
}
"""Class name -> drawings: name in the Iconify sets -> code points as the PNG and WebP sets write them."""

STREAMLINE: dict[str, list[str]] = {
    "wolf": ["wolf-face"],
    "dog": ["dog-face", "dog"],
    "cat": ["cat-face", "cat"],
    "horse": ["horse-face", "horse"],
    "cow": ["cow-face", "cow"],
    "pig": ["pig-face", "pig"],
    "monkey": ["monkey-face", "monkey", "see-no-evil-monkey", "hear-no-evil-monkey", "speak-no-evil-monkey"],
    "elephant": ["elephant"],
    "panda": ["panda-face"],
    "rabbit": ["rabbit-face", "rabbit"],
    "frog": ["frog-face"],
    "penguin": ["penguin-1", "penguin-2"],
    "tiger": ["tiger-face", "tiger"],
    "mouse": ["mouse-face", "mouse"],
    "koala": ["koala"],
    "turtle": ["turtle"],
}
"""Class name -> drawings of the Streamline set, whose names differ."""

CLIPART: dict[str, list[str]] = {
    "wolf": ["mammals/simple_stylized_wolf_he_01", "mammals/stylized_wolf_head_geral_01"],
    "dog": [
        "mammals/dog_01_drawn_with_strai_01",
        "mammals/dog_03_drawn_with_strai_01",
        "mammals/dog_04_drawn_with_strai_01",
        "mammals/dog_05_drawn_with_strai_01",
        "mammals/dog_06_drawn_with_strai_01",
        "mammals/dogs/beagle_copper_ganson",
        "mammals/dogs/bobi_architetto_francesc_01",
        "mammals/dogs/bored_dog_01",
        "mammals/dog_on_leash_gerald_g._01",
    ],
    "cat": [
        "mammals/cartoon_cat_gerald_g._01",
        "mammals/housecats/gattina_cat_architetto_f_01",
        "mammals/housecats/gatto_cat_architetto_fra_01",
        "mammals/housecats/gatto_cat_architetto_fra_02",
        "mammals/housecats/gatto_cat_architetto_fra_03",
        "mammals/housecats/gatto_cat_architetto_fra_04",
        "mammals/housecats/kitten_gerald_g._01",
    ],
    "horse": [f"mammals/horses/cavallo_architetto_franc_0{i}" for i in range(1, 7)],
    "cow": ["mammals/vacca_pezzata_rossa_val_01"],
    "pig": ["mammals/pig_marcelo_caiafa1"],
    "monkey": ["mammals/monkey_head_nicu_buculei_01"],
    "elephant": ["mammals/elefante01_architetto_fr_01", "mammals/elefante02_architetto_fr_01"],
    "rabbit": ["mammals/coniglio_architetto_fran_01"],
    "frog": [f"rana0{i}_architetto_france_01" for i in range(1, 4)],
    "penguin": ["pinguino_col_piccolo_arc_01"],
    "tiger": [f"mammals/big_cats/tigre0{i}_architetto_franc_01" for i in range(1, 6)],
}
"""Class name -> coloured drawings of Debian's openclipart-svg, below its folder of animals."""

CLIPART_FOLDER = Path("openclipart/usr/share/openclipart/svg/animals")

SETS: dict[str, str] = {
    "noto": "@iconify-json/noto",
    "noto-v1": "@iconify-json/noto-v1",
    "emojione": "@iconify-json/emojione",
    "emojione-v1": "@iconify-json/emojione-v1",
    "openmoji": "@iconify-json/openmoji",
    "fxemoji": "@iconify-json/fxemoji",
    "fluent-emoji": "@iconify-json/fluent-emoji",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat",
    "fluent-emoji-3d": "@lobehub/fluent-emoji-3d",
    "streamline": "@iconify-json/streamline-emojis",
    "openclipart": "openclipart-svg",
    "twemoji": "@iconify-json/twemoji",
}
"""Set name -> npm package that carries it, but for `openclipart`, which is Debian's."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "noto": ("noto",),
    "noto-v1": ("noto-v1",),
    "emojione": ("emojione",),
    "emojione-v1": ("emojione-v1",),
    "openmoji": ("openmoji",),
    "fxemoji": ("fxemoji",),
    "fluent": ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-3d"),
    "streamline": ("streamline",),
    "openclipart": ("openclipart",),
    "twemoji": ("twemoji",),
}
"""Sets that share their designs: a family is held out as a whole."""

HINT = """{missing}: not found. Get the drawings with:
  npm install --prefix {folder} {packages}
  apt-get download openclipart-svg && dpkg-deb -x openclipart-svg_*.deb {folder}/openclipart"""

TEST_FAMILY = "twemoji"
NAMES = list(ANIMALS)


class MissingDataError(FileNotFoundError):
    """The raw data folder lacks a package; the message says which command brings it."""


@dataclass(frozen=True)
class Sprite:
    """One drawing: class index, set, Iconify name and premultiplied RGBA float32 [4, S, S] in 0..1."""

    label: int
    source: str
    name: str
    rgba: np.ndarray


@functools.cache
def _iconify(path: Path) -> dict:
    """The parsed icons.json of an Iconify package."""
    return json.loads(path.read_text(encoding="utf-8"))


def _rasterise(svg: str, pixels: int) -> Image.Image:
    """Render SVG text `pixels` wide."""
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=pixels)))).convert("RGBA")


def _render_iconify(path: Path, name: str, pixels: int) -> Image.Image | None:
    """Render one drawing of an Iconify set, or None where the set lacks it."""
    data = _iconify(path)
    icon = data["icons"].get(name)
    if icon is None:
        parent = data.get("aliases", {}).get(name, {}).get("parent")
        if parent is None:
            return None
        icon = data["icons"][parent]
    width = icon.get("width", data.get("width", 16))
    height = icon.get("height", data.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
    )
    return _rasterise(svg, pixels)


def _render(folder: Path, set_name: str, name: str, code: str, pixels: int) -> Image.Image | None:
    """Render one drawing of any set, or None where the set lacks it."""
    if set_name == "openclipart":
        text = (folder / CLIPART_FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        return _rasterise(text, pixels)
    package = folder / "node_modules" / SETS[set_name]
    if set_name == "fluent-emoji-3d":
        path = package / "assets" / f"{code}.webp"
        return Image.open(path).convert("RGBA") if path.exists() else None
    return _render_iconify(package / "icons.json", name, pixels)


def _drawings(set_name: str) -> list[tuple[int, str, str]]:
    """The drawings a set may have: class index, name, code points ("" where only the name counts)."""
    special = {"streamline": STREAMLINE, "openclipart": CLIPART}.get(set_name)
    if special is None:
        return [(label, name, code) for label, of in enumerate(ANIMALS.values()) for name, code in of.items()]
    return [(NAMES.index(animal), name, "") for animal, names in special.items() for name in names]


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Crop a drawing to its alpha box, scale the longer side to `size`, centre it; premultiplied [4, size, size]."""
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    pixels = np.asarray(image, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    planes = [
        np.asarray(Image.fromarray(pixels[..., i]).resize((width, height), Image.Resampling.BOX if scale < 1 else 3))
        for i in range(4)
    ]
    out = np.zeros((4, size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = np.clip(planes, 0, 1)
    return out


def check(folder: Path, sets: list[str]) -> None:
    """Raise MissingDataError where `folder` lacks a package of `sets`."""
    for set_name in sets:
        at = CLIPART_FOLDER if set_name == "openclipart" else Path("node_modules") / SETS[set_name]
        if not (folder / at).is_dir():
            packages = " ".join(name for key, name in SETS.items() if key != "openclipart")
            raise MissingDataError(HINT.format(missing=folder / at, folder=folder, packages=packages))


def load(folder: Path, sets: list[str], size: int) -> list[Sprite]:
    """All drawings of `sets` with the longer side `size` pixels, in a fixed order.

    Raises: MissingDataError where a package is not in `folder`.
    """
    check(folder, sets)
    found = []
    for set_name in sets:
        for label, name, code in _drawings(set_name):
            image = _render(folder, set_name, name, code, 3 * size)
            if image is not None:
                found.append(Sprite(label, set_name, name, fit(image, size)))
    return found


def sets_of(families: list[str]) -> list[str]:
    """The sets of several families."""
    return [name for family in families for name in FAMILIES[family]]
