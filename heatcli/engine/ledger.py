"""The ledger: where every unit of the output went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from heatcli.graph.operator import Graph, Operator
from heatcli.rules.numerics import per_image, wide
from heatcli.rules.rule import Sent


@dataclass(frozen=True, eq=False)
class Ledger:
    """For each image, output − output_baseline = pixels + biases + absorbed + unexplained; each float64 [N].

    `unexplained` is measured at operators without a rule. It is never chosen to balance the sum, so for a conserving
    method a faulty rule shows in `relative_error`. For a method that does not conserve, it is the remainder.
    """

    output: Tensor
    output_baseline: Tensor
    pixels: Tensor
    biases: Tensor
    absorbed: Tensor
    unexplained: Tensor

    @classmethod
    def of(cls, score: Tensor, score0: Tensor | None, relevance: Tensor, books: Books, conserves: bool) -> Ledger:
        """The ledger of `score` [N], from relevance [N, …] and the books.

        `score0` [N]: the baseline's score; None: 0. `unexplained` is the remainder unless the method `conserves`.
        """
        score0 = torch.zeros_like(score) if score0 is None else score0
        pixels, biases = per_image(relevance), total(books.biases, score)
        absorbed, unexplained = total(books.absorbed, score), total(books.unexplained, score)
        if not conserves:
            unexplained = score - score0 - pixels - biases - absorbed
        return cls(
            output=score, output_baseline=score0, pixels=pixels, biases=biases, absorbed=absorbed,
            unexplained=unexplained,
        )  # fmt: skip

    @cached_property
    def relative_error(self) -> Tensor:
        """|output − output_baseline − pixels − biases − absorbed| over the larger of |output|, |output_baseline|."""
        left = self.output - self.output_baseline - self.pixels - self.biases - self.absorbed
        scale = torch.maximum(self.output.abs(), self.output_baseline.abs())
        return left.abs() / torch.where(scale == 0, 1, scale)


@dataclass(eq=False)
class Books:
    """The books of one walk of N images: biases per element [N, size]; absorbed and unexplained per operator [N].

    `direct` [N, …]: relevance that reached pixels without a multiplier.
    """

    images: int
    biases: dict[str, Tensor] = field(default_factory=dict)
    absorbed: dict[str, Tensor] = field(default_factory=dict)
    unexplained: dict[str, Tensor] = field(default_factory=dict)
    direct: Tensor | None = None

    @classmethod
    def open(cls, graph: Graph, batch: Tensor) -> Books:
        """Books with a zero entry for every bias of the network, in forward order, for a batch [N, …]."""
        sizes = [size for _, size in graph.offsets.values()]
        entries = batch.new_zeros(len(batch), sum(sizes)).split_with_sizes(sizes, 1)
        return cls(len(batch), dict(zip(graph.offsets, entries, strict=True)))

    def of(self, images: int) -> Books:
        """The books of the first `images` images."""
        biases, absorbed, unexplained = ({name: e[:images] for name, e in part.items()} for part in self._parts)
        return Books(images, biases, absorbed, unexplained, None if self.direct is None else self.direct[:images])

    def take(self, other: Books, rows: Tensor, weight: float) -> None:
        """Add the books `other` of M points times `weight`, each to the image in `rows`, int64 [M]."""
        for entries, given in zip(self._parts, other._parts, strict=True):
            for name, entry in given.items():
                added = entry.new_zeros(self.images, *entry.shape[1:]).index_add_(
                    0, rows.to(entry.device), entry * weight
                )
                entries[name] = entries[name] + added if name in entries else added

    @property
    def _parts(self) -> tuple[dict[str, Tensor], ...]:
        """Biases, absorbed and unexplained."""
        return self.biases, self.absorbed, self.unexplained

    def enter(self, operator: Operator, sent: Sent, without_reference: bool) -> None:
        """Book what `operator`'s rule returned. Offsets are booked only without a reference, which cancels them."""
        if without_reference and sent.offsets_at is not None:
            collected: dict[object, Tensor] = {}  # offsets of equal shape share the sum over positions
            for offset in operator.offsets:
                key = tuple(offset.value.shape), offset.place
                if key not in collected:
                    collected[key] = offset.collect(sent.offsets_at)
                self.biases[offset.name] = offset.book(collected[key], self.biases[offset.name])
        if sent.absorbed is not None:
            self.absorbed[operator.name] = self._by_image(sent.absorbed)
        if sent.unexplained is not None:
            self.lose(operator, sent.unexplained)

    def lose(self, operator: Operator, relevance: Tensor) -> None:
        """Book relevance [N] that `operator` cannot pass on as unexplained."""
        lost = self._by_image(relevance)
        self.unexplained[operator.name] = self.unexplained.get(operator.name, torch.zeros_like(lost)) + lost

    def _by_image(self, entry: Tensor) -> Tensor:
        """An operator's entry with several rows an image (windows, patches), summed to one row an image."""
        return entry if len(entry) == self.images else entry.reshape(self.images, -1, *entry.shape[1:]).sum(1)


def total(entries: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Sum of all entries [N, …] over all but the batch, float64 [N]; zeros like `like` [N] if there are no entries."""
    rows = [e.reshape(len(like), -1) for e in entries.values()]
    return wide(torch.cat(rows, 1)).sum(1) if rows else torch.zeros_like(like)
