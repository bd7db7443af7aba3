"""Small networks for each kind of input, of any size where the kind has sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from conftest import Cli
from torch import Tensor, nn

CLASSES, WORDS = 3, 20
AXES = {"signal": "NCL", "last": "NLC", "volume": "NCDHW", "table": "NF", "tokens": "NT"}


class Pooled(nn.Module):
    """A convolution along the positions, its mean, and classes. `last`: channels are the last axis."""

    def __init__(self, dims: int, channels: int, last: bool = False) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](channels, 6, 3, padding=1)
        self.head, self.last = nn.Linear(6, CLASSES), last

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.last else x
        return self.head(torch.relu(self.conv(x)).flatten(2).mean(2))


class Text(Pooled):
    """Tokens looked up, then the same."""

    def __init__(self) -> None:
        super().__init__(1, 4, last=True)
        self.table = nn.Embedding(WORDS, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(self.table(tokens))


def module_of(kind: str) -> nn.Module:
    torch.manual_seed(4)
    made: dict[str, Callable[[], nn.Module]] = {
        "signal": lambda: Pooled(1, 2),
        "last": lambda: Pooled(1, 2, last=True),
        "volume": lambda: Pooled(3, 1),
        "table": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
        "tokens": Text,
    }
    return made[kind]().eval()


def checked(cli: Cli, *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    ran = cli("check", *arguments, "--json")
    return ran.status, [json.loads(line) for line in ran.out.splitlines()], ran.err
