"""The interface of rules: `Step` (a rule's argument), `Sent` and `Carried` (its results), `Rule` (its base class)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from heatcli.errors import ModelError, first_line
from heatcli.graph.adjoints import Product
from heatcli.graph.facts import facts_of
from heatcli.graph.operator import Operator
from heatcli.rules.numerics import per_image
from heatcli.rules.parameters import Parameters
from heatcli.system.torch_private import run_backward

Multipliers = Sequence[Tensor | None]


class Carried(ABC):
    """Relevance of a value in another form than a multiplier, convertible to a multiplier."""

    @abstractmethod
    def at_output(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """The multiplier of `step`'s output, and relevance [N] that no multiplier can carry (None: none is lost)."""

    @abstractmethod
    def at_image(self, difference: Tensor) -> Tensor:
        """The multiplier of the image, whose difference from the baseline is `difference` [N, …]."""

    @abstractmethod
    def __add__(self, other: Tensor | Carried) -> Tensor | Carried:
        """The sum, for a value that two operators read."""

    def __radd__(self, other: Tensor) -> Tensor | Carried:
        return self + other


@dataclass(slots=True, eq=False, kw_only=True)
class Step:
    """One operator as it ran: its inputs (one for each source), its output, and both on the reference.

    Tensors are [N, …]. Without a baseline the reference of every input is 0, and `reference_inputs` is None. A
    reference may have one row for all images.
    """

    operator: Operator
    inputs: list[Tensor]
    output: Tensor
    others: Mapping[str, Tensor]  # other values that the operator reads, such as masks
    reference_inputs: list[Tensor] | None = None
    reference_output: Tensor | None = None
    product: Product | None = None  # the vector-Jacobian product in closed form
    taped: bool = False  # the output has an autograd tape
    differentiable: bool = False  # the walk itself is differentiated
    fixed: bool = False  # the walk is recorded: no decision may depend on tensor values
    in_place: bool = False  # the output overwrote the input (`heatcli.engine.fast.in_place`)
    producers: Sequence[Step | None] = ()  # the steps that computed the inputs; None: the image
    bounds: tuple[Tensor, Tensor] | None = None  # the lowest and highest values of the input (first layers only)
    rule: Rule | None = None  # the walk's rule for the operator
    parts: tuple[Tensor, Tensor] | None = None  # positive and negative part of the difference, cached

    def adjoint(self, multiplier: Tensor) -> Multipliers:
        """The exact vector-Jacobian product for each input; None for an input without influence.

        `multiplier`: of the output's shape. Raises `RuntimeError` if the step has neither a closed form nor a tape,
        `ModelError` if torch has no derivative.
        """
        if self.product is not None:
            products = self.product(self.operator, self.inputs, self.output, multiplier)
            return [m if m.dtype == x.dtype else m.to(x.dtype) for x, m in zip(self.inputs, products, strict=True)]
        if not self.taped:
            raise RuntimeError(f"operator {self.operator.name} ran without a tape and has no product in closed form")
        return self.gradient(self.output, self.inputs, multiplier)

    def adjoint_at(self, inputs: Sequence[Tensor], multiplier: Tensor) -> Multipliers:
        """The exact vector-Jacobian product at other inputs, of the same shapes.

        Raises `ModelError` if torch has no derivative.
        """
        return self.gradient(*self.run(self.operator, inputs), multiplier)

    def run(self, operator: Operator, inputs: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Run a similar operator at other inputs, of the same shapes, with a tape.

        Returns its output and the inputs for `gradient`.
        """
        with torch.enable_grad():
            inputs = [x if self.differentiable else x.detach().requires_grad_() for x in inputs]
            return operator.run(self.others, inputs), inputs

    def gradient(self, output: Tensor, inputs: Sequence[Tensor], multiplier: Tensor) -> Multipliers:
        """The vector-Jacobian product of `run`'s result; None for inputs that the output does not depend on.

        `multiplier`: of the output's shape. Raises `ModelError` if torch has no derivative.
        """
        if not output.requires_grad:
            return [None] * len(inputs)
        if facts_of(self.operator).refuses_channels_last:
            multiplier = multiplier.contiguous()
        try:
            return run_backward(output, inputs, multiplier, self.differentiable)
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            raise ModelError(
                f"operator {self.operator.name} has no derivative in torch: {first_line(error)}"
            ) from error

    @property
    def without_reference(self) -> bool:
        """Whether there is no reference, so that biases take the operator's output at zero input."""
        return self.reference_inputs is None

    @property
    def difference(self) -> Tensor:
        """Output minus reference output, z − z0."""
        return self.output if self.reference_output is None else self.output - self.reference_output

    def input_difference(self, i: int) -> Tensor:
        """Input i minus its reference, x − x0."""
        return self.inputs[i] if self.reference_inputs is None else self.inputs[i] - self.reference_inputs[i]

    def references(self) -> list[Tensor] | None:
        """The reference of each input with a row for each image; None without references."""
        given = self.reference_inputs
        return given and [torch.empty_like(x).copy_(x0) for x, x0 in zip(self.inputs, given, strict=True)]

    def midpoints(self) -> list[Tensor]:
        """The midpoint of each input and its reference."""
        return [x / 2 for x in self.sums()]

    def sums(self) -> list[Tensor]:
        """Each input plus its reference."""
        if self.reference_inputs is None:
            return list(self.inputs)
        return [x + x0 for x, x0 in zip(self.inputs, self.reference_inputs, strict=True)]

    @property
    def bias(self) -> Tensor | None:
        """The sum of the operator's offsets, which broadcasts against the output; None if no bias takes relevance."""
        return self.operator.bias if self.without_reference else None


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """The result of a rule.

    `multipliers`: one for each source. `offsets_at`: the multiplier at which the operator's offsets are booked to
    their biases (None: nothing is booked). `absorbed`, `unexplained`: relevance [N] booked here. `relevance`: the
    relevance of the only source, from rules that return no multipliers (first layers).
    """

    multipliers: Sequence[Tensor | Carried | None]
    offsets_at: Tensor | None = None
    absorbed: Tensor | None = None
    unexplained: Tensor | None = None
    relevance: Tensor | None = None


@dataclass(frozen=True)
class Rule(Parameters):
    """A rule: a frozen dataclass whose fields are its parameters, called with a step and a multiplier.

    A rule is a pure function: it changes no argument, keeps no state, and treats each image separately
    (`tests/rules/test_contract.py`). Class variables other than those declared here raise `TypeError` at definition.
    """

    source: ClassVar[str]  # paper and equation
    accepts: ClassVar[tuple[type[Carried], ...]] = ()  # forms that it accepts besides a multiplier
    reads_output: ClassVar[bool] = True  # whether it reads the value of its step's output
    reads_input: ClassVar[bool] = True  # whether it reads the values of its step's inputs
    first_only: ClassVar[bool] = False  # whether it returns relevance and so serves only first layers

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        fields = {name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar")}
        names = {name for name, value in vars(cls).items() if not name.startswith("_") and not callable(value)}
        unknown = names - fields - _DECLARED - {n for n in names if isinstance(vars(cls)[n], _METHODS)}
        if unknown:
            raise TypeError(f"{cls.__name__}: a rule has no {', '.join(sorted(unknown))}")

    def __call__(self, step: Step, multiplier: Any) -> Sent:
        """Propagate `multiplier`, with the output's shape, or a form that the rule `accepts`, back through `step`."""
        raise NotImplementedError


_DECLARED = frozenset(("source", "accepts", "reads_output", "reads_input", "first_only"))
_METHODS = (property, staticmethod, classmethod)
Table = Mapping[str, Rule]  # a method's rules: kind or role of operators (`heatcli.graph.kinds`) → rule
Maker = Callable[..., Rule]


@dataclass(frozen=True)
class Adjoint(Rule):
    """m_in = Jᵀ m_out. LRP-0 and DeepLIFT's linear rule on affine operators, exact on sums and layouts."""

    source: ClassVar[str] = "exact vector-Jacobian product; LRP-0: Bach et al. 2015, eq. 56"
    reads_output: ClassVar[bool] = False
    reads_input: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """The gradient. The operator's offsets are booked at the same multiplier."""
        return Sent(step.adjoint(multiplier), offsets_at=multiplier)


@dataclass(frozen=True)
class Booked(Rule):
    """For operators without a rule: the adjoint, whose imbalance is measured and booked."""

    source: ClassVar[str] = "exact vector-Jacobian product, imbalance booked as unexplained"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Unexplained: m·(z − z0) − Σ m_in·(x − x0)."""
        multipliers = step.adjoint(multiplier)
        arrived = multiplier * step.difference
        sent = [m * step.input_difference(i) for i, m in enumerate(multipliers) if m is not None]
        rows = math.gcd(*(x.shape[0] if x.dim() else 1 for x in (arrived, *sent)))  # images, or parts of images
        left = per_image(arrived.reshape(rows, -1)) - sum(per_image(x.reshape(rows, -1)) for x in sent)
        return Sent(multipliers, unexplained=left)
