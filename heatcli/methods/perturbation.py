"""Methods that hide parts of the image and look at the score: forwards only, whatever the operators.

What is drawn at random is drawn once for all images of a batch, from `seed`. Where a part is hidden, the baseline
shows. What a part is worth is shared evenly over its pixels and channels, unless it is said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError
from heatcli.methods.method import ONE, Answer, Method
from heatcli.methods.path import Mean, mean_score
from heatcli.methods.question import Question
from heatcli.parameters import Parameters, choice, number

SHARED, WHOLE = "shared", "whole"


def size_of(question: Question) -> tuple[int, int]:
    """Height and width of the input. Raises `UsageError` for inputs that are no pictures."""
    if question.batch.dim() != 4:
        raise UsageError(f"this method takes pictures [N, C, H, W]; this input is {tuple(question.batch.shape)}")
    return question.batch.shape[2], question.batch.shape[3]


def hidden(question: Question, rows: Tensor, kept: Tensor) -> Tensor:
    """The images `rows`, int64 [M], with the baseline showing where `kept` [M, 1, H, W] is 0."""
    start = question.reference.batch
    assert start is not None
    return start[rows] + kept * (question.batch[rows] - start[rows])


# --- windows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Squares of `size` pixels every `stride`, in a picture of `height` × `width`; the last of a line at its edge."""

    size: int
    stride: int
    height: int
    width: int

    @classmethod
    def of(cls, question: Question, window: int, stride: int) -> Windows:
        """0 is an eighth of the shorter side, and half the window. Raises `UsageError` if they do not fit."""
        height, width = size_of(question)
        window = window or max(1, min(height, width) // 8)
        stride = stride or max(1, window // 2)
        if window > min(height, width):
            raise UsageError(f"window={window} is not allowed; the input has {height}×{width} pixels")
        if stride > window:
            raise UsageError(f"stride={stride} is not allowed; a window of {window} would leave pixels out")
        return cls(window, stride, height, width)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corners, (y, x), line by line."""
        return [(y, x) for y in self._starts(self.height) for x in self._starts(self.width)]

    def _starts(self, length: int) -> list[int]:
        starts = list(range(0, length - self.size + 1, self.stride))
        return starts if starts[-1] == length - self.size else [*starts, length - self.size]

    def spread(self, worth: Tensor, channels: int, share: str) -> Tensor:
        """What windows are worth [N, windows], as a map [N, channels, H, W]: at each pixel the mean of its windows."""
        total = worth.new_zeros(len(worth), self.height, self.width)
        count = worth.new_zeros(self.height, self.width)
        for i, (y, x) in enumerate(self.corners):
            total[:, y : y + self.size, x : x + self.size] += worth[:, i, None, None]
            count[y : y + self.size, x : x + self.size] += 1
        each = (total / count)[:, None].expand(-1, channels, -1, -1)
        return each / (channels * self.size**2) if share == SHARED else each

    def masks(self, which: Tensor) -> Tensor:
        """1 inside the windows of those numbers, else 0: float [M, 1, H, W]."""
        corner = torch.tensor(self.corners, device=which.device)[which]
        y, x = torch.arange(self.height, device=which.device), torch.arange(self.width, device=which.device)
        down = (y >= corner[:, :1]) & (y < corner[:, :1] + self.size)
        across = (x >= corner[:, 1:]) & (x < corner[:, 1:] + self.size)
        return (down[:, :, None] & across[:, None, :])[:, None].float()


@dataclass(frozen=True)
class Occlusion(Parameters):
    """How far the score falls when a window shows the baseline; the mean over the windows that a pixel is in.

    The fall is shared evenly over the window's pixels and channels, so that for a linear score and windows side by side
    the pixels sum to what the whole image is worth; `share=whole` gives all of it to each (as Captum does).
    """

    kind: ClassVar[str] = "perturbation"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE

    window: int = number(0, 0)
    stride: int = number(0, 0)
    share: str = choice(SHARED, (SHARED, WHOLE))

    @property
    def cost(self) -> str:
        """The default window makes about 200 of them."""
        return "1 forward a window; by default an eighth of the shorter side, every half window"

    def __call__(self, question: Question, method: Method) -> Answer:
        """One forward run a window."""
        windows = Windows.of(question, self.window, self.stride)
        count = len(windows.corners)
        points = question.points(
            count, lambda rows, which: hidden(question, rows, 1 - windows.masks(which).to(question.batch))
        )
        falls = question.score[:, None] - question.scores(points).reshape(-1, count)
        found = windows.spread(falls, question.batch.shape[1], self.share)
        return Answer(found.to(question.batch), score0=mean_score(question))


# --- random masks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rise(Parameters):
    """Σ_i score(image under M_i)·M_i(pixel) / (masks·keep): random masks M_i of `cells` × `cells`, enlarged, shifted.

    The sum over channels is the map, of the score; the paper's is of the probability (`--output probability`).
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
        """No walk."""
        return f"{self.masks + 2} forwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """One forward run a mask."""
        grids, shifts = self.drawn()
        size, channels = size_of(question), question.batch.shape[1]

        def kept(which: Tensor) -> Tensor:
            """The masks of those numbers."""
            return self.enlarged(grids, shifts, which.cpu(), size).to(question.batch)

        points = question.points(self.masks, lambda rows, which: hidden(question, rows, kept(which)))
        scores = question.scores(points)
        mean = Mean(question)
        for rows, which, found in zip(*(torch.split(t, 64) for t in (points.rows, points.which, scores)), strict=True):
            masks = kept(which).expand(-1, channels, -1, -1)
            mean.add(rows, masks, found / (self.masks * self.keep * channels))
        return Answer(mean.relevance, score0=mean_score(question))

    def drawn(self) -> tuple[Tensor, Tensor]:
        """Cells that are kept, [masks, 1, cells + 1, cells + 1], and shifts in parts of a cell, [masks, 2]."""
        g = torch.Generator().manual_seed(self.seed)
        grids = torch.rand(self.masks, 1, self.cells + 1, self.cells + 1, generator=g) < self.keep
        return grids.float(), torch.rand(self.masks, 2, generator=g)

    def enlarged(self, grids: Tensor, shifts: Tensor, which: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks of those numbers at the size of the picture, [M, 1, H, W]."""
        cell = [-(-length // self.cells) for length in size]
        large = functional.interpolate(
            grids[which], [(self.cells + 1) * side for side in cell], mode="bilinear", align_corners=False
        )
        corners = (shifts[which] * torch.tensor(cell)).long().tolist()
        cut = [one[:, y : y + size[0], x : x + size[1]] for one, (y, x) in zip(large, corners, strict=True)]
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
