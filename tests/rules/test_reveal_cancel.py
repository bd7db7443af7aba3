"""RevealCancel beside a transcription of the paper's formulas in NumPy, and where it sees what the slope does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import images, load, walked
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.methods.table import method

pytestmark = pytest.mark.usefixtures("way")

Array = NDArray[np.float64]
CANCEL, RESCALE = method("deeplift-reveal-cancel"), method("deeplift-rescale")


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# --- the formulas, Shrikumar et al. 2017, sec. 3.5 ------------------------------------------------------------------


def transcribed(layers: list[tuple[Array, Array]], x: Array, x0: Array, target: int) -> Array:
    """Contributions of one input [n] to one output of dense layers with ReLUs between, by the paper's rules."""
    value, start = x, x0
    kept = []
    for number, (w, b) in enumerate(layers):
        d = value - start
        c = w * d  # [out, in]
        up, down = np.where(c > 0, c, 0).sum(1), np.where(c < 0, c, 0).sum(1)
        z, z0 = w @ value + b, w @ start + b
        if number == len(layers) - 1:
            kept.append((w, d, None, None))
            break
        f = lambda v: np.maximum(v, 0)  # noqa: E731
        rise = (f(z0 + up) - f(z0)) / 2 + (f(z0 + down + up) - f(z0 + down)) / 2
        fall = (f(z0 + down) - f(z0)) / 2 + (f(z0 + up + down) - f(z0 + up)) / 2
        slope = (f(z) - f(z0)) / (z - z0)  # where a part is 0, and its multiplier 0/0
        over_up = np.divide(rise, up, out=slope.copy(), where=up != 0)
        kept.append((w, d, over_up, np.divide(fall, down, out=slope.copy(), where=down != 0)))
        value, start = f(z), f(z0)
    m = np.eye(len(layers[-1][1]))[target]
    for w, d, over_up, over_down in reversed(kept):
        up, down = (m, m) if over_up is None or over_down is None else (m * over_up, m * over_down)
        c = w * d
        weight = np.where(c > 0, up[:, None], np.where(c < 0, down[:, None], (up + down)[:, None] / 2))
        m = (w * weight).sum(0)
    result: Array = m * (x - x0)
    return result


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_papers(seed: int, depth: int) -> None:
    """Networks of up to three layers, random and with equal inputs here and there, to 1e-6 and far below."""
    torch.manual_seed(seed)
    sizes = [*[6, 5, 4, 3][:depth], 3]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    module = nn.Sequential(*parts[:-1]).double()
    x, x0 = images(1, seed, (6,)).double(), images(1, seed + 9, (6,)).double()
    x[0, 2] = x0[0, 2]
    found = walked(module, x, CANCEL, x0, 1)
    layers = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in module if isinstance(p, nn.Linear)]
    expected = transcribed(layers, x[0].numpy(), x0[0].numpy(), 1)
    np.testing.assert_allclose(found.relevance[0].detach().numpy(), expected, rtol=1e-6, atol=1e-9)
    assert float(found.left.abs().max()) < 1e-12


# --- closed forms ---------------------------------------------------------------------------------------------------


def saturated(x: Tensor) -> Tensor:
    return 1 - torch.relu(1 - x[:, :1] - x[:, 1:])


def smaller(x: Tensor) -> Tensor:
    """min(i1, i2) = i1 − max(0, i1 − i2)."""
    difference = functional.linear(x, torch.tensor([[1.0, -1.0]], dtype=x.dtype))
    return x[:, :1] - torch.relu(difference)


def both(x: Tensor) -> Tensor:
    """AND: relu(i1 + i2 − 1)."""
    return torch.relu(functional.linear(x, torch.ones(1, 2, dtype=x.dtype), -torch.ones(1, dtype=x.dtype)))


def different(x: Tensor) -> Tensor:
    """XOR of two bits: i1 + i2 − 2·relu(i1 + i2 − 1)."""
    return x.sum(1, keepdim=True) - 2 * both(x)


def test_a_minimum_is_due_to_both() -> None:
    """The slope gives all to the larger input's difference: the paper's example of what RevealCancel mends."""
    assert torch.allclose(walked(smaller, row(3, 1), RESCALE, row(0, 0)).relevance, row(0, 1))
    assert torch.allclose(walked(smaller, row(3, 1), CANCEL, row(0, 0)).relevance, row(0.5, 0.5))
    assert torch.allclose(walked(smaller, row(1, 3), CANCEL, row(0, 0)).relevance, row(0.5, 0.5))


def test_saturation_and_and() -> None:
    assert torch.allclose(walked(saturated, row(1, 1), CANCEL, row(0, 0)).relevance, row(0.5, 0.5))
    assert torch.allclose(walked(both, row(1, 1), CANCEL, row(0, 0)).relevance, row(0.5, 0.5))
    assert torch.allclose(walked(different, row(1, 1), CANCEL, row(0, 0)).relevance, row(0, 0))
    assert torch.allclose(walked(different, row(1, 0), CANCEL, row(0, 0)).relevance, row(1, 0))


def test_a_decision_that_only_a_bias_takes() -> None:
    """Without a baseline the bias's part is kept apart too: relu(0·x + 2) is all its, relu(x − 1) at 3 is +3 − 1."""
    constant = nn.Linear(1, 1).double()
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, 2)
    alone = walked(nn.Sequential(constant, nn.ReLU()), row(5), CANCEL)
    assert alone.relevance.tolist() == [[0]]
    assert [float(v.sum()) for v in alone.books.biases.values()] == [2]
    shifted = nn.Linear(1, 1).double()
    nn.init.ones_(shifted.weight)
    nn.init.constant_(shifted.bias, -1)
    found = walked(nn.Sequential(shifted, nn.ReLU()), row(3), CANCEL)
    # f(3) = 3 first, 2 last: 2.5 for the input; −1 last, 0 first: −0.5 for the bias
    assert torch.allclose(found.relevance, row(2.5))
    assert [float(v.sum()) for v in found.books.biases.values()] == [-0.5]


class Genomics(nn.Module):
    """A convolution and two dense layers, as the paper's DNA model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.b(torch.relu(self.a(x)))


def test_genomics_chooses_by_layer(tmp_path: Path) -> None:
    """Rescale behind the convolution, RevealCancel behind the dense layer: neither one alone."""
    torch.manual_seed(0)
    model, batch = load(Genomics().eval(), tmp_path, shape=(3, 6, 6)), images(2, shape=(3, 6, 6))
    rescale, cancel, genomics = (
        heatcli.explain(model, batch, f"deeplift-{name}", target=1).relevance
        for name in ("rescale", "reveal-cancel", "genomics")
    )
    size = float(cancel.abs().max())
    assert float((genomics - cancel).abs().max()) > 1e-3 * size
    assert float((genomics - rescale).abs().max()) > 1e-3 * size
    module = Genomics().eval()
    torch.manual_seed(0)
    module = Genomics().eval()

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return module.b(torch.relu(module.a(x)))

    features = torch.relu(module.conv(batch)).mean((2, 3)).detach()
    start = torch.relu(module.conv(batch * 0)).mean((2, 3)).detach()
    top = walked(Head(), features, CANCEL, start, 1).relevance / (features - start)
    conv = module.conv(batch).detach().requires_grad_()
    slope = (torch.relu(conv) - torch.relu(module.conv(batch * 0))) / (conv - module.conv(batch * 0))
    m = (top[:, :, None, None] / 16 * slope).detach()
    expected = functional.conv_transpose2d(m, module.conv.weight) * batch
    assert torch.allclose(genomics, expected, atol=1e-5 * size)
