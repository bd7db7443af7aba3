"""What a method is: a record of a table of rules, and of the procedure that asks for walks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.kinds import CONVOLUTION, DENSE, ELEMENTWISE, FIRST, RECTIFIER, ROLES
from heatcli.graph.operator import Graph
from heatcli.ledger import Books
from heatcli.methods.question import Question
from heatcli.parameters import Parameters
from heatcli.rules.base import Rule, Table
from heatcli.rules.registry import RULES
from heatcli.rules.reveal_cancel import Parts, RevealCancel

RELEVANCE, MULTIPLIER, SQUARE = "relevance", "multiplier", "square"
ANY, ONE, POOL, FOLDER = "any", "one", "pool", "folder"
TAKES = {ANY: "an image or none", ONE: "an image", POOL: "an image or a folder", FOLDER: "a folder"}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a procedure found: `relevance` [N, …] of the input, what was booked, and the baseline's score [N].

    `books` is None where nothing else is booked, `score0` where the reference is none.
    """

    relevance: Tensor
    books: Books | None = None
    score0: Tensor | None = None


class Procedure(Protocol):
    """A frozen dataclass of parameters that turns a question into an answer by forward runs and walks.

    `kind`: backward, cam, path or perturbation. `compares`: whether the walk over the batch takes differences from
    the baseline. `takes`: `any` baseline or none, `one` image, a `pool` of several or one, a `folder` of several.
    `cost`: forward and backward runs, in words.
    """

    kind: ClassVar[str]
    compares: ClassVar[bool]
    takes: ClassVar[str]

    @property
    def cost(self) -> str:
        """Forward and backward runs of the network for one image, in words."""
        ...

    def __call__(self, question: Question, method: Method) -> Answer:
        """Relevance for every image of the question's batch."""
        ...


