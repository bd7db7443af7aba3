"""Methods that hide parts of the image and read the score: forward runs only, for any operators.

Random numbers are drawn once for all images of a batch, from `seed`. The baseline fills hidden parts. The value of a
part is divided evenly over its pixels and channels, unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.layout import TABLE
from heatcli.errors import UsageError
from heatcli.methods.method import ONE, Answer, Method
from heatcli.methods.path import Mean, mean_score
from heatcli.methods.question import Question
from heatcli.rules.parameters import Parameters, choice, number

SHARED, WHOLE = "shared", "whole"


SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}  # torch's interpolation, by the number of sides


def hidden(question: Question, rows: Tensor, kept: Tensor) -> Tensor:
    """The images `rows`, int64 [M], with the baseline where `kept` [M, 1, H, W] is 0."""
    assert question.reference.batch is not None
    layout = question.layout
    x, x0 = (layout.first(whole[rows]) for whole in (question.batch, question.reference.batch))
    return layout.back(x0 + kept * (x - x0)).contiguous()


# --- windows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Squares of `size` pixels every `stride`, in a picture of `sides` (height, width). The last touches the edge.

    Of signals they are intervals, of volumes cubes.
    """

    size: int
    stride: int
    sides: tuple[int, ...]

    @classmethod
    def of(cls, question: Question, window: int, stride: int) -> Windows:
        """Windows, by default (0) an eighth of the shorter side and half a window apart. Raises `UsageError`.

        Of tables, whose neighbours have nothing in common, each feature is a window by default; so is each token.
        """
        sides = question.sides
        window = window or (1 if question.layout.separate else max(1, min(sides) // 8))
        stride = stride or max(1, window // 2)
        if window > min(sides):
            whole = "×".join(map(str, sides))
            raise UsageError(f"window={window} is not allowed; the input has {whole} {question.layout.element}s")
        if stride > window:
            raise UsageError(f"stride={stride} is not allowed; a window of {window} would leave pixels out")
        return cls(window, stride, sides)

    @property
    def corners(self) -> list[tuple[int, ...]]:
        """Top left corners, (y, x), row by row."""
        return list(product(*map(self._starts, self.sides)))

    def _starts(self, length: int) -> list[int]:
        """Where the windows along a side of that length begin."""
        starts = list(range(0, length - self.size + 1, self.stride))
        return starts if starts[-1] == length - self.size else [*starts, length - self.size]

    def spread(self, worth: Tensor, channels: int, share: str) -> Tensor:
        """Values of windows [N, windows] as a map [N, channels, H, W]: at each pixel the mean over its windows."""
        total = worth.new_zeros(len(worth), *self.sides)
        count = worth.new_zeros(self.sides)
        for i, corner in enumerate(self.corners):
            inside = tuple(slice(start, start + self.size) for start in corner)
            total[:, *inside] += worth[:, i].reshape(-1, *(1,) * len(inside))
            count[inside] += 1
        each = (total / count)[:, None].expand(-1, channels, *self.sides)
        return each / (channels * self.size ** len(self.sides)) if share == SHARED else each

    def masks(self, which: Tensor) -> Tensor:
        """Masks of the windows `which`, int64 [M]: 1 inside, else 0, float [M, 1, H, W]."""
        corner = torch.tensor(self.corners, device=which.device)[which]
        inside = torch.ones((len(which), 1, *(1,) * len(self.sides)), dtype=torch.bool, device=which.device)
        for axis, side in enumerate(self.sides):
            at, start = torch.arange(side, device=which.device), corner[:, axis, None]
            own = (at >= start) & (at < start + self.size)
            inside = inside & own.reshape(len(which), 1, *(side if k == axis else 1 for k in range(len(self.sides))))
        return inside.float()


@dataclass(frozen=True)
class Occlusion(Parameters):
    """The fall of the score when the baseline fills a window; the mean over the windows that contain a pixel.

    The fall is divided evenly over the window's pixels and channels. So for a linear score and windows side by side the
    pixels sum to the fall for the whole image. `share=whole` gives each pixel the whole fall (as Captum does).
    """

    kind: ClassVar[str] = "perturbation"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE
    keeps_values: ClassVar[bool] = True

    window: int = number(0, 0)
    stride: int = number(0, 0)
    share: str = choice(SHARED, (SHARED, WHOLE))

    @property
    def cost(self) -> str:
        """About 200 windows by default."""
        return "1 forward a window; by default an eighth of the shorter side, every half window"

    def __call__(self, question: Question, method: Method) -> Answer:
        """One forward run a window."""
        windows = Windows.of(question, self.window, self.stride)
        count = len(windows.corners)
        points = question.points(
            count, lambda rows, which: hidden(question, rows, 1 - windows.masks(which).to(question.batch))
        )
        falls = question.score[:, None] - question.scores(points).reshape(-1, count)
        heatmap = question.layout.back(windows.spread(falls, question.channels, self.share))
        return Answer(heatmap.to(question.batch), score0=mean_score(question))


# --- random masks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rise(Parameters):
    """Σ_i score(image under M_i)·M_i(pixel) / (masks·keep): random masks M_i of `cells` × `cells`, enlarged, shifted.

    The sum over channels is the map for the score. The paper maps the probability (`--output probability`).
    """

    kind: ClassVar[str] = "perturbation"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE

    masks: int = number(2000, 1)
    cells: int = number(7, 1)
    keep: float = number(0.5, 0.0, 1.0, above=True)
    seed: int = number(0, 0)

    @property
    def cost(self) -> str:
        """No backward run."""
        return f"{self.masks + 2} forwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """One forward run a mask."""
        size, channels, layout = question.sides, question.channels, question.layout
        alone = layout.kind == TABLE  # each feature has a cell of its own
        drawing = replace(self, cells=size[0]) if alone else self
        grids, shifts = drawing.drawn(len(size))

        def kept(which: Tensor) -> Tensor:
            """The masks `which`, [M, 1, H, W]."""
            return drawing.enlarged(grids, shifts, which.cpu(), size).to(question.batch)

        points = question.points(self.masks, lambda rows, which: hidden(question, rows, kept(which)))
        scores = question.scores(points)
        mean = Mean(question)
        for rows, which, score in zip(*(torch.split(t, 64) for t in (points.rows, points.which, scores)), strict=True):
            masks = layout.back(kept(which).expand(-1, channels, *size))
            mean.add(rows, masks, score / (self.masks * self.keep * channels))
        return Answer(mean.relevance, score0=mean_score(question))

    def drawn(self, dims: int = 2) -> tuple[Tensor, Tensor]:
        """Random cells, 1 where kept, [masks, 1, cells + 1, cells + 1], and shifts in cells, [masks, 2].

        `dims`: how many sides the input has.
        """
        g = torch.Generator().manual_seed(self.seed)
        grids = torch.rand(self.masks, 1, *(self.cells + 1,) * dims, generator=g) < self.keep
        return grids.float(), torch.rand(self.masks, dims, generator=g)

    def enlarged(self, grids: Tensor, shifts: Tensor, which: Tensor, size: tuple[int, ...]) -> Tensor:
        """The masks `which` at the picture's size, [M, 1, H, W]."""
        cell = [-(-length // self.cells) for length in size]
        large = functional.interpolate(
            grids[which], [(self.cells + 1) * side for side in cell], mode=SMOOTH[len(size)], align_corners=False
        )
        corners = (shifts[which] * torch.tensor(cell)).long().tolist()
        cut = [
            one[:, *(slice(start, start + side) for start, side in zip(corner, size, strict=True))]
            for one, corner in zip(large, corners, strict=True)
        ]
        return torch.stack(cut)


PERTURBATION = (
    Method(
        name="occlusion",
        summary="fall of the score where a window shows the baseline",
        source="Zeiler & Fergus 2014, sec. 4.2",
        rules={},
        baseline="zero",
        conserves=False,
        procedure=Occlusion(),
    ),
    Method(
        name="rise",
        summary="mean of random masks, weighted by the score of what they show",
        source="Petsiuk et al. 2018, eq. 6",
        rules={},
        baseline="zero",
        conserves=False,
        procedure=Rise(),
    ),
)
