"""The network: an artifact's graphs by input shape, and how many images run at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heatcli.engine.forward import forward
from heatcli.engine.tape import Tape
from heatcli.engine.values import entered, values_of
from heatcli.errors import DiffersError, ModelError, OtherBranchError, edge
from heatcli.graph.batch import rebatched
from heatcli.graph.layers import Layer, cut_at
from heatcli.graph.operator import Graph
from heatcli.graph.outputs import Wanted, read
from heatcli.graph.passes.single import single
from heatcli.rules.rule import Table
from heatcli.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from heatcli.engine.compiled import Compiler

# (shape [N, …], input to capture on (None: noise), input to compare with the artifact on) → graph.
Capture = Callable[[tuple[int, ...], Tensor | None, Tensor | None], Graph]
Bounds = tuple[Tensor, Tensor]


@dataclass(eq=False, kw_only=True)
class Network:
    """The graphs of the artifact `path`, run on `device`.

    `capture` captures the graph for a shape. `batch_size`: the artifact's fixed number of images, None if any number
    works. `wanted`: what the user says about the output. `compiler`: compiles repeated walks, or None. `noted`: called
    once, with the first graph. `sample`: the first explained input [1, …], on which graphs are compared.
    """

    capture: Capture
    path: Path
    device: torch.device
    batch_size: int | None = None
    wanted: Wanted = field(default_factory=Wanted)
    compiler: Compiler | None = None
    noted: Callable[[Graph], None] | None = field(default=None, repr=False)
    sample: Tensor | None = field(default=None, repr=False)
    _graphs: dict[tuple[int, ...], Graph] = field(default_factory=dict, init=False, repr=False)
    _lock: RLock = field(default_factory=RLock, init=False, repr=False)  # several threads may request graphs
    _held: Graph | None = field(default=None, init=False, repr=False)
    _on_baseline: tuple[Graph | None, Tensor | None, Mapping[str, Tensor]] = field(
        default=(None, None, {}), init=False, repr=False
    )

    def seen(self, batch: Tensor) -> None:
        """Take the first image of a batch [N, …] as `sample`, unless there is one."""
        if self.sample is None:
            self.sample = batch[:1].detach()

    # --- graphs ---------------------------------------------------------------------------------------------------

    def graph(self, shape: Sequence[int]) -> Graph:
        """The graph for an input of shape [N, …]. Raises `ModelError`.

        Where the artifact allows it, two captures, for one image and for two, give the graphs of all batch sizes. Each
        other image size needs captures of its own.
        """
        key = tuple(shape)
        with self._lock, edge(self.path, "captured"):
            if self._held is not None and self._held.input_shape == key:
                return self._held
            if key not in self._graphs:
                self._graphs[key] = self._derived(key) or self._captured(key)
            if self.noted is not None:
                note_first, self.noted = self.noted, None
                note_first(self._graphs[key])
        return self._graphs[key]

    def graph_on(self, batch: Tensor) -> Graph:
        """The graph for a batch [N, …], captured on it where the known one is of other pictures.

        Raises `ModelError`.
        """
        graph, key = self.graph(batch.shape), tuple(batch.shape)
        if graph.is_of_every_image or graph is self._held:
            return graph
        try:
            entered(graph, batch)
        except OtherBranchError:
            with self._lock, edge(self.path, "captured"):
                self._graphs[key] = self._captured(key, batch)
        return self.graph(key)

    @contextlib.contextmanager
    def holding(self, batch: Tensor) -> Iterator[None]:
        """Within it, positions that the artifact chooses by the image are those of `batch` [N, …].

        So a baseline and changed pictures have a score at the same positions. Nothing changes for artifacts that choose
        none, nor within another `holding`. Raises `ModelError`.
        """
        graph = self.graph_on(batch)
        if self._held is not None or graph.chosen_on is None:
            yield
            return
        with self._lock:
            self._held = graph.with_positions_held
            try:
                yield
            finally:
                self._held = None

    def _captured(self, shape: tuple[int, ...], example: Tensor | None = None) -> Graph:
        """A newly captured graph with its output as [N, classes, …]."""
        n, *rest = shape
        if n == 1 and self._side_by_side(rest):
            whole = (self.batch_size or 1, *rest)
            if example is None:
                return single(self.graph(whole))
            return single(self._captured(whole, example.expand(whole)))
        graph = self.capture(shape, example, self.sample)
        one = None
        if n > 1 and self.batch_size is None and graph.output_shape.count(n) > 1:
            with contextlib.suppress(ModelError):  # the artifact may not accept a single image
                one = self.graph((1, *rest)).returned[self.wanted.head].shape
        return read(graph, self.wanted, one)

    def _derived(self, shape: tuple[int, ...]) -> Graph | None:
        """The graph for N images derived from those for one and two; None if only a capture gives it."""
        n, *rest = shape
        if n < 3 or self.batch_size is not None:
            return None
        try:
            one = self.graph((1, *rest))
            return rebatched(one, self.graph((2, *rest)), n) if one.is_of_every_image else None
        except ModelError:  # the artifact does not accept one or two images
            return None

    def _side_by_side(self, rest: Sequence[int]) -> bool:
        """Whether the artifact has a fixed batch of images [N, *rest] that its operators do not keep apart."""
        size = self.batch_size
        return size is not None and size > 1 and not self.graph((size, *rest)).keeps_images_apart

    # --- batches --------------------------------------------------------------------------------------------------

    def fixed_batch(self, shape: Sequence[int]) -> int | None:
        """How many images of inputs of that shape run at once; None for any number.

        One if operators mix images of a batch along dimension 0 (windows, patches), since booked values could not be
        told apart.
        """
        size = self.artifacts_batch(shape)
        return 1 if self._side_by_side(shape[1:]) else size

    def artifacts_batch(self, shape: Sequence[int]) -> int | None:
        """How many images of inputs of that shape the artifact takes at once; None for any number."""
        if self.batch_size is None and shape[0] != 1:  # a single image does not tell
            self._settle(shape)
        return self.batch_size

    def _settle(self, shape: Sequence[int]) -> None:
        """Set `batch_size`, once for all shapes. It stays None if the graph for `shape` works for any number."""
        n, *rest = shape
        graph = None
        if self._held is not None:
            self.batch_size = 1
            return
        try:
            graph = self.graph(shape)
            if graph.keeps_images_apart and graph.is_of_every_image:
                return
        except DiffersError:
            raise
        except ModelError as error:
            if is_out_of_memory(error):  # does not depend on a fixed batch size
                raise
        try:
            self.graph((1, *rest))
        except DiffersError:
            raise
        except ModelError:
            if graph is None:  # the batch size is not the cause
                raise
            self.batch_size = n
        else:
            self.batch_size = 1

    def batches(self, shape: Sequence[int], most: int | None = None) -> Iterator[tuple[Tensor, int]]:
        """Chunks in which inputs of shape [M, …] run: indices, int64, and how many of them count.

        At most `most` inputs per chunk, by default all. A fixed batch is filled by repeating the last input.
        """
        count, *rest = shape
        size = most or count
        fixed = self.fixed_batch((min(size, count), *rest))
        step = fixed or size
        for start in range(0, count, step):
            n = min(step, count - start)
            index = torch.arange(start, start + (fixed or n), device=self.device)
            yield index.clamp(max=start + n - 1), n

    def part(self, shape: Sequence[int], until: Layer | None) -> Graph:
        """The graph for inputs of that shape, up to a layer; None is all of it."""
        whole = self.graph(shape)
        return whole if until is None else cut_at(whole, until)

    # --- runs -----------------------------------------------------------------------------------------------------

    def forward(
        self, batch: Tensor, rules: Table, baseline: Tensor | Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (), bounds: Bounds | None = None, compiled: bool = True,
        until: Layer | None = None,
    ) -> Tape:  # fmt: skip
        """A forward run on a batch [N, …] for a walk by `rules`, as `heatcli.engine.forward.forward`.

        `bounds`: the lowest and highest input, for rules of first layers. `until`: the run ends at this layer. The run
        is compiled if there is a compiler, `compiled` is true, nothing is kept, the graph is that of every image, and
        the same kind of run was requested before.
        """
        graph = self.part(batch.shape, until)
        if self.compiler is not None and compiled and not keep and graph.is_of_every_image and self._held is None:
            compiled_tape = self.compiler.forward(graph, batch, rules, baseline, bounds)
            if compiled_tape is not None:
                return compiled_tape
        tape = forward(graph, batch, baseline, rules=rules, keep=keep)
        if bounds is not None:
            tape.bound(*bounds)
        return tape

    def values_on(self, baseline: Tensor | None, shared: bool) -> Tensor | Mapping[str, Tensor] | None:
        """The baseline argument of a forward run: the baseline [N, …], or every value on it if all images share it.

        The values are computed on one image, and again only when the baseline changes.
        """
        if baseline is None or not shared or self.batch_size not in (None, 1):
            return baseline
        row = baseline[:1]
        one, whole = self.graph(row.shape), self.graph(baseline.shape)
        of, known, values = self._on_baseline
        if of is not one or known is None or known.shape != row.shape or not torch.equal(known, row):
            alike = [op.name for op in one.operators] == [op.name for op in whole.operators]
            values = values_of(one, row) if alike else {}
            self._on_baseline = (one, row, values)
        return values or baseline
