"""Compositing: drawings with known masks placed on backgrounds, vectorised over the batch.

Shapes: drawings [S, 4, P, P] premultiplied RGBA, backgrounds [N, 3, Q, Q], pictures [N, 3, side, side]; all 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Look:
    """How much a picture may vary.

    `scale` is the drawing's longer side as a part of the picture's side; `rotation` is in degrees; `aspect`, `shear`
    and `warp` bend the drawing; `hue` is in turns; `repaint`, `grey`, `outline`, `erase` and `blurred` are
    probabilities.
    """

    scale: tuple[float, float] = (0.5, 0.98)
    rotation: float = 25.0
    aspect: float = 0.22
    shear: float = 0.22
    warp: float = 0.1
    hue: float = 0.06
    colour: float = 0.35
    repaint: float = 0.28
    grey: float = 0.08
    outline: float = 0.2
    shadow: float = 0.45
    blurred: float = 0.3
    grain: float = 0.03
    erase: float = 0.25


TEST_LOOK = Look(
    scale=(0.6, 0.95), rotation=12.0, aspect=0.0, shear=0.0, warp=0.0, hue=0.0, colour=0.1, repaint=0.0, grey=0.0,
    outline=0.0, blurred=0.2, grain=0.01, erase=0.0,
)  # fmt: skip
"""Scale, small rotation, mirror, position, light: nothing that changes a drawing's shape."""


class Dice:
    """Random numbers from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.source = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers of a shape."""
        return low + (high - low) * torch.rand(shape, generator=self.source)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape."""
        return torch.randn(shape, generator=self.source)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return torch.randint(0, 2, shape, generator=self.source) * 2.0 - 1.0

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1 with a probability, else 0."""
        return (torch.rand(shape, generator=self.source) < probability).float()

    def pick(self, weights: Tensor, count: int) -> Tensor:
        """Indices drawn with replacement."""
        return torch.multinomial(weights, count, replacement=True, generator=self.source)

    def integers(self, high: int, count: int) -> Tensor:
        """Integers below `high`."""
        return torch.randint(0, high, (count,), generator=self.source)


