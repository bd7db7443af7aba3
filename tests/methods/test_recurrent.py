"""Recurrent layers on features of convolutions: unrolled in every format, gates by `cp-lrp`, one step of the text.

With gates detached and tanh by its detached slope, relevance is input times autograd's gradient (Arras et al. 2019,
sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dense import assert_same
from networks import FORMATS, SIZE, images, randomised, save, walked
from torch import Tensor, nn

import heatcli
from heatcli.methods.table import method

WIDTH, HIDDEN, LETTERS = 6, 5, 4
CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def signal(x: Tensor) -> Tensor:
    """tanh, by its slope."""
    return x * (torch.tanh(x) / x).detach()


def gate(x: Tensor) -> Tensor:
    return torch.sigmoid(x).detach()


def lstm(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step from W x + b and U h + d."""
    i, f, g, o = (x + h).chunk(4, 1)
    c = gate(f) * c + gate(i) * signal(g)
    return gate(o) * signal(c), c


def gru(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step; the state c is the output.

    In the first step the reset gate weighs a constant, the bias alone, and so is no gate but a function by its slope.
    """
    (r, z, n), (u, v, w) = x.chunk(3, 1), h.chunk(3, 1)
    a = r + u
    reset = gate(a) if bool(c.any()) else a * ((torch.sigmoid(a) - 0.5) / a).detach() + 0.5
    new = (1 - gate(z + v)) * signal(n + reset * w) + gate(z + v) * c
    return new, new


def rnn(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - steps share one signature
    new = signal(x + h)
    return new, new


STEPS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


def by_hand(layer: nn.RNNBase, x: Tensor, kind: str) -> Tensor:
    """Outputs [N, T, HIDDEN] of one direction of one layer."""
    h = c = x.new_zeros(len(x), HIDDEN)
    outputs = []
    for t in range(x.shape[1]):
        driven = x[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0
        h, c = STEPS[kind](driven, h @ layer.weight_hh_l0.T + layer.bias_hh_l0, c)
        outputs.append(h)
    return torch.stack(outputs, 1)


class Recurrent(nn.Module):
    """One recurrent layer on [N, T, WIDTH], letters of its last step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = CELLS[kind](WIDTH, HIDDEN, batch_first=True)
        self.letters = nn.Linear(HIDDEN, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        return self.letters(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", list(CELLS))
def test_gates_are_weights(kind: str) -> None:
    """In float64: relevance of every input is that of modified gradients, and every unit is booked."""
    torch.manual_seed(0)
    module, batch = randomised(Recurrent(kind), 3).double(), images(1, 5, (7, WIDTH)).double()
    x = batch.clone().requires_grad_()
    scores = module.letters(by_hand(module.layer, x, kind)[:, -1])
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), x)
    found = walked(module, batch, method("cp-lrp", epsilon=0), target=1)
    torch.testing.assert_close(found.output, scores.detach())
    assert_same(found.relevance, batch * gradient)
    assert float(found.left.abs().max()) < 1e-9 * float(found.output.abs().max())
    assert not found.books.unexplained


class Reader(nn.Module):
    """A CRNN (Shi et al. 2015): convolutions, a recurrent layer both ways along the columns, [T, N, letters]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, WIDTH, 3, padding=1), nn.MaxPool2d((4, 2))
        self.layer = CELLS[kind](4 * WIDTH, HIDDEN, bidirectional=True)
        self.letters = nn.Linear(2 * HIDDEN, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.pool(torch.relu(self.convolution(x))).permute(3, 0, 1, 2).flatten(2)
        return self.letters(self.layer(columns)[0])


@pytest.mark.parametrize("kind", ["RNN", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("LSTM", "GRU"))])
def test_a_letter_has_the_same_map_from_every_format(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, batch = randomised(Reader(kind), 3), images(2, 3)
    maps = []
    for form in FORMATS:
        model = heatcli.load(save(module, tmp_path, form), size=(SIZE, SIZE), class_axis=2)
        result = heatcli.explain(model, batch, "cp-lrp", target="1@3", epsilon=0)
        torch.testing.assert_close(result.ledger.output.float(), module(batch)[3, :, 1].detach(), rtol=1e-4, atol=1e-5)
        assert float(result.ledger.relative_error.max()) < 1e-5
        assert not result.ledger.unexplained.any()
        maps.append(result.relevance)
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-4, atol=1e-5 * float(maps[0].abs().max()))
