"""Who makes a heatmap: a method with its parameters and baseline, or a control that knows nothing of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.model import Model
from heatcli.errors import UsageError, unknown_name
from heatcli.explanation import Explanation, explain
from heatcli.images.baselines import reference
from heatcli.methods.method import RELEVANCE
from heatcli.methods.table import METHODS, Method
from heatcli.methods.table import method as find_method


def random_map(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise [N, 1, H, W]: an order that knows nothing."""
    return torch.rand(len(batch), 1, *batch.shape[2:], generator=generator).to(batch)


def edges(batch: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Magnitude of the Sobel gradient of the mean over channels, [N, 1, H, W]: it sees the picture, not the network."""
    ramp = batch.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    grey = functional.pad(batch.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    both = functional.conv2d(grey, torch.stack([ramp, ramp.T])[:, None])
    return both.square().sum(1, keepdim=True).sqrt()


CONTROLS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"random": random_map, "edges": edges}
"""Name → heatmap of a batch [N, C, H, W], without the network."""


@dataclass(frozen=True)
class Explainer:
    """A method (None: the control called `name`) against a baseline (None: the method's own)."""

    name: str
    method: Method | None = field(hash=False)
    baseline: str | None = None

    @classmethod
    def parse(cls, text: str, baseline: str | None = None) -> Explainer:
        """`NAME[:PARAMETER=VALUE…][@BASELINE]`; `baseline` serves methods that name none and accept one.

        Raises `UsageError` for an unknown method, control or parameter.
        """
        left, at, own = text.partition("@")
        name, *given = left.split(":")
        if name in CONTROLS:
            if given or at:
                raise UsageError(f"{text}: the control {name} takes no parameters and no baseline")
            return cls(text, None)
        if name not in METHODS:
            raise unknown_name("method", name, [*METHODS, *CONTROLS])
        if not all("=" in item for item in given):
            raise UsageError(f"{text}: is not of the form NAME[:PARAMETER=VALUE…][@BASELINE]")
        method = find_method(name, **dict(item.split("=", 1) for item in given))
        if at:
            return cls(text, method, own)
        return cls(text, method, baseline if method.baseline is not None else None)

    @property
    def multiplies(self) -> bool:
        """Whether the map already holds contributions, multiplier × difference, rather than multipliers."""
        return self.method is None or self.method.readout == RELEVANCE

    def relevance(self, model: Model, batch: Tensor, target: Any, generator: torch.Generator) -> Tensor:
        """Relevance [N, C, H, W] (a control: [N, 1, H, W]) of `target`, as `heatcli.explain` takes it."""
        if self.method is None:
            return CONTROLS[self.name](batch, generator)
        return self.explanation(model, batch, target).relevance

    def explanation(self, model: Model, batch: Tensor, target: Any) -> Explanation:
        """All that `heatcli.explain` finds. Raises `UsageError` for a control, which explains nothing."""
        if self.method is None:
            raise UsageError(f"{self.name} is a control, not a method; it has no ledger")
        return explain(model, batch, self.method, target, self.baseline)

    def reference(self, model: Model, batch: Tensor) -> Tensor:
        """What the batch is compared with, [N, C, H, W]; zero where the method compares with nothing."""
        if self.method is None or self.method.baseline is None:
            return torch.zeros_like(batch)
        found = reference(model, batch, self.method, self.baseline).batch
        return torch.zeros_like(batch) if found is None else found
