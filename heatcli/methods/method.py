"""What a method is: a record of a table of rules and of a procedure that runs walks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from heatcli.engine.ledger import Books, Ledger
from heatcli.errors import UsageError
from heatcli.graph.kinds import CONVOLUTION, DENSE, ELEMENTWISE, FIRST, RECTIFIER
from heatcli.graph.operator import Graph
from heatcli.images.baselines import Reference, fitted, is_named, read, read_several, several_in
from heatcli.images.pictures import Pictures
from heatcli.methods.composite import check_layers, first_only, with_entries
from heatcli.methods.question import Question
from heatcli.rules.parameters import Parameters, typed
from heatcli.rules.rule import Table
from heatcli.system.files import is_there

RELEVANCE, MULTIPLIER, SQUARE = "relevance", "multiplier", "square"
ANY, ONE, POOL, FOLDER = "any", "one", "pool", "folder"
TAKES = {ANY: "an image or none", ONE: "an image", POOL: "an image or a folder", FOLDER: "a folder"}


@dataclass(frozen=True, eq=False)
class Concept:
    """What the channels of `layer` gave to the class's `score`, float64 [N]: `relevance`, float64 [N, channels].

    `chosen`: the channels that the map shows; () for all. `names`: of channels that have one.
    """

    layer: str
    chosen: tuple[int, ...]
    relevance: Tensor
    score: Tensor
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """A procedure's result: the input's `relevance` [N, …], the books, and the baseline's score [N].

    `books` is None if nothing else is booked, `score0` if there is no reference. `score` [N]: the
    explained score, where it is not the target's: of an artifact that explains itself, or of a `concept`.
    """

    relevance: Tensor
    books: Books | None = None
    score0: Tensor | None = None
    score: Tensor | None = None
    concept: Concept | None = None

    def closed(self, question: Question, conserves: bool) -> tuple[Books, Ledger]:
        """The books, and the ledger of the explained score. `conserves`: whether the method does."""
        books = self.books or Books.open(question.graph, question.batch)
        score = question.score if self.score is None else self.score
        return books, Ledger.of(score, self.score0, self.relevance, books, conserves)


class Procedure(Protocol):
    """A frozen dataclass of parameters that turns a question into an answer by forward runs and walks.

    `kind`: backward, cam, path or perturbation. `compares`: whether the walk over the batch takes differences from
    the baseline. `takes`: `any` baseline or none, `one` image, one image or a `pool`, or a `folder` of several.
    `cost`: forward and backward runs, in words. `keeps_values`, where it is so: every value that the network
    is shown is the batch's or the baseline's, none between.
    """

    kind: ClassVar[str]
    compares: ClassVar[bool]
    takes: ClassVar[str]

    @property
    def cost(self) -> str:
        """Forward and backward runs of the network for one image, in words."""
        ...

    def __call__(self, question: Question, method: Method) -> Answer:
        """The relevance of every image of the question's batch."""
        ...


