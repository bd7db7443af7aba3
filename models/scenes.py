"""Backgrounds: generated grass, snow, sand and water, and crops of photographs; float32 in 0..1."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

PHOTOS: dict[str, list[tuple[str, str]]] = {
    "train": [
        ("sklearn.datasets", "images/flower.jpg"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/brick.png"),
        ("skimage", "data/gravel.png"),
    ],
    "test": [
        ("sklearn.datasets", "images/china.jpg"),
        ("skimage", "data/rocket.jpg"),
    ],
}
"""Split -> photographs that ship inside packages: none shows an animal or a face, no photograph is in two splits."""

KINDS = ("grass", "snow", "sand", "water", "photo")


def noise(rng: np.random.Generator, size: int, exponent: float, stretch: float = 1.0) -> np.ndarray:
    """Fractal noise [size, size], mean 0, deviation 1, spectrum 1 / f^exponent; `stretch` > 1 lays it flat."""
    fy = np.fft.fftfreq(size)[:, None] / stretch
    fx = np.fft.rfftfreq(size)[None, :] * stretch
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / radius**exponent
    spectrum[0, 0] = 0.0
    waves = np.fft.irfft2(spectrum, s=(size, size))
    return (waves / waves.std()).astype(np.float32)


def palette(values: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """Map noise (about -2..2) through evenly spaced colours: [H, W] -> [H, W, 3] in 0..1."""
    stops = np.linspace(-2.0, 2.0, len(colours))
    table = np.asarray(colours, np.float32) / 255
    return np.stack([np.interp(values, stops, table[:, i]) for i in range(3)], -1).astype(np.float32)


def grass(rng: np.random.Generator, size: int) -> np.ndarray:
    """A meadow: blades as streaks of noise, in two slants, over broad light and shade."""
    fine = rng.standard_normal((size, size)).astype(np.float32)
    unit = size / 128
    streaks = np.zeros_like(fine)
    for slant in rng.integers(-2, 3, size=2):
        layer = gaussian_filter(fine, (rng.uniform(2, 5) * unit, 0.5 * unit))
        for row in range(size):
            layer[row] = np.roll(layer[row], int(slant * row / 4))
        streaks += layer / layer.std()
        fine = np.roll(fine, 17, axis=1)
    values = 0.62 * streaks + 0.6 * noise(rng, size, 1.6)
    tint = rng.uniform(0.75, 1.2, 3) * (1.0, 1.0, 0.8)
    return palette(values, [(22, 52, 14), (48, 96, 26), (86, 142, 44), (132, 182, 70), (190, 214, 112)]) * tint


def snow(rng: np.random.Generator, size: int) -> np.ndarray:
    """A snow field: drifts lit from one side, bluish shade, fine sparkle."""
    height = noise(rng, size, rng.uniform(1.8, 2.4), rng.uniform(1.0, 2.5))
    angle = rng.uniform(0, 2 * math.pi)
    dy, dx = np.gradient(gaussian_filter(height, size / 90))
    light = dy * math.sin(angle) + dx * math.cos(angle)
    values = 0.9 * light / light.std() + 0.35 * height + 0.12 * rng.standard_normal((size, size))
    colours = [(150, 172, 206), (196, 212, 234), (226, 235, 246), (243, 247, 252), (255, 255, 255)]
    return palette(values + rng.uniform(-0.3, 0.8), colours) * rng.uniform(0.9, 1.03)


def sand(rng: np.random.Generator, size: int) -> np.ndarray:
    """A beach or dune: warped ripples and grain."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    angle = rng.uniform(-0.5, 0.5)
    phase = rng.uniform(14, 34) * (y * math.cos(angle) + x * math.sin(angle)) + 1.6 * noise(rng, size, 2.2)
    values = 0.7 * np.sin(phase * 2) * rng.uniform(0.3, 1.0) + 0.5 * noise(rng, size, 1.5)
    values += 0.4 * rng.standard_normal((size, size))
    tint = rng.uniform(0.85, 1.1, 3)
    return palette(values, [(134, 100, 62), (178, 142, 92), (208, 174, 122), (228, 200, 150), (246, 228, 186)]) * tint


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    """Open water: flat waves and glints."""
    waves = noise(rng, size, rng.uniform(1.2, 1.9), rng.uniform(2.5, 5))
    values = waves + 0.3 * noise(rng, size, 2.0)
    tint = rng.uniform(0.7, 1.15, 3)
    image = palette(values, [(8, 44, 84), (20, 84, 128), (44, 124, 160), (96, 170, 194), (206, 232, 238)]) * tint
    return image + 0.5 * np.clip(waves - 2.1, 0, 1)[..., None]


