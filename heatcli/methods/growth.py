"""Where relevance grows: which layer makes parts for and against that cancel."""

from __future__ import annotations

from collections import defaultdict

from heatcli.methods.method import Method
from heatcli.methods.question import Question
from heatcli.walk import values_of

_TINY = 1e-30


def grows_at(question: Question, method: Method) -> tuple[str, float]:
    """The operator at which a walk's relevance grows most, and how many times.

    Of each operator: Σ|m·(z − z0)| of what it reads, over that of all operators that read the same. Takes one more
    walk.
    """
    graph = question.graph
    read_by = defaultdict(list)
    for op in graph.operators:
        for source in op.sources:
            read_by[source].append(op.name)
    walked = question.walk_batch(method.rules, books=False, keep=[op.name for op in graph.operators if op.sources])
    start = question.reference.batch
    references = {} if start is None else values_of(graph, start)
    mass = {graph.input: float((walked.multiplier * question.difference).abs().sum())}
    for name, multiplier in walked.multipliers.items():
        value = walked.values[name]
        mass[name] = float((multiplier * (value - references[name] if references else value)).abs().sum())
    least = float(question.score.abs().sum())  # an operator's own value may have cancelled to 0

    def growth(name: str) -> float:
        return mass.get(name, 0.0) / max(sum(mass.get(reader, 0.0) for reader in read_by[name]), least, _TINY)

    grown = {op.name: sum(map(growth, op.sources)) for op in graph.operators if op.sources}
    name = max(grown, key=grown.__getitem__)
    return name, grown[name]
