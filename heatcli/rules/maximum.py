"""Rules for maxima: max pooling, amax, the larger of two tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.rules.base import Sent, Step

_MINIMA = frozenset("amin min minimum".split())


@dataclass(frozen=True)
class Winner:
    """The winner takes all: the gradient. With a baseline, a rise goes to the image's winner, a fall to the baseline's.

    y − y0 = (max(y, y0) − y0) + (y − max(y, y0)): the first part is due to the image's winner, whose own difference
    is at least as large, the second to the baseline's; each gets its part over its difference.
    """

    source: ClassVar[str] = "gradient; with a baseline as SHAP's and Captum's DeepLIFT split max pooling"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        if step.reference_inputs is None:
            return Sent(step.adjoint(multiplier))
        dy = step.difference
        risen, fallen = multiplier * dy.clamp(min=0), multiplier * dy.clamp(max=0)
        if step.operator.title in _MINIMA:
            risen, fallen = fallen, risen
        at_image = step.adjoint(risen)
        _, at_baseline = step.adjoint_at(step.reference_inputs, fallen)
        gradient = step.adjoint(multiplier)
        return Sent(
            [_over(step.input_difference(i), at_image[i], at_baseline[i], gradient[i]) for i in range(len(step.inputs))]
        )


def _over(dx: Tensor, at_image: Tensor | None, at_baseline: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if at_image is None or at_baseline is None or gradient is None:
        return None
    relevance = at_image + at_baseline
    return torch.where(dx == 0, gradient, relevance / torch.where(dx == 0, 1, dx))
