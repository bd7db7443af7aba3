"""Rules for normalisers: layer, group, instance and RMS norm, softmax inside the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.rules.numerics import exponential_slope
from heatcli.rules.rule import Rule, Sent, Step


@dataclass(frozen=True)
class HeldStatistics(Rule):
    """From reference 0 the standard deviation is held constant (the mean stays linear), so y is affine in x.

    An RMS norm is the same without the mean: y = x/√(mean x² + e), whose root is held constant.

    With a baseline, the standard deviation σ = √(v + e) gets its exact share. The centred input is c = y·σ, a product
    whose difference is halved between its factors, so Δy = (Δc − Δσ·(y + y0)/2)·2/(σ + σ0), with Δσ by its own secant.
    The factor 2/(σ + σ0) is at most twice the smaller derivative. Halving y = c·(1/σ) instead gives (1/σ + 1/σ0)/2, a
    thousand for a constant baseline, and then the shares of a deep network cancel beyond float32. Softmax is computed
    as exp(x − log Σ exp x), from reference 0 with offset 1/n. Elements masked by −∞ are masked in the reference too,
    and n counts the others.
    """

    source: ClassVar[str] = "Ali et al. 2022, sec. 3 (LRP for layer norm); with a baseline: DeepLIFT's chain rule"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        title = step.operator.title
        if title in ("_softmax", "_safe_softmax", "_log_softmax"):
            return _softmax(step, multiplier, logarithm=title == "_log_softmax")
        if title in ("norm", "linalg_vector_norm"):
            return Sent([_euclidean(step, multiplier)])
        return Sent([_standardise(step, multiplier)], offsets_at=multiplier)


def _euclidean(step: Step, multiplier: Tensor) -> Tensor | None:
    """‖x‖: Δ‖x‖ = Σ (x + x0)·Δx / (‖x‖ + ‖x0‖); from reference 0 the gradient (Euler)."""
    if step.without_reference or step.reference_output is None:
        return step.adjoint(multiplier)[0]
    total = step.output + step.reference_output
    both = torch.where(total == 0, 0, multiplier * 2 / torch.where(total == 0, 1, total))
    mid = step.midpoints()
    with torch.no_grad():
        middle = step.operator.run(step.others, mid)
    return step.adjoint_at(mid, both * middle)[0]  # ∇‖x‖·‖x‖ = x


def _standardise(step: Step, multiplier: Tensor) -> Tensor:
    """The multiplier of a layer, group, instance or RMS norm's input, as `HeldStatistics` has it."""
    op, x = step.operator, step.inputs[0]
    centre = op.title != "_fused_rms_norm"
    if op.title in ("native_layer_norm", "_fused_rms_norm"):
        grouped: tuple[int, ...] = (*x.shape[: x.dim() - len(op.arg(1))], -1)
        weight, eps = op.constant(2), op.arg(4 if centre else 3)
        scale = None if weight is None else weight.value
    else:  # group norm; instance norm is a batch norm of [1, N·C, …], with statistics for each row
        grouped = (x.shape[1], -1) if op.title == "native_batch_norm" else (x.shape[0], op.arg(6), -1)
        weight, eps = op.constant(1), op.arg(7)
        scale = None if weight is None else weight.value.reshape(1, -1, *(1,) * (x.dim() - 2))
    g = (multiplier if scale is None else multiplier * scale).reshape(grouped)
    c, r = _scaled(x.reshape(grouped), eps, centre)
    references = step.references()
    if references is None:
        m = g * r
    else:
        c0, r0 = _scaled(references[0].reshape(grouped), eps, centre)
        scale = 2 * r * r0 / (r + r0)  # 2/(σ + σ0)
        to_deviation = (g * (c * r + c0 * r0)).sum(-1, keepdim=True) / 2
        m = scale * (g - to_deviation * scale * (c + c0) / (2 * c.shape[-1]))
    return (m - m.mean(-1, keepdim=True) if centre else m).reshape(x.shape)


def _scaled(x: Tensor, eps: float | None, centre: bool) -> tuple[Tensor, Tensor]:
    """x, centred where the norm does so, and 1/σ."""
    c = x - x.mean(-1, keepdim=True) if centre else x
    return c, torch.rsqrt((c * c).mean(-1, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))


@dataclass(frozen=True)
class SoftmaxTaylor(Rule):
    """R_i = x_i (R_i − s_i Σ_j R_j): the first-order Taylor expansion of s = softmax(x) at x itself.

    The multiplier is the gradient Jᵀm. The expansion's constant s − J x, with elements s_j (1 − x_j + Σ_k s_k x_k), is
    booked as the softmax's offset. With a baseline, differences go by the secant, as in `HeldStatistics`: an expansion
    at x would leave a remainder that no bias takes.
    """

    source: ClassVar[str] = "Achtibat et al. 2024, arXiv 2402.05602, prop. 3.1"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference. Elements masked by −∞ get nothing."""
        if not step.without_reference:
            return _softmax(step, multiplier, logarithm=False)
        dim, s = step.operator.arg(1), step.output
        x = torch.where(step.inputs[0].isneginf(), 0, step.inputs[0])
        inner = multiplier * s
        sent = inner - s * inner.sum(dim, keepdim=True)
        constant = s * (1 - x + (s * x).sum(dim, keepdim=True))
        return Sent([sent], offsets_at=multiplier * constant * x.shape[dim])  # the operator's own offset is 1/length


def _softmax(step: Step, multiplier: Tensor, logarithm: bool) -> Sent:
    """Softmax as exp(x − log Σ exp x), each function by its secant; log-softmax without the outer exp."""
    dim, x = step.operator.arg(1), step.inputs[0]
    masked = x.isneginf()
    x0 = torch.where(masked, x, 0) if step.reference_inputs is None else step.reference_inputs[0]
    total, total0 = torch.logsumexp(x, dim, keepdim=True), torch.logsumexp(x0, dim, keepdim=True)
    shift = torch.maximum(total, total0)
    share = exponential_slope(x - shift, x0 - shift) / exponential_slope(total - shift, total0 - shift)
    m = multiplier if logarithm else multiplier * exponential_slope(x - total, x0 - total0)
    sent = torch.where(masked, 0, m - share * m.sum(dim, keepdim=True))
    if step.reference_inputs is not None or logarithm:
        return Sent([sent], offsets_at=multiplier)
    n = (~masked).sum(dim, keepdim=True, dtype=x.dtype)  # the operator's own offset is 1/(length of dim)
    return Sent([sent], offsets_at=torch.where(masked, 0, multiplier * (x.shape[dim] / n.clamp(min=1))))
