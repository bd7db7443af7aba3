"""RNN, GRU and LSTM, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call, numbers
from heatcli.artifact.onnx.value import Operator

_Activation = Callable[[Tensor], Tensor]
# Activation → its function of (x, alpha, beta), and the defaults of alpha and beta.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "relu": (lambda x, a, b: torch.relu(x), 0, 0),
    "tanh": (lambda x, a, b: torch.tanh(x), 0, 0),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), 0, 0),
    "affine": (lambda x, a, b: x * a + b, 1, 0),
    "leakyrelu": (lambda x, a, b: functional.leaky_relu(x, a), 0.01, 0),
    "thresholdedrelu": (lambda x, a, b: functional.threshold(x, a, 0.0), 1, 0),
    "scaledtanh": (lambda x, a, b: torch.tanh(x * b) * a, 1, 1),
    "hardsigmoid": (lambda x, a, b: torch.clamp(x * a + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: functional.elu(x, a), 1, 0),
    "softsign": (lambda x, a, b: functional.softsign(x), 0, 0),
    "softplus": (lambda x, a, b: functional.softplus(x), 0, 0),
}
_Cell = Callable[["_Weights", Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class _Weights:
    """One direction's weights: `w` [gates·H, I], `r` [gates·H, H], `b` both biases [2·gates·H], `p` peepholes [3·H]."""

    call: Call
    w: Tensor
    r: Tensor
    b: Tensor | None
    p: Tensor | None
    activations: Sequence[_Activation]

    @property
    def size(self) -> int:
        """H, the hidden size."""
        return self.r.shape[1]

    def bias(self, start: int, gates: int) -> Tensor | None:
        """The sum of both biases for `gates` gates from `start` on, [gates·H]."""
        if self.b is None:
            return None
        half, first, last = self.b.shape[0] // 2, start * self.size, (start + gates) * self.size
        return self.b[first:last] + self.b[half + first : half + last]

    def clipped(self, x: Tensor) -> Tensor:
        """The clipped input of an activation."""
        end = self.call.get("clip")
        return torch.clamp(x, -end, end) if end else x


def _filled_in(function: Callable[[Tensor, float, float], Tensor], alpha: float, beta: float) -> _Activation:
    """An activation with its α and β."""
    return lambda x: function(x, alpha, beta)


def _activations(call: Call, defaults: Sequence[str], direction: int) -> list[_Activation]:
    """The activations of one direction, by the node's attributes or the `defaults`."""
    count = len(defaults)
    names = list(call.get("activations") or [])[direction * count : (direction + 1) * count] or list(defaults)
    alphas, betas = (list(call.get(f"activation_{name}") or []) for name in ("alpha", "beta"))
    activations: list[_Activation] = []
    for i, name in enumerate(names):
        function, a, b = _ACTIVATIONS[name.lower()]
        index = direction * count + i
        alpha, beta = alphas[index] if index < len(alphas) else a, betas[index] if index < len(betas) else b
        activations.append(_filled_in(function, alpha, beta))
    return activations


def _recurrent(x: Tensor, r: Tensor, h: Tensor | None) -> Tensor:
    """x plus the hidden state's contribution; h = None stands for a state of 0."""
    return x if h is None else x + functional.linear(h, r)


