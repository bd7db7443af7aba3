"""What every rule is given (`Step`) and what it gives back (`Sent`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from heatcli.errors import ModelError, first_line
from heatcli.graph.adjoints import closed_form, relu_over_output
from heatcli.graph.operator import Operator
from heatcli.parameters import Parameters

Multipliers = Sequence[Tensor | None]
_ENGINE = torch.autograd.Variable._execution_engine
_RECORDING = ContextVar("recording", default=False)
_DOT = 1 << 15  # values of an image from which a call for each image costs less than its products' memory


@contextmanager
def recording() -> Iterator[None]:
    """Within, walks are recorded to be compiled (`heatcli.compiled`)."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def recorded() -> bool:
    """Whether this walk is recorded: then no rule may decide by what values are, only by what is known beforehand."""
    return _RECORDING.get()


@dataclass(slots=True, eq=False)
class Step:
    """One operator as it ran: its inputs (one for each source), its output, and both on the reference.

    Without a reference ("blame the bias") the reference of every input is 0, and `reference_inputs` is None.
    A reference may have one row that stands for all images. `producers` are the steps that its inputs came from (None:
    the image), `bounds` the lowest and highest values that its first input can take (first layers only), `rule` the one
    that the walk chose for it, `parts` the positive and negative part of its difference, once they were asked for.
    `in_place`: it wrote its output over its input, which is gone. Nothing reads a ReLU's once the walk is there, so its
    own rule, or that which it passes relevance on to, may write over it in turn.
    """

    operator: Operator
    inputs: list[Tensor]
    output: Tensor
    others: Mapping[str, Tensor]
    reference_inputs: list[Tensor] | None = None
    reference_output: Tensor | None = None
    differentiable: bool = False
    in_place: bool = False
    producers: Sequence[Step | None] = ()
    bounds: tuple[Tensor, Tensor] | None = None
    rule: Rule | None = None
    parts: tuple[Tensor, Tensor] | None = None

    def adjoint(self, multiplier: Tensor) -> Multipliers:
        """The exact vector-Jacobian product of the operator at its inputs, for each of them."""
        if self.in_place and self.operator.title == "relu":
            return [relu_over_output(self.output, multiplier)]
        product = closed_form(self.operator, self.differentiable)
        if product is None:
            return self.gradient(self.output, self.inputs, multiplier)
        found = product(self.operator, self.inputs, self.output, multiplier)
        return [m if m.dtype == x.dtype else m.to(x.dtype) for x, m in zip(self.inputs, found, strict=True)]

    def remade(self) -> Tensor:
        """The input of a ReLU that wrote its output over it, once more."""
        (producer,) = self.producers
        assert producer is not None
        with torch.no_grad():
            return producer.operator.run(producer.others, producer.inputs)

    def adjoint_at(self, inputs: Sequence[Tensor], multiplier: Tensor) -> tuple[Tensor, Multipliers]:
        """Run the operator at other inputs: its output there, and the vector-Jacobian product there."""
        output, inputs = self.run(self.operator, inputs)
        return output.detach(), self.gradient(output, inputs, multiplier)

    def run(self, operator: Operator, inputs: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Run an operator like this one at other inputs, with a tape: its output and the inputs it hangs on."""
        with torch.enable_grad():
            inputs = [x if self.differentiable else x.detach().requires_grad_() for x in inputs]
            return operator.run(self.others, inputs), inputs

    def gradient(self, output: Tensor, inputs: Sequence[Tensor], multiplier: Tensor) -> Multipliers:
        """The vector-Jacobian product of what `run` returned."""
        if not output.requires_grad:
            return [None] * len(inputs)
        # What torch.autograd.grad calls, without its wrapper, which imports sympy (a second) to compare two shapes.
        try:
            return _ENGINE.run_backward(
                (output,), (multiplier,), True, self.differentiable, tuple(inputs), allow_unreachable=True,
                accumulate_grad=False,
            )  # fmt: skip
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            raise ModelError(
                f"operator {self.operator.name} has no derivative in torch: {first_line(error)}"
            ) from error

    @property
    def blamed(self) -> bool:
        """Whether there is no reference, so that offsets are blamed."""
        return self.reference_inputs is None

    @property
    def difference(self) -> Tensor:
        """Output minus reference output, z − z0."""
        return self.output if self.reference_output is None else self.output - self.reference_output

    def input_difference(self, i: int) -> Tensor:
        """Input i minus its reference, x − x0."""
        return self.inputs[i] if self.reference_inputs is None else self.inputs[i] - self.reference_inputs[i]

    def references(self) -> list[Tensor] | None:
        """The reference of each input, a row for each image."""
        found = self.reference_inputs
        return found and [torch.empty_like(x).copy_(x0) for x, x0 in zip(self.inputs, found, strict=True)]

    def midpoints(self) -> list[Tensor]:
        """Halfway between each input and its reference."""
        return [x / 2 for x in self.sums()]

    def sums(self) -> list[Tensor]:
        """Each input plus its reference."""
        if self.reference_inputs is None:
            return list(self.inputs)
        return [x + x0 for x, x0 in zip(self.inputs, self.reference_inputs, strict=True)]

    @property
    def bias(self) -> Tensor | None:
        """The sum of its offsets, which broadcasts against the output; None where it has none or none is blamed."""
        return self.operator.bias if self.blamed else None


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two multipliers of one value: of the positive and of the negative part of its difference from the reference."""

    positive: Tensor
    negative: Tensor

    def __add__(self, other: Carried) -> Pair:
        if isinstance(other, Passed):
            other = other.multiplier()
        p, n = (other.positive, other.negative) if isinstance(other, Pair) else (other, other)
        return Pair(self.positive + p, self.negative + n)

    __radd__ = __add__


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What a nonlinearity y = f(x) passes to its input: y's relevance, m·(y − y0), not divided by x − x0 yet.

    A rule that multiplies by x − x0 at once, to share relevance out, spares that. f keeps signs (with a reference,
    order), so that y − y0 is nowhere of another sign than x − x0. `back` divides: the multiplier of x.
    """

    step: Step
    m: Tensor
    back: Callable[[Step, Tensor], Tensor]

    def multiplier(self) -> Tensor:
        """m·(y − y0)/(x − x0), of the shape of x."""
        return self.back(self.step, self.m)

    def __add__(self, other: Carried) -> Tensor | Pair:
        return self.multiplier() + (other.multiplier() if isinstance(other, Passed) else other)

    __radd__ = __add__


Carried = Tensor | Pair | Passed


def shared(step: Step, multiplier: Tensor | Passed, by: Tensor) -> Tensor:
    """The relevance of a step's output, m·(z − z0), divided `by` a tensor of its shape; in its memory but for tapes."""
    m, of = (multiplier.m, multiplier.step) if isinstance(multiplier, Passed) else (multiplier, step)
    if by.requires_grad or m.requires_grad or by.dtype.itemsize < 4:  # m/by is out of the range of half precision
        return m * of.difference / by
    return torch.div(m, by, out=by).mul_(of.difference)


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What a rule answers.

    `multipliers`: one for each source. `offsets_at`: the multiplier at which the operator's offsets are booked to
    their biases (None: nothing is booked). `absorbed`, `unexplained`: relevance [N] that went into them here.
    `relevance`: of the only source, where the rule answers in relevance instead of multipliers (first layers).
    """

    multipliers: Sequence[Carried | None]
    offsets_at: Tensor | None = None
    absorbed: Tensor | None = None
    unexplained: Tensor | None = None
    relevance: Tensor | None = None


class Rule(Protocol):
    """A frozen dataclass whose fields are its parameters. `source` names the paper and equation.

    It is called with torch's gradients off unless the step is `differentiable`.
    Class variables, where they differ from the defaults: `takes` = () names what it can be given beside a tensor,
    `Pair` or `Passed`. `reads_output` = True: without a reference it reads its step's output, even if that goes to a
    ReLU alone and the rule is given what the ReLU passed on. `reads_input` = True: it reads the input of operators that
    can write over it (`heatcli.graph.in_place`).
    """

    source: ClassVar[str]

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Pass `multiplier`, of the output's shape, back through `step`."""
        ...


Table = Mapping[str, Rule]  # of a method: kinds and roles of operators (`heatcli.graph.kinds`) → their rule


def wide(x: Tensor) -> Tensor:
    """In float64, which sums are booked in; on the CPU where the device has none (MPS)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def per_image(relevance: Tensor) -> Tensor:
    """Sum of all but the first dimension, in float64: [N]."""
    if relevance.dim() == 1 or relevance.device.type == "mps":
        return wide(relevance).reshape(len(relevance), -1).sum(1)
    return relevance.sum(tuple(range(1, relevance.dim())), dtype=torch.float64)


# Selection by sign in one vectorised pass: torch.where and masks take longer on a CPU.


def above_zero(m: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """m where x ≥ 0, else 0; in the memory of `out` where that is given."""
    return _between(m, x, -torch.finfo(x.dtype).tiny, math.inf, out)


def below_zero(m: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """m where x < 0, else 0; in the memory of `out` where that is given."""
    return _between(m, x, -math.inf, 0.0, out)


def _between(m: Tensor, x: Tensor, low: float, high: float, out: Tensor | None) -> Tensor:
    select = torch.ops.aten.hardtanh_backward
    return select(m, x, low, high) if out is None else select.grad_input(m, x, low, high, grad_input=out)  # type: ignore[no-any-return]


def quotient(top: Tensor, bottom: Tensor, level: Tensor, tolerance: Tensor | float = 0.0) -> Tensor:
    """top/bottom, but `level` where |bottom| ≤ tolerance."""
    close = bottom.detach().abs().neg_().add_(tolerance)
    if torch.is_grad_enabled():  # what is not chosen must not divide by 0 on the way back either
        near = close >= 0
        return torch.where(near, level, top / torch.where(near, 1, bottom))
    return below_zero(top / bottom, close).add_(above_zero(level, close))


def exponential_slope(a: Tensor, b: Tensor) -> Tensor:
    """(eᵃ − eᵇ)/(a − b), and its limit where a = b."""
    d = torch.where(a.isneginf() | b.isneginf(), -math.inf, a - b)
    near = d.abs() < 1e-3
    return torch.where(near, torch.exp((a + b) / 2), (torch.exp(a) - torch.exp(b)) / torch.where(near, 1, d))


def row_sums(x: Tensor) -> Tensor:
    """Sum of all but the first dimension, [N], in float64 after the last ones: ten times as fast as `per_image`.

    For what has the size of activations, where float32 sums of single channels are exact enough.
    """
    if x.dim() <= 2 or x.shape[:2].numel() == x.numel():
        return per_image(x)
    return wide(x.sum(tuple(range(2, x.dim())))).sum(1)


def row_dots(x: Tensor, y: Tensor) -> Tensor:
    """Σ x·y over all but the first dimension, float64 [N], without room for the products where that pays."""
    if recorded() or x.device.type != "cpu" or x.stride() != y.stride() or x.shape[1:].numel() < _DOT:
        return row_sums(x * y)
    return wide(torch.stack([torch.dot(a, b) for a, b in zip(_flat(x), _flat(y), strict=True)]))


def _flat(x: Tensor) -> Tensor:
    """[N, …] as [N, M], in the order of memory, so that channels last costs no copy."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return (x.permute(0, 2, 3, 1) if last else x).reshape(len(x), -1)


def signed(size: float, x: Tensor) -> Tensor:
    """`size` with the sign of x."""
    return torch.copysign(x.new_full((), size), x)


@dataclass(frozen=True)
class Adjoint(Parameters):
    """m_in = Jᵀ m_out. LRP-0 and DeepLIFT's linear rule on affine operators, exact on sums and layouts."""

    source: ClassVar[str] = "exact vector-Jacobian product; LRP-0: Bach et al. 2015, eq. 56"
    reads_output: ClassVar[bool] = False
    reads_input: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """The gradient; what the operator adds at zero input is booked to its bias at the same multiplier."""
        return Sent(step.adjoint(multiplier), offsets_at=multiplier)


@dataclass(frozen=True)
class Booked(Parameters):
    """For operators that no rule knows: the adjoint, with the relevance it fails to pass on measured and booked."""

    source: ClassVar[str] = "exact vector-Jacobian product, imbalance booked as unexplained"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """m·(z − z0) − Σ m_in·(x − x0) is what is unexplained here."""
        multipliers = step.adjoint(multiplier)
        arrived = multiplier * step.difference
        sent = [m * step.input_difference(i) for i, m in enumerate(multipliers) if m is not None]
        rows = math.gcd(*(len(x) for x in (arrived, *sent)))  # of an image each, or of a part of one
        left = per_image(arrived.reshape(rows, -1)) - sum(per_image(x.reshape(rows, -1)) for x in sent)
        return Sent(multipliers, unexplained=left)