GENERATORS = {"grass": grass, "snow": snow, "sand": sand, "water": water}


def sky(rng: np.random.Generator, size: int) -> np.ndarray:
    """A sky with clouds, from blue to grey."""
    blue = [(70, 124, 200), (120, 166, 222), (170, 200, 234), (225, 234, 244), (250, 250, 252)]
    grey = [(150, 160, 172), (176, 184, 194), (198, 204, 212), (216, 220, 226), (232, 234, 238)]
    return palette(0.8 * noise(rng, size, 2.0, 2.0) + rng.uniform(-0.6, 0.6), blue if rng.random() < 0.6 else grey)


def with_horizon(rng: np.random.Generator, ground: np.ndarray, firs: bool) -> np.ndarray:
    """Put sky, and a row of dark trees if `firs`, above the upper part of a ground picture."""
    size = ground.shape[0]
    rows = np.arange(size)[:, None]
    line = size * rng.uniform(0.12, 0.38) + size * 0.012 * noise(rng, size, 2.0)[0]
    out = np.where((rows < line)[..., None], sky(rng, size), ground)
    if firs:
        teeth = np.abs((np.arange(size) * rng.uniform(10, 22) / size + rng.random()) % 1.0 - 0.5) * 2
        top = line - size * (0.03 + rng.uniform(0.05, 0.13) * (1 - teeth) * (0.7 + 0.3 * rng.random(size)))
        trees = np.asarray(rng.uniform((0.05, 0.14, 0.08), (0.2, 0.3, 0.22)), np.float32)
        wood = (rows > top) & (rows < line + 0.01 * size)
        shade = trees * (1 + 0.3 * noise(rng, size, 1.0)[..., None])
        out = np.where(wood[..., None], shade, out)
    return gaussian_filter(out, (size / 300, size / 300, 0))


def load_photos(split: str) -> list[np.ndarray]:
    """The photographs of a split, [H, W, 3] in 0..1; grey ones stay grey."""
    out = []
    for package, path in PHOTOS[split]:
        with files(package).joinpath(path).open("rb") as stream:
            out.append(np.asarray(Image.open(stream).convert("RGB"), np.float32) / 255)
    return out


def photo_crop(rng: np.random.Generator, photos: list[np.ndarray], size: int) -> np.ndarray:
    """A random crop of a random photograph, mirrored at random, grey stones tinted like earth."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.uniform(0.35, 0.9) * min(photo.shape[:2]))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    crop = photo[top : top + side, left : left + side]
    picture = Image.fromarray((crop * 255).astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    out = np.asarray(picture, np.float32) / 255
    if np.ptp(out, axis=2).max() < 0.02:
        out = out * rng.uniform((0.9, 0.75, 0.55), (1.2, 1.1, 1.0))
    return out[:, ::-1] if rng.random() < 0.5 else out


def background(rng: np.random.Generator, kind: str, size: int, photos: list[np.ndarray]) -> np.ndarray:
    """One background of a kind of `KINDS`, [size, size, 3] in 0..1."""
    if kind == "photo":
        out = photo_crop(rng, photos, size)
    else:
        out = GENERATORS[kind](rng, size)
        if rng.random() < 0.45:
            out = with_horizon(rng, out, firs=kind in ("grass", "snow") and rng.random() < 0.7)
    return np.clip(out, 0, 1).astype(np.float32)


def background_bank(seed: int, split: str, each: int, size: int) -> dict[str, Tensor]:
    """`each` backgrounds of every kind: kind -> [each, 3, size, size]."""
    rng = np.random.default_rng(seed)
    photos = load_photos(split)
    return {
        kind: torch.from_numpy(np.stack([background(rng, kind, size, photos) for _ in range(each)])).permute(0, 3, 1, 2)
        for kind in KINDS
    }