def _rnn_cell(w: _Weights, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One step of an RNN: the new state [N, H]."""
    (f,) = w.activations
    return f(w.clipped(_recurrent(functional.linear(x, w.w, w.bias(0, 1)), w.r, h))), None


def _gru_cell(w: _Weights, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One step of a GRU: the new state [N, H]."""
    f, g = w.activations
    n = w.size
    gates = _recurrent(functional.linear(x, w.w[: 2 * n], w.bias(0, 2)), w.r[: 2 * n], h)
    z, r = torch.split(f(w.clipped(gates)), n, 1)
    hidden = w.r[2 * n :]
    if not w.call.get("linear_before_reset", 0):
        new = _recurrent(functional.linear(x, w.w[2 * n :], w.bias(2, 1)), hidden, None if h is None else r * h)
    else:
        halves = (None, None) if w.b is None else (w.b[2 * n : 3 * n], w.b[5 * n :])
        state = halves[1] if h is None else functional.linear(h, hidden, halves[1])
        new = functional.linear(x, w.w[2 * n :], halves[0])
        new = new if state is None else new + r * state
    new = g(w.clipped(new))
    return new - z * new if h is None else new - z * new + z * h, None


def _lstm_cell(w: _Weights, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One step of an LSTM: the new state and the new cell, each [N, H]."""
    f, g, last = w.activations
    gates = _recurrent(functional.linear(x, w.w, w.bias(0, 4)), w.r, h)
    i, o, forget, cell = torch.split(gates, w.size, 1)
    peep = (None, None, None) if w.p is None else torch.split(w.p, w.size)
    i = f(w.clipped(_peeped(i, peep[0], c)))
    forget = 1 - i if w.call.get("input_forget", 0) else f(w.clipped(_peeped(forget, peep[2], c)))
    new = i * g(w.clipped(cell))
    new = new if c is None else new + forget * c
    return f(w.clipped(_peeped(o, peep[1], new))) * last(new), new


def _peeped(gate: Tensor, peep: Tensor | None, c: Tensor | None) -> Tensor:
    """A gate's input plus its peephole's share of the cell."""
    return gate if peep is None or c is None else gate + peep * c


def _layer(cell: _Cell, gates: int, defaults: Sequence[str], with_cell: bool) -> Operator:
    """ONNX's RNN, GRU or LSTM: `cell` for each step and direction, with `gates` gates.

    `with_cell`: it has a cell state.
    """

    def run(
        call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
        h: Tensor | None = None, c: Tensor | None = None, p: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Outputs [T, directions, N, H], last states and, with a cell state, last cells."""
        batch_first = bool(call.get("layout", 0))
        x = torch.transpose(x, 0, 1) if batch_first else x
        states = [v if v is None or not batch_first else torch.transpose(v, 0, 1) for v in (h, c)]
        ends = numbers(lengths) if lengths is not None else [x.shape[0]] * x.shape[1]
        ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[call.get("direction", "forward")]
        directions = []
        for d, back in enumerate(ways):
            weights = _Weights(
                call, w[d], r[d], None if b is None else b[d], None if p is None else p[d],
                _activations(call, defaults, d),
            )  # fmt: skip
            start = [None if v is None else v[d] for v in states]
            directions.append(_run(cell, weights, x, ends, start, back))
        y, last, memory = (torch.stack(v, a) for v, a in zip(zip(*directions, strict=True), (1, 0, 0), strict=True))
        if batch_first:
            y, last, memory = torch.permute(y, [2, 0, 1, 3]), torch.transpose(last, 0, 1), torch.transpose(memory, 0, 1)
        return (y, last, memory) if with_cell else (y, last)

    return run


def _run(
    cell: _Cell, weights: _Weights, x: Tensor, ends: Sequence[int], start: Sequence[Tensor | None], back: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction: outputs [T, N, H], last output [N, H], last cell [N, H]."""
    steps, n = x.shape[0], x.shape[1]
    (h, c), outputs = start, []
    zero = torch.zeros(n, weights.size, dtype=x.dtype, device=x.device)
    for t in reversed(range(steps)) if back else range(steps):
        new_h, new_c = cell(weights, x[t], h, c)
        if all(t < end for end in ends):
            h, c = new_h, new_c
            outputs.append(h)
            continue
        inside = torch.tensor([[t < end] for end in ends], device=x.device)
        h = torch.where(inside, new_h, zero if h is None else h)
        c = None if new_c is None else torch.where(inside, new_c, zero if c is None else c)
        outputs.append(torch.where(inside, new_h, zero))
    outputs = list(reversed(outputs)) if back else outputs
    return torch.stack(outputs), zero if h is None else h, zero if c is None else c


OPERATORS: dict[str, Operator] = {
    "RNN": _layer(_rnn_cell, 1, ["Tanh"], False),
    "GRU": _layer(_gru_cell, 3, ["Sigmoid", "Tanh"], False),
    "LSTM": _layer(_lstm_cell, 4, ["Sigmoid", "Tanh", "Tanh"], True),
}
