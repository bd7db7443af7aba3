"""What a function does on tensors, written down as one graph of ATen operators: for `--compile` and `export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.system.torch_private import make_fx

if TYPE_CHECKING:
    from torch.fx import GraphModule


def recorded(
    function: Callable[..., Any], inputs: Sequence[Tensor],
    instead: Mapping[Any, Callable[..., Any]] | None = None,
    then: Mapping[Any, Callable[..., Any]] | None = None,
) -> GraphModule:  # fmt: skip
    """`function` as an FX graph of operators that write to nothing.

    `inputs`: its arguments, tensors [N, …]. `instead`: operator → a function of other operators, which is recorded in
    its place; `then`: the same for a record that writes to nothing any more. Raises what torch raises where the
    function decides by the values of its inputs.
    """
    from torch.func import functionalize

    first = make_fx(function, instead)(*inputs)
    with torch.no_grad():  # in-place writes become values
        whole = make_fx(functionalize(first), {**(instead or {}), **(then or {})})(*inputs)
    aten = torch.ops.aten
    for node in list(whole.graph.nodes):
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            whole.graph.erase_node(node)
    whole.recompile()
    return whole
