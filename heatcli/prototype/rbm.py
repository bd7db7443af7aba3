"""An expert for pictures: a Gaussian–Bernoulli restricted Boltzmann machine on whole small pictures or on patches.

Energy, for visible v (pixels in 0..1), hidden h in {0, 1} and one width σ for all pixels:

    E(v, h) = ‖v − b‖²/2σ² − c·h − vᵀW h/σ

so p(h|v) = sigmoid(c + Wᵀv/σ), p(v|h) = N(b + σ W h, σ²), and log p(v) = −‖v − b‖²/2σ² + Σ softplus(c + Wᵀv/σ) − log Z.
Hinton 2012, "A practical guide to training RBMs", sec. 13.2; the expert of Montavon et al. 2018, sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError, boundary
from heatcli.system.compress import MOST_BYTES, npz, read_npz
from heatcli.system.files import read_regular, write_atomically


@dataclass(frozen=True, eq=False)
class Expert:
    """An RBM of pictures or patches of `shape` (channels, height, width).

    `weight` [V, H], `visible` [V], `hidden` [H], V the product of `shape`; `whole`: it judges whole pictures, else
    patches of larger ones.
    """

    shape: tuple[int, int, int]
    whole: bool
    sigma: float
    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def log_density(self, pixels: Tensor) -> Tensor:
        """log p of pictures [N, C, H, W] in 0..1, but for log Z: [N]; differentiable.

        For patches: the sum over all of them, a patch apart by a quarter of its size, over how often a pixel is in one.
        """
        if self.whole:
            return -self._free_energy(pixels.flatten(1))
        _, height, width = self.shape
        stride = (max(1, height // 4), max(1, width // 4))
        patches = functional.unfold(pixels, (height, width), stride=stride)  # [N, V, positions]
        energies = self._free_energy(patches.transpose(1, 2).flatten(0, 1)).reshape(len(pixels), -1)
        return -energies.sum(1) * (stride[0] * stride[1]) / (height * width)

    def _free_energy(self, v: Tensor) -> Tensor:
        """−log Σ_h exp(−E(v, h)) of v [N, V]: [N]."""
        weight, visible, hidden = (t.to(v) for t in (self.weight, self.visible, self.hidden))
        quadratic = (v - visible).square().sum(1) / (2 * self.sigma**2)
        return quadratic - functional.softplus(hidden + v @ weight / self.sigma).sum(1)

    def gibbs(self, v: Tensor, steps: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """`steps` of block Gibbs sampling from v [N, V]: the last visible sample and its mean, each [N, V].

        Raises `UsageError` for numbers that are not finite.
        """
        mean = v
        for _ in range(steps):
            chance = torch.sigmoid(self.hidden + v @ self.weight / self.sigma)
            if not bool(torch.isfinite(chance).all()):
                raise UsageError("the expert's training diverged; give a smaller --rate")
            h = torch.bernoulli(chance, generator=source)
            mean = self.visible + self.sigma * h @ self.weight.T
            v = mean + self.sigma * torch.randn(mean.shape, generator=source)
        return v, mean

    def samples(self, n: int, seed: int = 0, steps: int = 1000) -> Tensor:
        """Means of the last step of `n` chains from noise around b: [n, C, H, W]."""
        source = torch.Generator().manual_seed(seed)
        start = self.visible + 0.3 * torch.randn(n, len(self.visible), generator=source)
        return self.gibbs(start, steps, source)[1].reshape(n, *self.shape)


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training saw: means over pictures.

    `error`: squared error of one-step reconstruction a pixel; `gap`: free energy of held-out pictures less that of as
    many training pictures, which grows when the expert learns by heart.
    """

    number: int
    error: float
    gap: float


@dataclass(frozen=True)
class Training:
    """How an expert is trained: `cd` Gibbs steps of contrastive divergence, `sigma` the width, `rate` of learning.

    `persistent`: the chains go on from step to step (Tieleman 2008) instead of starting at the pictures.
    """

    hidden: int = 256
    epochs: int = 20
    cd: int = 5
    persistent: bool = True
    sigma: float = 0.35
    rate: float = 0.004
    batch: int = 100
    decay: float = 1e-4
    seed: int = 0


def untrained(pictures: Tensor, whole: bool, how: Training) -> Expert:
    """An expert for pictures like `pictures` [N, C, H, W] that knows their mean alone."""
    channels, height, width = pictures.shape[1:]
    source = torch.Generator().manual_seed(how.seed)
    weight = 0.01 * torch.randn(channels * height * width, how.hidden, generator=source)
    visible, hidden = pictures.flatten(1).mean(0), torch.full((how.hidden,), -1.0)
    return Expert((channels, height, width), whole, how.sigma, weight, visible, hidden)


