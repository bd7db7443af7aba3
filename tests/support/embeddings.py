"""Networks whose similarities are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """f(x) = W·x for pictures of `side`×`side`: its similarities are bilinear forms."""

    def __init__(self, side: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.dense = nn.Linear(3 * side * side, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1))
