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

    `weight` W [V, H], `visible` b [V], `hidden` c [H], where V is the product of `shape`. `whole`: the RBM is of whole
    pictures, else of patches.
    """

    shape: tuple[int, int, int]
    whole: bool
    sigma: float
    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def log_density(self, pixels: Tensor) -> Tensor:
        """log p + log Z of pictures [N, C, H, W] in 0..1: [N], differentiable.

        For patches: the sum over patches at a stride of a quarter of their size, divided by the number of patches that
        cover a pixel.
        """
        if self.whole:
            return -self._free_energy(pixels.flatten(1))
        _, height, width = self.shape
        stride = (max(1, height // 4), max(1, width // 4))
        patches = functional.unfold(pixels, (height, width), stride=stride)  # [N, V, positions]
        energies = self._free_energy(patches.transpose(1, 2).flatten(0, 1)).reshape(len(pixels), -1)
        return -energies.sum(1) * (stride[0] * stride[1]) / (height * width)

    def _free_energy(self, v: Tensor) -> Tensor:
        """−log Σ_h exp(−E(v, h)) for v [N, V]: [N]."""
        weight, visible, hidden = (t.to(v) for t in (self.weight, self.visible, self.hidden))
        quadratic = (v - visible).square().sum(1) / (2 * self.sigma**2)
        return quadratic - functional.softplus(hidden + v @ weight / self.sigma).sum(1)

    def gibbs(self, v: Tensor, steps: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Run `steps` of block Gibbs sampling from v [N, V]. Returns the last visible sample and its mean, each [N, V].

        Raises `UsageError` if a value is not finite.
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
        """The visible means after `steps` steps of `n` chains that start from noise around b: [n, C, H, W]."""
        source = torch.Generator().manual_seed(seed)
        start = self.visible + 0.3 * torch.randn(n, len(self.visible), generator=source)
        return self.gibbs(start, steps, source)[1].reshape(n, *self.shape)


@dataclass(frozen=True)
class Epoch:
    """The measures of an epoch of training, means over pictures.

    `error`: the squared error per pixel of a one-step reconstruction. `gap`: the free energy of held-out pictures less
    that of as many training pictures; the gap grows when the expert overfits.
    """

    number: int
    error: float
    gap: float


@dataclass(frozen=True)
class Training:
    """The parameters of a training. `hidden`: the number of hidden units.

    `cd`: the Gibbs steps of contrastive divergence. `persistent`: keep the chains from one step to the next (Tieleman
    2008) instead of starting them at the pictures. `sigma`: the width σ. `rate`: of learning. `batch`: the number of
    pictures in a step. `decay`: of the weights.
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
    """An expert before training for `pictures` [N, C, H, W]: b is their mean, the weights are small and random."""
    channels, height, width = pictures.shape[1:]
    source = torch.Generator().manual_seed(how.seed)
    weight = 0.01 * torch.randn(channels * height * width, how.hidden, generator=source)
    visible, hidden = pictures.flatten(1).mean(0), torch.full((how.hidden,), -1.0)
    return Expert((channels, height, width), whole, how.sigma, weight, visible, hidden)


def train(expert: Expert, pictures: Tensor, how: Training) -> Iterator[Epoch]:
    """Train `expert` in place by contrastive divergence (Hinton 2002) on `pictures` [N, C, H, W] in 0..1.

    A tenth of the pictures, at most 1000, is held out. The momentum is 0.5 in the first epoch, then 0.9; the rate falls
    linearly to zero. Raises `UsageError` if the training diverges.
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
    """One step of CD-k on v [N, V]; advances `chains` if given. Returns the mean squared reconstruction error."""
    sigma, n = how.sigma, len(v)
    up = torch.sigmoid(expert.hidden + v @ expert.weight / sigma)
    error = (expert.visible + sigma * up @ expert.weight.T - v).square().mean()
    fantasy, _ = expert.gibbs(v if chains is None else chains, how.cd, source)
    if chains is not None:
        chains.copy_(fantasy)
    down = torch.sigmoid(expert.hidden + fantasy @ expert.weight / sigma)
    gradients = (
        (v.T @ up / n - fantasy.T @ down / len(fantasy)) / sigma - how.decay * expert.weight,
        (v.mean(0) - fantasy.mean(0)) / sigma,  # the gradient times σ, since its curvature is 1/σ²
        up.mean(0) - down.mean(0),
    )
    for parameter, motion, gradient in zip((expert.weight, expert.visible, expert.hidden), moving, gradients,
                                           strict=True):  # fmt: skip
        motion.mul_(momentum).add_(gradient, alpha=rate * sigma)
        parameter.add_(motion)
    return error


def write(path: Path, expert: Expert) -> None:
    """Write an expert as an `.npz` in half precision."""
    arrays = {name: getattr(expert, name).numpy().astype(np.float16) for name in ("weight", "visible", "hidden")}
    shape, sigma = np.array(expert.shape), np.float32(expert.sigma)
    write_atomically(path, npz(arrays | {"shape": shape, "sigma": sigma, "whole": np.bool_(expert.whole)}))


def read(path: Path) -> Expert:
    """The expert in a file of `heatcli fit-expert`. Raises `UsageError`, also for arrays that do not fit together."""
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