def train(expert: Expert, pictures: Tensor, how: Training) -> Iterator[Epoch]:
    """Contrastive divergence (Hinton 2002) on `pictures` [N, C, H, W] in 0..1: changes `expert` epoch by epoch.

    A tenth of the pictures, at most 1000, is held out. Momentum 0.9 after the first epoch at 0.5; the rate falls
    linearly to zero. Raises `UsageError` where it diverges.
    """
    source = torch.Generator().manual_seed(how.seed)
    data = pictures.flatten(1)[torch.randperm(len(pictures), generator=source)]
    held = max(1, min(1000, len(data) // 10))
    held_out, data = data[:held], data[held:]
    moving = [torch.zeros_like(t) for t in (expert.weight, expert.visible, expert.hidden)]
    steps = max(1, len(data) // how.batch)
    chains = data[: how.batch].clone() if how.persistent else None
    for epoch in range(how.epochs):
        order = torch.randperm(len(data), generator=source)
        error = torch.zeros(())
        for step in range(steps):
            v = data[order[step * how.batch : (step + 1) * how.batch]]
            rate = how.rate * (1 - (epoch * steps + step) / (how.epochs * steps))
            error += _update(expert, v, chains, how, rate, 0.5 if epoch == 0 else 0.9, moving, source) / steps
        gap = expert._free_energy(held_out).mean() - expert._free_energy(data[:held]).mean()
        yield Epoch(epoch + 1, float(error), float(gap))


def _update(
    expert: Expert, v: Tensor, chains: Tensor | None, how: Training, rate: float, momentum: float,
    moving: list[Tensor], source: torch.Generator,
) -> Tensor:  # fmt: skip
    """One step of CD-k on v [N, V], which moves `chains` on if there are any; the mean squared reconstruction error."""
    sigma, n = how.sigma, len(v)
    up = torch.sigmoid(expert.hidden + v @ expert.weight / sigma)
    error = (expert.visible + sigma * up @ expert.weight.T - v).square().mean()
    fantasy, _ = expert.gibbs(v if chains is None else chains, how.cd, source)
    if chains is not None:
        chains.copy_(fantasy)
    down = torch.sigmoid(expert.hidden + fantasy @ expert.weight / sigma)
    gradients = (
        (v.T @ up / n - fantasy.T @ down / len(fantasy)) / sigma - how.decay * expert.weight,
        (v.mean(0) - fantasy.mean(0)) / sigma,  # times σ: its curvature is 1/σ²
        up.mean(0) - down.mean(0),
    )
    for parameter, motion, gradient in zip((expert.weight, expert.visible, expert.hidden), moving, gradients,
                                           strict=True):  # fmt: skip
        motion.mul_(momentum).add_(gradient, alpha=rate * sigma)
        parameter.add_(motion)
    return error


def write(path: Path, expert: Expert) -> None:
    """Write an expert as an `.npz`, numbers in half precision."""
    arrays = {name: getattr(expert, name).numpy().astype(np.float16) for name in ("weight", "visible", "hidden")}
    shape, sigma = np.array(expert.shape), np.float32(expert.sigma)
    write_atomically(path, npz(arrays | {"shape": shape, "sigma": sigma, "whole": np.bool_(expert.whole)}))


def read(path: Path) -> Expert:
    """The expert in a file that `heatcli fit-expert` wrote. Raises `UsageError`."""
    with boundary(path, UsageError, "is no expert, such as heatcli fit-expert FOLDER -o FILE writes"):
        try:
            file = read_npz(read_regular(path, MOST_BYTES))
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such expert; heatcli fit-expert FOLDER -o FILE writes one") from error
        weight, visible, hidden = (
            torch.from_numpy(file[name].astype(np.float32)) for name in ("weight", "visible", "hidden")
        )
        channels, height, width = (int(size) for size in file["shape"])
        whole, sigma = bool(file["whole"]), float(file["sigma"])
        if hidden.dim() != 1 or visible.dim() != 1 or min(channels, height, width) < 1:
            raise ValueError("its arrays have other shapes")
    if weight.shape != (channels * height * width, len(hidden)) or len(visible) != len(weight) or not sigma > 0:
        raise UsageError(f"{path}: the arrays of this expert do not fit together; write it anew")
    return Expert((channels, height, width), whole, sigma, weight, visible, hidden)