@dataclass(frozen=True)
class OneWalk(Parameters):
    """One forward run, one walk back."""

    kind: ClassVar[str] = "backward"
    compares: ClassVar[bool] = True
    takes: ClassVar[str] = ANY
    keeps_values: ClassVar[bool] = True

    @property
    def cost(self) -> str:
        """A baseline adds one forward run, shared by all images."""
        return "1 forward, 1 backward"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked once."""
        walked = question.walk_batch(method.rules, books=method.books)
        relevance = method.relevance(walked.multiplier, question.difference, walked.books)
        return Answer(relevance, walked.books, walked.score0)


@dataclass(frozen=True)
class Method:
    """A rule for each kind of operator, and what the result claims.

    `rules`: kind of operator, role within a kind, or name of a layer → rule. `changed`: the user changed that table.
    `baseline`: the default reference: `none` (biases take the operators' output at zero input), another baseline's
    name, `given` if the user must name one, or None if baselines are meaningless and refused. `readout`: the heatmap's
    value for a pixel x with multiplier m: `relevance` m·(x − x0), the `multiplier` itself, or its `square`.
    `conserves`: the ledger balances, and every offset is booked to its bias.
    """

    name: str
    summary: str
    source: str
    rules: Table
    baseline: str | None = "none"
    readout: str = RELEVANCE
    conserves: bool = True
    procedure: Procedure = field(default_factory=OneWalk)
    changed: bool = False

    @property
    def kind(self) -> str:
        """backward, cam, path or perturbation."""
        return self.procedure.kind

    @property
    def divides(self) -> Literal["whole", "part", "no"]:
        """What the relevance divides: the whole score, only the pixels' part of it, or no score."""
        if self.conserves:
            return "whole"
        of_score = self.baseline is not None and self.readout == RELEVANCE and self.kind in ("backward", "path")
        return "part" if of_score else "no"

    @property
    def takes(self) -> str:
        """The baselines that the method takes, in words."""
        return "nothing" if self.baseline is None else TAKES[self.procedure.takes]

    @property
    def fields(self) -> dict[str, Field[Any]]:
        """The fields of the parameters of its rules and its procedure, by name."""
        parts: tuple[Any, ...] = (*self.rules.values(), self.procedure)
        return {f.name: f for part in parts for f in fields(part)}

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters and their values."""
        parts: tuple[Any, ...] = (*self.rules.values(), self.procedure)
        return {f.name: getattr(part, f.name) for part in parts for f in fields(part)}

    def reference(self, baseline: str | Tensor | Reference | None, pictures: Pictures, batch: Tensor) -> Reference:
        """The baseline called `baseline` for `batch` [N, C, H, W], or the method's default for None.

        A folder of images, an array file of several or a tensor of several rows is a pool for methods that take one.
        Raises `UsageError` for an unknown name, an unreadable file, a tensor that does not fit, or a number of
        baselines (none, one, several) that the method does not take.
        """
        if baseline is None:
            baseline = self.baseline or "none"
        elif self.baseline is None and not (isinstance(baseline, str) and baseline == "none"):
            raise UsageError(f"method {self.name} compares with nothing, so it takes no baseline")
        reference = self._read_baseline(baseline, pictures, batch)
        takes = self.procedure.takes
        if takes == FOLDER and reference.pool is None:
            raise self._needs_folder()
        if takes in (ONE, POOL) and self.baseline is not None and reference.name == "none":
            raise UsageError(
                f"method {self.name} compares with an image; give --baseline zero, black, blur, mean or a file"
            )
        return fitted(reference, batch)

    def read_once(self, baseline: str | None, pictures: Pictures) -> str | Reference | None:
        """Read a baseline that is an image, a folder or an array file, once for all batches; others stay unchanged.

        Raises `UsageError` as `reference` does.
        """
        if baseline is None or baseline == "given" or is_named(baseline):
            return baseline
        if self.baseline is None or not is_there(baseline):
            return baseline
        return self._read_baseline(baseline, pictures, torch.empty(0))

    def _read_baseline(self, baseline: str | Tensor | Reference, pictures: Pictures, batch: Tensor) -> Reference:
        """As `reference`, before the baseline is fitted to the batch."""
        if isinstance(baseline, Reference):
            return baseline
        takes_several = self.procedure.takes in (POOL, FOLDER)
        if isinstance(baseline, Tensor):
            pool = takes_several and baseline.dim() == batch.dim() and len(baseline) > 1
            return Reference("tensor", pool=baseline) if pool else Reference("tensor", baseline)
        if baseline == "given":
            raise self._needs_folder()
        several = several_in(baseline, pictures)
        if not several:
            return read(baseline, pictures, batch)
        if not takes_several:
            raise UsageError(f"baseline {baseline}: is {several}; method {self.name} compares with one image")
        return read_several(baseline, pictures)

    def _needs_folder(self) -> UsageError:
        """The error for a method that compares with a folder."""
        return UsageError(f"method {self.name} draws from a folder of images; give --baseline FOLDER")

    def read(self, multiplier: Tensor, difference: Tensor) -> Tensor:
        """The heatmap's values, from multipliers and differences of the input [N, …]."""
        if self.readout == MULTIPLIER:
            return multiplier
        return multiplier * (difference if self.readout == RELEVANCE else multiplier)

    def relevance(self, multiplier: Tensor, difference: Tensor, books: Books) -> Tensor:
        """The relevance [N, …] that a walk found: what its multipliers say, and what reached pixels without one.

        `multiplier`, `difference`: of the input, [N, …].
        """
        found = self.read(multiplier, difference)
        return found if books.direct is None else found + books.direct

    @property
    def takes_tokens(self) -> bool:
        """Whether the method shows the network only tokens of the input and of the baseline, and divides by them."""
        return getattr(self.procedure, "keeps_values", False) and self.readout == RELEVANCE

    @property
    def books(self) -> bool:
        """Whether a walk is booked: the ledger balances, or rules of first layers send relevance to pixels directly."""
        return self.conserves or first_only(self.rules)

    def configured(self, parameters: Mapping[str, Any]) -> Method:
        """The same method with other parameters. Raises `UsageError` for an unknown name or a value out of range."""
        values = typed(parameters, self.parameters, "method", self.name)

        def updated(part: Any) -> Any:
            """A rule or procedure with the values of its own parameters."""
            taken = {f.name: values[f.name] for f in fields(part) if f.name in values}
            return replace(part, **taken) if taken else part

        return replace(
            self, rules={kind: updated(rule) for kind, rule in self.rules.items()}, procedure=updated(self.procedure)
        )

    def with_rules(self, given: Iterable[str]) -> Method:
        """The same method with other entries in its table, as in `heatcli.methods.composite.with_entries`."""
        given = list(given)
        return replace(self, rules=with_entries(self.rules, given), changed=True) if given else self

    def fits(self, graph: Graph) -> None:
        """Raise `UsageError` if `graph` has no operator for the rules that distinguish this method."""
        check_layers(self.rules, graph)
        if not self.takes_tokens and any(op.is_lookup for op in graph.operators):
            raise UsageError(
                f"method {self.name} asks for values between tokens, and there are none; use lrp-eps, "
                "deeplift-rescale, input-x-gradient, grad-cam, occlusion, kernel-shap or lime"
            )
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