def hue_matrix(turns: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis: [N] turns -> [N, 3, 3]."""
    angle = 2 * math.pi * turns
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    third = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return cos * torch.eye(3) + (1 - cos) * third + sin * cross


def recolour(rgb: Tensor, look: Look, dice: Dice) -> Tensor:
    """Jitter hue, saturation, contrast, brightness and channel gains of straight (not premultiplied) colours."""
    n = len(rgb)
    turns = dice.uniform(-look.hue, look.hue, n)
    turns = torch.where(dice.chance(look.repaint, n) > 0, dice.uniform(-0.5, 0.5, n), turns)
    saturation = 1 + look.colour * dice.uniform(-1, 1, n, 1, 1)
    saturation = saturation * (1 - dice.chance(look.grey, n, 1, 1))
    grey = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = (grey + saturation * (torch.eye(3) - grey)) @ hue_matrix(turns)
    gain = 1 + 0.5 * look.colour * dice.uniform(-1, 1, n, 3, 1, 1)
    contrast = 1 + look.colour * dice.uniform(-1, 1, n, 1, 1, 1)
    shift = 0.4 * look.colour * dice.uniform(-1, 1, n, 1, 1, 1)
    out = torch.einsum("nij,njhw->nihw", matrix, rgb)
    return (((out - 0.5) * contrast + 0.5 + shift) * gain).clamp(0, 1)


def placement(n: int, side: int, look: Look, dice: Dice) -> Tensor:
    """Sampling grids [N, side, side, 2]: scale, rotation, mirror, position, aspect, shear and a smooth warp."""
    scale = dice.uniform(*look.scale, n)
    angle = torch.deg2rad(look.rotation * dice.uniform(-1, 1, n))
    aspect = torch.exp(look.aspect * dice.uniform(-1, 1, n))
    shear = look.shear * dice.uniform(-1, 1, n)
    room = (1.08 - scale).clamp(min=0.03)
    offset = torch.stack([dice.uniform(-1, 1, n) * room, dice.uniform(-1, 1, n) * room], -1)
    ys, xs = torch.meshgrid(*[torch.linspace(-1 + 1 / side, 1 - 1 / side, side)] * 2, indexing="ij")
    points = torch.stack([xs, ys], -1).expand(n, side, side, 2) - offset[:, None, None]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
    turn = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2)
    stretch = torch.stack([dice.sign(n) / aspect, shear, zero, aspect], -1).view(n, 2, 2)
    grid = torch.einsum("nij,nhwj->nhwi", stretch @ turn / scale[:, None, None], points)
    if look.warp:
        bend = F.interpolate(dice.normal(n, 2, 4, 4), size=(side, side), mode="bicubic", align_corners=True)
        grid = grid + look.warp * dice.uniform(0, 1, n, 1, 1, 1) * bend.permute(0, 2, 3, 1)
    return grid


def crop_backgrounds(backgrounds: Tensor, side: int, dice: Dice) -> Tensor:
    """Random crops, mirrored at random, with random light: [N, 3, Q, Q] -> [N, 3, side, side]."""
    n = len(backgrounds)
    zoom = dice.uniform(0.6, 1.0, n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * dice.sign(n), zoom
    theta[:, :, 2] = dice.uniform(-1, 1, n, 2) * (1 - zoom)[:, None]
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    crops = F.grid_sample(backgrounds, grid, padding_mode="border", align_corners=False)
    return crops * dice.uniform(0.8, 1.12, n, 1, 1, 1) + dice.uniform(-0.04, 0.04, n, 1, 1, 1)


def soften(pictures: Tensor, probability: float, dice: Dice) -> Tensor:
    """Blur some pictures, in part or wholly, by way of half the resolution."""
    n, _, height, width = pictures.shape
    half = F.avg_pool2d(pictures, 2)
    blurred = F.interpolate(half, size=(height, width), mode="bilinear", align_corners=False)
    part = dice.chance(probability, n, 1, 1, 1) * dice.uniform(0, 1, n, 1, 1, 1)
    return torch.lerp(pictures, blurred, part)


def shadow(alpha: Tensor) -> Tensor:
    """A soft shadow to the lower left of an animal, [N, 1, H, W] in 0..1."""
    small = F.avg_pool2d(alpha, 4)
    small = F.avg_pool2d(F.pad(small, [0, 2, 2, 0]), 3, stride=1)
    return F.interpolate(small, size=alpha.shape[2:], mode="bilinear", align_corners=False)


def contour(animal: Tensor, alpha: Tensor, probability: float, dice: Dice) -> tuple[Tensor, Tensor]:
    """Draw a dark line of 2 or so pixels around some animals: returns colours and coverage."""
    n = len(alpha)
    chosen = dice.chance(probability, n, 1, 1, 1) * dice.uniform(0.5, 1, n, 1, 1, 1)
    wide = torch.lerp(alpha, F.max_pool2d(alpha, 5, stride=1, padding=2), chosen)
    inner = alpha / wide.clamp(min=1e-3)
    return animal * inner + dice.uniform(0, 0.25, n, 3, 1, 1) * (1 - inner), wide


def erase(pictures: Tensor, fill: Tensor, probability: float, dice: Dice) -> Tensor:
    """Hide a rectangle of some pictures behind the background `fill`."""
    n, _, height, width = pictures.shape
    centre, half = dice.uniform(0, 1, n, 2), dice.uniform(0.06, 0.2, n, 2)
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    inside_y = (rows - centre[:, :1]).abs() < half[:, :1]
    inside_x = (columns - centre[:, 1:]).abs() < half[:, 1:]
    hidden = (inside_y[:, :, None] & inside_x[:, None, :]).float() * dice.chance(probability, n, 1, 1)
    return torch.lerp(pictures, fill, hidden[:, None])


def compose(drawings: Tensor, backgrounds: Tensor, side: int, look: Look, dice: Dice) -> tuple[Tensor, Tensor]:
    """Place one drawing on each background.

    Args: drawings [N, 4, P, P], backgrounds [N, 3, Q, Q]. Returns pictures [N, 3, side, side] and coverage
    [N, 1, side, side] of the animal, both in 0..1.
    """
    n = len(drawings)
    scene = crop_backgrounds(backgrounds, side, dice)
    grid = placement(n, side, look, dice)
    placed = F.grid_sample(drawings, grid, align_corners=False)
    alpha = placed[:, 3:].clamp(0, 1)
    straight = (placed[:, :3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    light = F.interpolate(dice.normal(n, 1, 2, 2), size=(side, side), mode="bilinear", align_corners=True)
    animal = recolour(straight, look, dice) * (1 + 0.35 * look.colour * light)
    if look.outline:
        animal, alpha = contour(animal, alpha, look.outline, dice)
    scene = scene * (1 - look.shadow * dice.uniform(0, 1, n, 1, 1, 1) * shadow(alpha))
    pictures = soften(torch.lerp(scene, animal, alpha), look.blurred, dice)
    if look.erase:
        pictures = erase(pictures, scene.flip(3), look.erase, dice)
    pictures = pictures * (1 + 0.25 * look.colour * dice.uniform(-1, 1, n, 1, 1, 1))
    pictures = pictures + look.grain * dice.uniform(0, 1, n, 1, 1, 1) * dice.normal(n, 3, side, side)
    return pictures.clamp(0, 1), alpha
