"""Where relevance grows: the operator at which positive and negative relevance begin to cancel."""

from __future__ import annotations

from collections import defaultdict

from heatcli.engine.values import values_of
from heatcli.methods.method import Method
from heatcli.methods.question import Question

_TINY = 1e-30


def grows_at(question: Question, method: Method) -> tuple[str, float]:
    """The operator at which a walk's relevance grows most, and by what factor.

    The growth at an operator: Σ|m·(z − z0)| of its inputs, over that of all operators that read the same inputs. Takes
    one more walk.

    """
    graph = question.graph
    read_by = defaultdict(list)
    for op in graph.operators:
        for source in op.sources:
            read_by[source].append(op.name)
    walked = question.walk_batch(method.rules, books=False, keep=[op.name for op in graph.operators if op.sources])
    x0 = question.reference.batch
    references = {} if x0 is None else values_of(graph, x0)
    mass = {graph.input: float((walked.multiplier * question.difference).abs().sum())}
    for name, multiplier in walked.multipliers.items():
        value = walked.values[name]
        mass[name] = float((multiplier * (value - references[name][: len(value)] if references else value)).abs().sum())
    least = float(question.score.abs().sum())  # lower bound, since an operator's own value may cancel to 0

    def growth(name: str) -> float:
        """The growth from a value to its readers."""
        return mass.get(name, 0.0) / max(sum(mass.get(reader, 0.0) for reader in read_by[name]), least, _TINY)

    grown = {op.name: sum(map(growth, op.sources)) for op in graph.operators if op.sources}
    name = max(grown, key=grown.__getitem__)
    return name, grown[name]
