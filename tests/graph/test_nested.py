"""Nested arguments: the same as torch's own functions for them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from heatcli.graph.nested import leaves, mapped, tensors_mapped

NESTED = st.recursive(
    st.integers() | st.text(max_size=2) | st.floats(allow_nan=False) | st.booleans() | st.just(torch.float32),
    lambda x: st.lists(x, max_size=3) | st.lists(x, max_size=3).map(tuple) | st.dictionaries(st.text(), x, max_size=3),
    max_leaves=12,
)


@given(NESTED)
def test_leaves_and_maps_are_torchs(x: Any) -> None:
    assert leaves(x) == pytree.tree_leaves(x)
    assert mapped(lambda y: [y], x) == pytree.tree_map(lambda y: [y], x)


def test_tensors_alone_are_changed() -> None:
    found = tensors_mapped(lambda x: x + 1, (torch.zeros(2), [None, 3], {"a": torch.ones(1)}))
    assert found[0].tolist() == [1, 1]
    assert found[1] == [None, 3]
    assert found[2]["a"].tolist() == [2]