@dataclass(frozen=True)
class OneWalk(Parameters):
    """One forward run, one walk back."""

    kind: ClassVar[str] = "backward"
    compares: ClassVar[bool] = True
    takes: ClassVar[str] = ANY

    @property
    def cost(self) -> str:
        """With a baseline its forward run comes on top, once for all images."""
        return "1 forward, 1 backward"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked once."""
        walked = question.walk_batch(method.rules, books=method.conserves or FIRST in method.rules)
        relevance = method.read(walked.multiplier, question.difference)
        if walked.books.direct is not None:
            relevance = relevance + walked.books.direct
        return Answer(relevance, walked.books, walked.score0)


@dataclass(frozen=True)
class Method:
    """What is done with each kind of operator on the way back, and what the result claims.

    `rules`: kind of operator, or role within a kind, → rule. `baseline` is the default reference: `none` (blame the
    bias), another baseline's name, `given` where the user must name one, or None where a baseline has no meaning and
    is refused. `readout`: what the
    heatmap shows of the multiplier m of a pixel x: `relevance` m·(x − x0), the `multiplier` itself, or its `square`.
    `conserves`: the ledger balances, every offset is booked to its bias.
    """

    name: str
    summary: str
    source: str
    rules: Table
    baseline: str | None = "none"
    readout: str = RELEVANCE
    conserves: bool = True
    procedure: Procedure = field(default_factory=OneWalk)

    @property
    def kind(self) -> str:
        """backward, cam, path or perturbation."""
        return self.procedure.kind

    @property
    def takes(self) -> str:
        """What it takes as a baseline: nothing, any, one image, one or several, several."""
        return "nothing" if self.baseline is None else TAKES[self.procedure.takes]

    @property
    def fields(self) -> dict[str, Field[Any]]:
        """Its parameters' fields, by name: those of its rules and of its procedure."""
        parts = (*self.rules.values(), self.procedure)
        return {f.name: f for part in parts for f in fields(part)}  # type: ignore[arg-type]

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters and their values."""
        parts = (*self.rules.values(), self.procedure)
        return {f.name: getattr(part, f.name) for part in parts for f in fields(part)}  # type: ignore[arg-type]

    def read(self, multiplier: Tensor, difference: Tensor) -> Tensor:
        """What the heatmap shows, from multipliers and differences of the input [N, …]."""
        if self.readout == MULTIPLIER:
            return multiplier
        return multiplier * (difference if self.readout == RELEVANCE else multiplier)

    def configured(self, parameters: Mapping[str, Any]) -> Method:
        """The same method with other parameters. Raises `UsageError` for a name or value that it does not take."""
        known = self.parameters
        for name in parameters:
            if name not in known:
                if not known:
                    raise UsageError(f"method {self.name} takes no parameters, {name!r} is one too many")
                raise unknown_name(f"parameter of {self.name}", name, known)
        values = {name: _as_type(name, value, type(known[name])) for name, value in parameters.items()}

        def own(part: Any) -> Any:
            """A rule or procedure with those of the values that are its own."""
            taken = {f.name: values[f.name] for f in fields(part) if f.name in values}
            return replace(part, **taken) if taken else part

        return replace(
            self, rules={kind: own(rule) for kind, rule in self.rules.items()}, procedure=own(self.procedure)
        )

    def with_rules(self, given: Iterable[str]) -> Method:
        """The same method with entries of its table replaced: `KIND=RULE` or `KIND=RULE:k=v,k=v`.

        A rule that only some operators of the kind can have goes to those (z-plus of affine operators to convolutions
        and dense layers). Raises `UsageError` for a kind, rule or parameter that there is not.
        """
        table = dict(self.rules)
        for item in given:
            for name, rule in _entry(item).items():
                for role in [role for role, kind in ROLES.items() if kind == name]:
                    table.pop(role, None)
                table[name] = rule
        if any(isinstance(rule, RevealCancel) for rule in table.values()):
            table = {**table, **dict.fromkeys(("affine", "sum", "layout"), Parts())}
        return replace(self, rules=table)

    def fits(self, graph: Graph) -> None:
        """Raise `UsageError` if what sets this method apart would never happen in `graph`: it would be another one."""
        roles = {op.role for op in graph.operators if op.role} | {FIRST for op in graph.operators if op.first}
        wanted = [[name] for name in (FIRST, RECTIFIER) if name in self.rules]
        wanted += [[name for name in (CONVOLUTION, DENSE) if name in self.rules]]
        for names in wanted:
            if names and not roles.intersection(names):
                titles = sorted({op.title for op in graph.operators if op.kind == ELEMENTWISE})
                has = f"; its nonlinearities are {', '.join(titles) or 'none'}" if names == [RECTIFIER] else ""
                raise UsageError(
                    f"method {self.name} would say nothing here: it has a rule for {_WORDS[names[0]]}, and this "
                    f"network has none{has}"
                )


_WORDS = {
    FIRST: "layers with weights that see the image itself", RECTIFIER: "ReLUs", CONVOLUTION: "layers with weights",
    DENSE: "dense layers",
}  # fmt: skip


def _as_type(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={value!r} is not a {kind.__name__}") from error


def _entry(item: str) -> dict[str, Rule]:
    """`KIND=RULE:k=v` as entries of a table."""
    kind, _, wanted = item.partition("=")
    name, _, given = wanted.partition(":")
    if kind not in RULES:
        raise unknown_name("kind of operator", kind, RULES)
    parts = [role for role in (kind, *(r for r, k in ROLES.items() if k == kind)) if name in RULES[role]]
    if not parts:
        ways = "; ".join(f"{role}: {', '.join(RULES[role])}" for role in (kind, *_roles(kind)))
        raise UsageError(f"{kind} operators have no rule {name!r}; there are {ways}")
    chosen = parts[:1] if parts[0] == kind else parts
    pairs = dict(pair.partition("=")[::2] for pair in given.split(",")) if given else {}
    return {role: _made(role, name, pairs) for role in chosen}


def _roles(kind: str) -> list[str]:
    return [role for role, own in ROLES.items() if own == kind]


def _made(role: str, name: str, given: Mapping[str, str]) -> Rule:
    rule = RULES[role][name]()
    known = {f.name: type(getattr(rule, f.name)) for f in fields(rule)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            if not known:
                raise UsageError(f"rule {name} takes no parameters, {key!r} is one too many")
            raise unknown_name(f"parameter of rule {name}", key, known)
    values = {key: _as_type(key, value, known[key]) for key, value in given.items()}
    return replace(rule, **values)  # type: ignore[type-var]
