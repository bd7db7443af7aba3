"""Rules for affine operators: convolution, dense layers, batch norm, average pooling, upsampling, `·c`, `+c`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.rules.base import Sent, Step, per_image, wide


@dataclass(frozen=True)
class Epsilon:
    """LRP-ε: R_i = Σ_j x_i w_ij R_j / (z_j + ε·sign(z_j)); the bias takes b_j R_j / (…), ε the rest.

    In multipliers: s = m·z / (z + ε·sign z), m_in = Wᵀ s. With a baseline, z is the difference from it.
    """

    epsilon: float = 1e-6
    source: ClassVar[str] = "Bach et al. 2015, eq. 58"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise UsageError(f"epsilon={self.epsilon:g} is not allowed; it must be a number ≥ 0")

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs s·ε·sign(z)."""
        if self.epsilon == 0:
            nothing = wide(multiplier.new_zeros(len(multiplier)))
            return Sent(step.adjoint(multiplier), offsets_at=multiplier, absorbed=nothing)
        z = step.difference
        stabiliser = torch.copysign(z.new_tensor(self.epsilon), z)
        s = multiplier * (z / (z + stabiliser))
        return Sent(step.adjoint(s), offsets_at=s, absorbed=per_image(s * stabiliser))
