"""The networks: a residual net and a transformer for animals, the convolutional digit net of the DeepLIFT paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Residual block: two 3x3 convolutions with BatchNorm, one ReLU used twice, 1x1 shortcut where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class AnimalNet(nn.Module):
    """Small ResNet: [N, 3, 96, 96] normalised pixels -> [N, classes] logits, 0.44 million weights."""

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, 2, 2, bias=True)
        self.bn = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stage1 = Block(32, 32)
        self.stage2 = Block(32, 64, stride=2)
        self.stage3 = Block(64, 96, stride=2)
        self.stage4 = Block(96, 112, stride=2, bias=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(112, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        x = self.pool(F.relu(self.bn(self.stem(x))))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        x = F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
        return self.fc(self.dropout(x))


class AnimalTransformer(nn.Module):
    """A hybrid vision transformer (Dosovitskiy et al. 2021, sec. 3.1) on the first stages of a trained `AnimalNet`.

    Patches of 2×2 of its map [N, 64, 12, 12] are 36 tokens, beside a class token; four blocks of attention.
    """

    def __init__(self, trained: AnimalNet, classes: int, width: int = 96, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            trained.stem, trained.bn, nn.ReLU(), trained.pool, trained.stage1, trained.stage2
        ).requires_grad_(False)
        self.patches = nn.Conv2d(64, width, 2, 2)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 37, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def train(self, mode: bool = True) -> AnimalTransformer:
        """The first stages stay as they are."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 96, 96] -> logits [N, classes]."""
        tokens = self.patches(self.features(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))


class DigitNet(nn.Module):
    """DeepLIFT's MNIST net: two strided convolutions, two dense layers, softmax; [N, 1, 28, 28] in 0..1."""

    def __init__(self, width: int = 32, hidden: int = 128, dropout: float = 0.4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 4, 2)
        self.conv2 = nn.Conv2d(width, 2 * width, 4, 2)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(2 * width * 25, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def logits(self, image: Tensor) -> Tensor:
        """Scores before the softmax, [N, 10]."""
        x = F.relu(self.conv1(image))
        x = F.relu(self.conv2(x)).flatten(1)
        x = F.relu(self.fc1(self.dropout(x)))
        return self.fc2(self.dropout(x))

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities, [N, 10]."""
        return torch.softmax(self.logits(image), dim=1)
