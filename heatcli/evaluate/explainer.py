"""What makes a heatmap: a method with its parameters and baseline, or a control that does not use the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.layout import Layout
from heatcli.errors import UsageError, unknown_name
from heatcli.evaluate.similarity import along
from heatcli.explanation import Explanation, explain
from heatcli.methods.exported import own_method
from heatcli.methods.method import RELEVANCE
from heatcli.methods.table import DEFAULT, ELSEWHERE, METHODS, Method
from heatcli.model.model import Model
from heatcli.rules.parameters import Named


def random_map(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise [N, 1, H, W] for a batch [N, C, H, W]; with any number of positions' axes."""
    return torch.rand(len(batch), 1, *batch.shape[2:], generator=generator).to(batch)


def edges(batch: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """The magnitude of the Sobel gradient of the mean over channels, [N, 1, H, W]. Uses the picture only.

    Along each axis of the positions: the difference of both neighbours, smoothed along the others.
    """
    grey, axes = batch.mean(1, keepdim=True), range(2, batch.dim())
    difference, smooth = batch.new_tensor([-1.0, 0, 1]) / 2, batch.new_tensor([1.0, 2, 1]) / 4
    squares = torch.zeros_like(grey)
    for across in axes:
        slope = grey
        for axis in axes:
            slope = along(slope, difference if axis == across else smooth, axis, "replicate")
        squares = squares + slope.square()
    return squares.sqrt()


CONTROLS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"random": random_map, "edges": edges}
"""Name → function that makes heatmaps of a batch [N, C, positions …] without the network."""


def controls_of(layout: Layout) -> tuple[str, ...]:
    """The controls of that kind of input: what has no neighbours has no edges."""
    return tuple(name for name in CONTROLS if not (layout.separate and name == "edges"))


def is_method(text: str) -> bool:
    """Whether `text` begins with the name of a method or a control. The rest of `text` may be wrong."""
    return text.partition("@")[0].partition(":")[0] in {*METHODS, *CONTROLS}


@dataclass(frozen=True)
class Explainer:
    """A method with a baseline, or a control.

    `method`: None for the control called `name`. `baseline`: None for the method's default.
    """

    name: str
    method: Method | None = field(hash=False)
    baseline: str | None = None

    @classmethod
    def parse(cls, text: str, baseline: str | None = None) -> Explainer:
        """The explainer for `NAME[:PARAMETER=VALUE,…][@BASELINE]`.

        `baseline`: for a method that takes a baseline if the text names none. Raises `UsageError` for an unknown
        method, control or parameter.
        """
        left, at, own = text.partition("@")
        named = Named.parse(left, "NAME[:PARAMETER=VALUE…][@BASELINE]")
        if named.name in CONTROLS:
            if named.parameters or at:
                raise UsageError(f"{text}: the control {named.name} takes no parameters and no baseline")
            return cls(text, None)
        if named.name not in METHODS:
            raise unknown_name("method", named.name, [*METHODS, *CONTROLS], also=ELSEWHERE)
        method = METHODS[named.name].configured(named.parameters)
        if at:
            return cls(text, method, own)
        return cls(text, method, baseline if method.baseline is not None else None)

    @classmethod
    def shared(cls, models: Sequence[Model], text: str | None, baseline: str | None = None) -> Explainer:
        """The explainer for several models, as `parse`.

        Without `text`, the method of the first model that explains itself, else the default method. Raises
        `UsageError`.
        """
        own = next((model for model in models if model.explained is not None), None)
        if text is not None or own is None or own.explained is None:
            return cls.parse(text or DEFAULT, baseline)
        method = own_method(own, own.explained)
        return cls(method.name, method, baseline or (own.explained.asked if method.baseline is not None else None))

    @property
    def multiplies(self) -> bool:
        """Whether the map holds contributions, multiplier × difference, instead of multipliers."""
        return self.method is None or self.method.readout == RELEVANCE

    def relevance(self, model: Model, batch: Tensor, target: Any, generator: torch.Generator) -> Tensor:
        """The relevance of `target` (as `heatcli.explain` takes it), [N, C, H, W]; [N, 1, H, W] for a control.

        Raises `UsageError` for edges of an input without neighbours.
        """
        if self.method is None:
            layout = model.pictures.layout_of(batch)
            if self.name not in controls_of(layout):
                raise UsageError(f"{model.path}: takes {layout.one}, which has no {self.name}; the control is random")
            return layout.back(CONTROLS[self.name](layout.first(batch), generator))
        return self.explanation(model, batch, target).relevance

    def explanation(self, model: Model, batch: Tensor, target: Any) -> Explanation:
        """The result of `heatcli.explain` on a batch [N, …]. Raises `UsageError` for a control."""
        if self.method is None:
            raise UsageError(f"{self.name} is a control, not a method; it has no ledger")
        return explain(model, batch, self.method, target, self.baseline)

    def reference(self, model: Model, batch: Tensor) -> Tensor:
        """The reference of the batch, [N, C, H, W]; zeros for a method without a baseline."""
        if self.method is None or self.method.baseline is None:
            return torch.zeros_like(batch)
        found = self.method.reference(self.baseline, model.pictures, batch).batch
        return torch.zeros_like(batch) if found is None else found
