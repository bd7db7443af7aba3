"""What the naive replicas of the rules share: inputs, a dense matrix of anything affine, and a strict comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import graph_of, images
from torch import Tensor

from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books
from heatcli.rules.rule import Sent, Step

Function = Callable[[Tensor], Tensor]
REFERENCES = pytest.mark.parametrize("based", [False, True], ids=["none", "baseline"])


def assert_same(found: Any, expected: Tensor, what: str = "") -> None:
    """Elementwise, to 1e-9 of the largest element."""
    assert isinstance(found, Tensor), what
    assert found.shape == expected.shape, what
    size = max(float(expected.abs().max()), 1e-300)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * size, msg=lambda m: f"{what} {m}")


def inputs(shape: tuple[int, ...], based: bool, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Two images in float64, and two baselines or None."""
    return images(2, seed, shape).double(), images(2, seed + 1, shape).double() if based else None


def multiplier_for(step: Step) -> Tensor:
    return images(step.output.shape[0], 7, tuple(step.output.shape[1:])).double()


def booked(step: Step, sent: Sent) -> Books:
    """What a walk would enter in its books for this one answer."""
    books = Books(2, {o.name: torch.zeros(2, o.size, dtype=torch.float64) for o in step.operator.offsets})
    books.enter(step.operator, sent, step.reference_inputs is None)
    return books


def dense(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """W [out, in] and b [out] of an affine function of one image, by feeding it unit vectors."""
    size = x[0].numel()
    units = torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])
    with torch.no_grad():
        b = function(torch.zeros_like(x[:1])).flatten()
        columns = [function(unit[None]).flatten() - b for unit in units]
    return torch.stack(columns, 1), b


def steps_of(function: Function, x: Tensor, x0: Tensor | None) -> list[Step]:
    """All steps of a forward run of `function` as it is written, in order."""
    return forward(graph_of(function, x, passes=()), x, x0).steps
