"""Graphs as bytes: whatever an operator may hold comes back the same; what may not come back is not written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import NETWORKS, graph_of, images, network
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.graph.operator import Constant, Graph, Operator, Ref
from heatcli.graph.stored import NotStorableError, from_bytes, to_bytes

ATEN = torch.ops.aten


def _back(graph: Graph) -> Graph:
    content = b"".join(to_bytes(graph))
    return from_bytes(torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8)))


def _graph(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, target: Callable[..., Any] | None = None
) -> Graph:
    op = Operator("y", target or ATEN.relu.default, (Ref("input"), *args), kwargs or {}, None, (1, 2), torch.float32)
    return Graph("input", (1, 2), (op,), "y", (1, 2))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Constant):
        return isinstance(b, Constant) and a.name == b.name and _alike(a.value, b.value)
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        return same and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and bool(a == b)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: x.t(),
    lambda x: x[:, 1:],
    lambda x: x[1:, ::2],
    lambda x: x[:1].expand(5, -1),
    lambda x: x[:0],
    lambda x: x[None, :, :, None].contiguous(memory_format=torch.channels_last),
]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any dtype that networks have, lying in memory in any way."""
    seed = draw(st.integers(0, 9))
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).mul(50).abs()
    return draw(st.sampled_from(LAYOUTS))(values.to(draw(st.sampled_from(DTYPES))))


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5)
    | st.sampled_from([*DTYPES, torch.strided, torch.channels_last, torch.contiguous_format, torch.device("cpu")])
    | st.builds(Constant, st.text(max_size=5), tensors()) | st.just(Ref("input"))
)  # fmt: skip
ARGUMENTS = st.recursive(LEAVES, lambda x: st.lists(x, max_size=4) | st.tuples(x, x), max_leaves=8)


@given(st.lists(ARGUMENTS, max_size=4), st.dictionaries(st.text(max_size=4), ARGUMENTS, max_size=3))
def test_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Types, lists and tuples, NaN and infinity, dtypes, strides and every bit of every tensor."""
    (op,) = _back(_graph(tuple(args), kwargs)).operators
    before, spec = pytree.tree_flatten(((Ref("input"), *args), kwargs))
    after, other = pytree.tree_flatten((op.args, dict(op.kwargs)))
    assert spec == other
    assert all(map(_alike, before, after))


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_graphs_come_back(name: str) -> None:
    """Every field of every operator, and its value."""
    batch = images(2)
    graph = graph_of(network(name), batch)
    back = _back(graph)
    assert (back.output_shape, back.centred, back.channels_last) == (
        graph.output_shape, graph.centred, graph.channels_last,
    )  # fmt: skip
    values = {"input": batch}
    for a, b in zip(graph.operators, back.operators, strict=True):
        for (
            field
        ) in "name target index shape dtype sources source_shapes kind role first before_first finite_at_zero".split():
            assert getattr(a, field) == getattr(b, field)
        assert all(_alike(x.value, y.value) and x.name == y.name for x, y in zip(a.offsets, b.offsets, strict=True))
        values[a.name] = a.run(values)
        assert torch.equal(b.run(values), values[a.name])


def test_a_tensor_that_is_used_twice_is_kept_once() -> None:
    weight = torch.randn(1000)
    args = (Constant("a", weight), Constant("b", weight), Constant("c", weight.view(10, 100)))
    assert len(b"".join(to_bytes(_graph(args)))) < 5000
    a, b, c = _back(_graph(args)).operators[0].constants
    assert a.value is b.value
    assert a.value.data_ptr() == c.value.data_ptr()


@pytest.mark.parametrize(
    "what",
    [
        1j, object(), 2**70, b"bytes", torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex64).conj(),
        torch.Generator(), torch.ops.quantized.add.default, torch.ops.aten.relu_.default, torch.relu,
        torch.ops.aten.from_file.default,
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_what_has_no_stored_form_is_not_written(what: Any) -> None:
    """Also where it is the operator itself: only ATen's, and only those that write nowhere."""
    what = Constant("c", what) if isinstance(what, Tensor) else what
    with pytest.raises(NotStorableError):
        to_bytes(_graph((what,)))
    if callable(what):
        with pytest.raises(NotStorableError):
            to_bytes(_graph((), target=what))


def test_graphs_that_hang_in_the_air_are_refused() -> None:
    """An operator that reads nothing, or what comes later, or no output."""
    good = _graph(())
    op = good.operators[0]
    bad = [
        Operator("y", ATEN.ones.default, ((1, 2),), {}, None, (1, 2), torch.float32),
        Operator("y", op.target, (Ref("z"),), {}, None, (1, 2), torch.float32),
        Operator("z", op.target, op.args, {}, None, (1, 2), torch.float32),
    ]
    assert _back(good).output == "y"
    for operator in bad:
        with pytest.raises(ValueError, match=r"reads|no output"):
            _back(Graph("input", (1, 2), (operator,), "y", (1, 2)))
