"""The function that is recorded: from a batch to the model's own output and the results of a method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from heatcli.artifact.explained import INPUT
from heatcli.engine.forward import forward
from heatcli.engine.network import Bounds, Network
from heatcli.engine.tape import Tape
from heatcli.graph.layers import Layer
from heatcli.graph.outputs import present_above, probabilities
from heatcli.images.baselines import Reference, read
from heatcli.methods.method import Answer, Method
from heatcli.methods.question import Question, laid_out
from heatcli.methods.targets import Target, choose
from heatcli.model.model import Model
from heatcli.rules.rule import Table

LEDGER = ("output", "output_baseline", "pixels", "biases", "absorbed", "unexplained")
OUTPUTS = {
    "logits": "the scores that are explained, before a final softmax or sigmoid, [N, classes, …]",
    "heatmap": "relevance a pixel, summed over channels, [N, H, W]",
    "relevance": "relevance of the input, [N, C, H, W]",
    "biases": "what each bias tensor took, [N, biases]",
    "bias_elements": "what each element of each bias took, [N, elements]",
    "ledger": f"{', '.join(LEDGER)}, [N, {len(LEDGER)}]",
}


class WrittenNetwork(Network):
    """A network whose runs are recorded: in a single batch and without decisions by values."""

    def forward(
        self, batch: Tensor, rules: Table, baseline: Tensor | Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (), bounds: Bounds | None = None, compiled: bool = True,  # noqa: ARG002
        until: Layer | None = None,
    ) -> Tape:  # fmt: skip
        """As `Network.forward`, on a batch [N, …], without control flow that depends on values."""
        tape = forward(self.part(batch.shape, until), batch, baseline, rules=rules, keep=keep, fixed=True)
        if bounds is not None:
            tape.bound(*bounds)
        return tape

    def batches(self, shape: Sequence[int], most: int | None = None) -> Iterator[tuple[Tensor, int]]:  # noqa: ARG002
        """A single batch, since the record must have the same operators for any number of images."""
        yield torch.arange(shape[0], device=self.device), shape[0]


@dataclass(frozen=True, eq=False)
class Subject:
    """An explanation as a function of a batch: of `model` by `method`, of `target`, against `reference`.

    `baseline`: the name of a baseline that depends on the image, such as `blur`; else empty. `outputs`: names of
    `OUTPUTS`. `own`: the name of the model's own output. `preprocess`: the batch holds pictures, uint8 [N, H, W, C].
    """

    model: Model
    method: Method
    target: str
    reference: Reference
    baseline: str
    outputs: tuple[str, ...]
    own: str
    preprocess: bool = False

    def example(self, n: int, seed: int) -> list[Tensor]:
        """Example inputs for n images: noise from a seed."""
        shape = (n, *self.model.pictures.only_shape)
        batch = self.model.capture.noise(shape, seed)
        if self.preprocess:
            generator = torch.Generator().manual_seed(seed)
            batch = torch.randint(0, 256, (n, *shape[2:], shape[1]), generator=generator, dtype=torch.uint8)
        return [batch, *([torch.zeros(n, dtype=torch.int64)] if self.target == INPUT else [])]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the function's outputs, in order."""
        return (self.own, *self.outputs)

    def function(self, shape: Sequence[int]) -> Callable[..., list[Tensor]]:
        """The function for batches of a shape [N, …]. It returns a list of tensors in the order of `names`.

        If the target is an input, the function has a second argument, int64 [N].
        """
        known = {f.name: getattr(self.model.network, f.name) for f in fields(Network) if f.init}
        network = WrittenNetwork(**{**known, "compiler": None, "noted": None})
        network._graphs = self.model.network._graphs
        model, graph = replace(self.model, network=network), network.graph(shape)
        compares = self.method.procedure.compares
        fixed = row = None
        if self.reference.batch is not None and not self.baseline:
            row = self.reference.batch[:1].clone()
            fixed = self.model.network.values_on(row.expand(tuple(shape)), True) if compares else None

        def whole(batch: Tensor, *given: Tensor) -> list[Tensor]:
            """Forward run, choice of the target, method and ledger."""
            if self.preprocess:
                batch = model.pictures.normalise(batch.permute(0, 3, 1, 2).to(model.pictures.dtype) / 255)
            reference = self.reference
            if reference.batch is not None:
                found = read(self.baseline, model.pictures, batch).batch if row is None else row
                assert found is not None
                reference = replace(reference, batch=found.expand_as(batch))
            start = fixed if isinstance(fixed, Mapping) else reference.batch if compares else None
            tape = model.forward(batch, self.method.rules, start)
            goal = _goal(self.target, laid_out(tape.output), model.labels, given, present_above(graph))
            question = Question(model=model, graph=graph, batch=batch, reference=reference, goal=goal, tape=tape)
            return self._answers(question, tape.output, self.method.procedure(question, self.method))

        return whole

    def _answers(self, question: Question, output: Tensor, answer: Answer) -> list[Tensor]:
        """The function's outputs, in the order of `names`. `output`: the network's, [N, classes, …]."""
        graph, like, relevance = question.graph, question.batch, answer.relevance
        books, ledger = answer.closed(question, self.method.conserves)
        elements = [entry.reshape(len(like), -1) for entry in books.biases.values()]
        none = like.new_zeros(len(like), 0)
        found = {
            "logits": lambda: output,
            "heatmap": lambda: relevance.sum(1),
            "relevance": lambda: relevance,
            "biases": lambda: torch.cat([e.sum(1, keepdim=True) for e in elements], 1) if elements else none,
            "bias_elements": lambda: torch.cat(elements, 1) if elements else none,
            "ledger": lambda: torch.stack([getattr(ledger, name) for name in LEDGER], 1).to(like.dtype),
        }  # fmt: skip
        own = probabilities(graph, output) if graph.final is not None else output
        answers = [own, *(found[name]().to(like.dtype).contiguous() for name in self.outputs if name in found)]
        if "heatmap_u8" in self.outputs:
            answers += _in_bytes(relevance.sum(1))
        return answers


def _in_bytes(heatmap: Tensor) -> list[Tensor]:
    """A map [N, …] as uint8, and its scale [N]: map = (u8 − 128) · scale/127."""
    scale = heatmap.abs().flatten(1).amax(1)
    each = torch.where(scale == 0, 1, scale).reshape(-1, *(1,) * (heatmap.dim() - 1))
    return [(heatmap / each * 127 + 128.5).floor().to(torch.uint8), scale]


def _goal(target: str, scores: Tensor, labels: Sequence[str], given: Sequence[Tensor], present: float | None) -> Target:
    """The target of scores [N, classes, positions]. `given`: the class, int64 [N], if the target is an input.

    `present`: as `choose` takes it.
    """
    if target != INPUT:
        return choose(target, scores, labels, present=present)
    if scores.shape[2] > 1:
        one = choose("top", scores, labels, present=present)
        return replace(one, index=given[0])
    return Target(index=given[0], minus=None, region=torch.ones_like(scores[:, 0], dtype=torch.bool))
