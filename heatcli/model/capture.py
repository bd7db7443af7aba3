"""Captures of an artifact: its graph for an input shape, compared with the artifact in its own runtime."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.contained import Contained
from heatcli.artifact.layout import PICTURES, TOKENS
from heatcli.artifact.sidecar import Output
from heatcli.engine.values import output_of
from heatcli.errors import DiffersError, ModelError, NotComparedError, ShapeError, UsageError, first_line
from heatcli.graph import heads
from heatcli.graph.anchors import Anchors
from heatcli.graph.capture import floating, record, scores
from heatcli.graph.lookups import CODE, vocabulary
from heatcli.graph.operator import Boxes, Graph, Verified
from heatcli.graph.passes import KEEPING_OUTPUT, apply
from heatcli.graph.passes.explained import activated
from heatcli.images.pictures import Pictures
from heatcli.model.cache import Cache
from heatcli.model.verification import QUANTISED, first_difference, in_order_of, verify

_SCALES = 32  # a usual factor between the input and the coarsest of several scales


@dataclass(eq=False, kw_only=True)
class Capture:
    """Captures the graphs of an artifact.

    `picture`: the input that is explained. `others`: the values of the other inputs. `passes`: the graph passes to
    apply. `head`: the index of the explained output (None: not chosen, the first). `unverified`: accept graphs that
    compute another function than the artifact. `output`: what the user says of the output; `labels`: how many class
    names there are. `anchors`: those that a detector's boxes are relative to. `walked`: the other inputs that get
    relevance. `memory`: the most bytes of one value in a graph. `cache`: of graphs, or None. `contained`: the child
    process that captures, None for this process. `compared_in`: seconds spent comparing with the artifact's runtime.
    """

    path: Path
    artifact: Artifact
    picture: InputInfo
    others: Mapping[str, Tensor]
    pictures: Pictures
    passes: tuple[str, ...]
    head: int | None
    unverified: bool
    memory: int
    output: Output = field(default_factory=Output)
    anchors: Anchors | None = None
    labels: int = 0
    walked: Collection[str] = ()
    cache: Cache | None = None
    contained: Contained | None = None
    compared_in: float = field(default=0.0, init=False)

    def __call__(self, shape: tuple[int, ...], example: Tensor | None = None, sample: Tensor | None = None) -> Graph:
        """The graph for an input shape, captured on `example`, by default noise. Graphs captured on noise are cached.

        An artifact that branches on its image is captured on `sample`, an explained image, if there is one. Raises
        `ModelError`; for a size that nothing says, it names the flag.
        """
        try:
            return self._kept(shape, example, sample)
        except ShapeError as error:
            if self.pictures.sized:
                raise
            raise ShapeError(
                f"{error}; nothing says the size of its input, so this one was tried; give --size{self._such_as(shape)}"
            ) from error

    def _such_as(self, shape: Sequence[int]) -> str:
        """An example of a size of pictures: the next multiples of 32, as networks of several scales need them."""
        if self.pictures.layout != PICTURES:
            return ""
        height, width = (-(-side // _SCALES) * _SCALES for side in shape[2:])
        return "" if (height, width) == tuple(shape[2:]) else f", such as --size {height}x{width}"

    def _kept(self, shape: tuple[int, ...], example: Tensor | None, sample: Tensor | None) -> Graph:
        """The graph from the cache, if there is one; else captured."""
        if self.cache is None or example is not None:
            return self._captured(shape, example, sample)
        others = {name: (tuple(value.shape), str(value.dtype), _sha256(value)) for name, value in self.others.items()}
        about = {
            "shape": shape, "others": others, "passes": self.passes, "head": self.head,
            "output": repr(self.output), "labels": self.labels,
            "anchors": None if self.anchors is None else _sha256(self.anchors.boxes), "paired": self.artifact.paired,
            "walked": sorted(self.walked),
            "device": str(self.pictures.device), "dtype": str(torch.get_default_dtype()),
        }  # fmt: skip
        return self.cache.graph(about, lambda: self._captured(shape, None, sample))

    def _captured(self, shape: tuple[int, ...], example: Tensor | None, sample: Tensor | None) -> Graph:
        """The graph from the child process, if there is one.

        The child has no GPU. For a GPU, or a graph without a stored form, the child only shows that the artifact is
        harmless, and the graph is captured in this process.
        """
        graph = None
        if self.contained is not None:
            graph, seconds = self.contained.graph(shape, example, sample)
            self.compared_in += seconds
            if self.cache is not None:
                self.cache.check_unchanged()
        if graph is None or self.pictures.device.type != "cpu":
            graph, seconds = self.here(shape, example, sample)
            self.compared_in += seconds
        return graph

    def here(self, shape: tuple[int, ...], example: Tensor | None, sample: Tensor | None) -> tuple[Graph, float]:
        """The graph captured in this process, and the seconds spent comparing. Raises `ModelError`.

        `example`, `sample`: inputs of that shape, or None, as for the call.
        """
        noise = self.noise(shape, 0) if example is None else example
        fits = sample is not None and sample.shape[1:] == shape[1:]
        other = sample.expand(shape) if example is None and sample is not None and fits else None
        try:
            graph = self._recorded(noise)
        except ModelError:
            if other is None:  # a detector may find nothing in noise
                raise
            graph = None
        if other is not None and (graph is None or not graph.is_of_every_image):
            noise, graph = other, self._recorded(other)
        assert graph is not None
        alike = graph.is_of_every_image
        batches = [self.noise(shape, 1, vocabulary(graph) or 2)] if alike else [noise]
        if sample is not None and fits and alike:
            batches.append(sample.expand(shape))
        explained = apply(graph, self.passes)
        verified, remarks, seconds = None, graph.remarks, 0.0
        try:
            verified, seconds = self._verified(graph, explained, batches)
        except NotComparedError as error:
            remarks = (*remarks, f"is not compared with what is deployed: {error}")
        explained = replace(explained, verified=verified, remarks=remarks)
        self._check_memory(explained)
        return explained, seconds

    def _recorded(self, batch: Tensor) -> Graph:
        """The graph recorded on a batch, before any pass."""
        values = self._inputs(batch)
        shapes = {i.name: tuple(v.shape) for i, v in zip(self.artifact.inputs, values, strict=True)}
        module = self.artifact.module_for(shapes).to(self.pictures.device)
        given = self._given(len(batch))
        names = {**self.artifact.names(module), **given}
        return record(
            lambda x: module(*self._inputs(x, self._walked(x, given))),
            batch,
            names,
            str(self.path),
            self.head,
            self._boxes,
            self._of_tokens,
            self.anchors,
        )

    @property
    def _of_tokens(self) -> bool:
        return self.pictures.layout.kind == TOKENS

    def _boxes(self, returned: Sequence[Tensor], shape: Sequence[int], ordered: bool = False) -> Boxes | None:
        """The boxes that all outputs together are, as far as the user does not say otherwise.

        `ordered`: two outputs are boxes and scores, in this order.
        """
        said = self.output
        if said.axis is not None:
            return None
        anchors = None if ordered else self.anchors
        stated = heads.Stated(said.kind, said.background, self.labels, said.boxes, anchors, ordered)
        try:
            return heads.found(returned, shape, stated)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from error

    def _walked(self, x: Tensor, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The values of the other inputs. A zero that depends on the image `x` is added to those that get relevance.

        So each of these is the offset of an operator that the walk passes, and is booked there, value by value, under
        its name.
        """
        if not self.walked:
            return given
        nothing = x.flatten(1).sum(1).mul(0)  # no layout of the image, so what follows is no first layer
        return {
            name: value + nothing.reshape(-1, *(1,) * (value.dim() - 1)) if name in self.walked else value
            for name, value in given.items()
        }

    def _inputs(self, batch: Tensor, given: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The values of all inputs, in the artifact's order."""
        given = self._given(len(batch)) if given is None else given
        x = batch.permute(0, 2, 3, 1) if self.picture.channels_last else batch
        if self._of_tokens:
            x = x.to(torch.int64 if self.picture.dtype.is_floating_point else self.picture.dtype)
        return [x if i is self.picture else given[i.name] for i in self.artifact.inputs]

    def _given(self, n: int) -> dict[str, Tensor]:
        """The values of all inputs except the explained one, for n images."""
        return {name: _for_batch(value, n).to(self.pictures.device) for name, value in self.others.items()}

    def noise(self, shape: tuple[int, ...], seed: int, tokens: int = 1) -> Tensor:
        """Random pictures or sequences of that shape, or tokens below `tokens`, reproducible by seed."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(shape, generator=generator)
        if self.pictures.alphabet:
            values = torch.nn.functional.one_hot(values.argmax(1), shape[1]).movedim(-1, 1).float()
        elif self._of_tokens:
            values = (values * tokens).floor() + CODE
        elif len(shape) == 4:
            values = self.pictures.normalise(values.to(self.pictures.device))
        return values.to(self.pictures.device, self.pictures.dtype)

    def _verified(
        self, graph: Graph, explained: Graph, batches: Sequence[Tensor]
    ) -> tuple[Verified | None, float]:  # fmt: skip
        """The comparison of a graph with the artifact, and its seconds; None without a runtime.

        `explained`: `graph` after all passes. It is what is compared, but for passes that change the output.
        Raises `DiffersError` if they differ, `NotComparedError` if the runtime cannot run the artifact.
        """
        runtime = self.artifact.runtime
        if runtime is None:
            return None, 0.0
        kept = KEEPING_OUTPUT if graph.boxes is not None else KEEPING_OUTPUT | {"logit"}
        keeping = [name for name in self.passes if name in kept]
        whole = explained if len(keeping) == len(self.passes) else apply(graph, keeping)
        checked = activated(whole).with_positions_held  # as it chose them for the one image that is compared

        elsewhere = 0.0

        def run(x: Tensor) -> Tensor:
            """The explained output in the artifact's runtime, with positions that it chooses in the graph's order."""
            nonlocal elsewhere
            if graph.chosen_on is None or graph.boxes is None:
                return deployed(x)
            ordered, share = in_order_of(output_of(checked, x), deployed(x))
            elsewhere = max(elsewhere, share)
            return ordered

        def deployed(x: Tensor) -> Tensor:
            """The explained output in the artifact's runtime."""
            if graph.before:
                return self._raw(graph, x)
            returned = runtime(self._inputs(x))
            if graph.boxes is not None:
                return heads.joined(floating(returned), graph.boxes, self.anchors)
            return scores(returned, self.head or 0, str(self.path))

        started = time.perf_counter()
        tolerance = QUANTISED if "dequantise" in self.artifact.rewrites else None
        try:
            verified = verify(checked, run, batches, self.artifact.against, tolerance)
        except NotComparedError:
            raise
        except (RuntimeError, ModelError) as error:
            raise ModelError(f"{self.path}: {first_line(error).removeprefix(f'{self.path}: ')}") from error
        if not verified.agrees and not self.unverified:
            raise self._differs(verified, graph, batches[-1])
        return replace(verified, elsewhere=elsewhere), time.perf_counter() - started

    def _raw(self, graph: Graph, batch: Tensor) -> Tensor:
        """The inputs of the artifact's choice: from the values of its runtime's nodes, else from another run."""
        again = self._recorded(batch)
        if self.artifact.of_nodes is None:
            return output_of(again, batch)
        values = self.artifact.of_nodes(self._inputs(batch), graph.raw)
        last = {op.node: op for op in again.operators}
        known = {last[name].name: x for name, x in zip(graph.raw, values or [], strict=False) if name in last}
        if not known:
            raise NotComparedError("no node of it returns what goes into its suppression")
        return output_of(again, batch, known)

    def _differs(self, verified: Verified, graph: Graph, batch: Tensor) -> DiffersError:
        """The error for a graph that differs from the artifact on a batch."""
        place = self.artifact.differs(self._inputs(batch)) if self.artifact.differs is not None else None
        place = place or first_difference(graph, self._recorded, batch)
        return DiffersError(
            f"{self.path}: what heatcli makes of it is another function: an output is off what {verified.against} says "
            f"by {verified.error:.2g} of the largest, first at {place}; --unverified goes on, and every report says so"
        )

    def _check_memory(self, graph: Graph) -> None:
        """Raise `ModelError` for a graph with a value of more than `memory` bytes."""
        for op in graph.operators:
            if (size := math.prod(op.shape) * op.dtype.itemsize) > self.memory:
                raise ModelError(
                    f"{self.path}: its operator {op.name} makes a value of {size / (1 << 30):.3g} GiB; if its source "
                    "is trusted, --max-memory allows more"
                )


def _for_batch(value: Tensor, n: int) -> Tensor:
    """A value [1, …] repeated for n images; other values unchanged."""
    return value.expand(n, *value.shape[1:]).contiguous() if value.dim() and value.shape[0] == 1 else value


def _sha256(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
