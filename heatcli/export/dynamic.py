"""A record for batches of any size, from two records of the same function for two batch sizes.

As in `heatcli.graph.batch`, every integer that differs between the two must be a·N + b in the number N of images.
Everything else must be equal, constants too, but for rows that a constant repeats for each image. The two records were
made on different noise, so equal constants do not depend on the example inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.system.torch_private import pytree

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten


class FrozenError(UsageError):
    """A value in a record depends on the example inputs."""


def joined(one: GraphModule, other: GraphModule, first: int, second: int) -> GraphModule:
    """Change `one`, recorded for `first` images, into a record for any number of images, and return it.

    `other`: the same function recorded for `second` images. If the two numbers are equal, the records must be equal,
    and the result is for that number only. Raises `FrozenError` if a value or the order of operators depends on the
    example inputs.
    """
    nodes, others = list(one.graph.nodes), list(other.graph.nodes)
    if [_kind(n) for n in nodes] != [_kind(n) for n in others]:
        raise FrozenError("its operators are others for another number of images")
    counterpart = dict(zip(nodes, others, strict=True))
    batch = next(node for node in nodes if node.op == "placeholder")
    after = next(node for node in nodes if node.op != "placeholder")
    with one.graph.inserting_before(after):
        size = one.graph.call_method("size", (batch, 0))
    known: dict[tuple[int, int], Node] = {}

    def number(step: int, rest: int) -> Node:
        """The node that computes step·N + rest; it is made once, before all nodes that read it."""
        if (step, rest) not in known:
            with one.graph.inserting_before(after):
                found = size if step == 1 else one.graph.call_function(operator.mul, (size, step))
                known[step, rest] = found if rest == 0 else one.graph.call_function(operator.add, (found, rest))
        return known[step, rest]

    def leaf(x: Any, y: Any, node: Node) -> Any:
        """An argument of `one` for any number of images, from that and its counterpart. Raises `FrozenError`."""
        if isinstance(x, torch.fx.Node):
            if counterpart.get(x) is not y:
                raise FrozenError(f"{node.name} reads other values for another number of images")
            return x
        if type(x) is int and type(y) is int and x != y:
            step, rest = divmod(y - x, second - first) if second != first else (0, 1)
            if rest:
                raise FrozenError(f"a size in {node.name} does not follow the number of images")
            return number(step, x - step * first)
        if x != y:
            raise FrozenError(f"a number in {node.name} depends on the example")
        return x

    repeated: list[tuple[Node, Tensor, int]] = []
    for node in nodes:
        twin = counterpart[node]
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise FrozenError(f"{node.name} draws at random, which an explained model does not")
        if node.op == "get_attr":
            mine, theirs = getattr(one, str(node.target)), getattr(other, str(twin.target))
            if not torch.equal(mine, theirs):
                repeated.append((node, *_of_one_image(mine, theirs, first, second, node)))
        leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
        theirs, their_spec = pytree.tree_flatten((twin.args, twin.kwargs))
        if spec != their_spec:
            raise FrozenError(f"{node.name} is called otherwise for another number of images")
        node.args, node.kwargs = pytree.tree_unflatten(
            [leaf(x, y, node) for x, y in zip(leaves, theirs, strict=True)], spec
        )
    for node, row, axis in repeated:
        _repeat(one, node, row, axis, size, number(row.shape[axis], 0))
    for node in nodes:  # a view depends on the memory layout, which may differ in another runtime
        if node.target in (_ATEN.view.default, _ATEN._unsafe_view.default):
            node.target = _ATEN.reshape.default
    (returned,) = nodes[-1].args
    if isinstance(returned, list):  # heatcli opens .pt2 files that return a tuple, not a list
        nodes[-1].args = (tuple(returned),)
    one.graph.lint()
    one.recompile()
    return one


def _kind(node: Node) -> tuple[str, Callable[..., Any] | str]:
    """What a node does, to be compared with its counterpart."""
    return node.op, "" if node.op in ("placeholder", "get_attr", "output") else node.target


def _of_one_image(mine: Tensor, theirs: Tensor, first: int, second: int, node: Node) -> tuple[Tensor, int]:
    """What a constant, of `first` and of `second` images, holds for each image, and the axis along which it repeats.

    Raises `FrozenError` if it is not the same for each image.
    """
    apart = [axis for axis, (a, b) in enumerate(zip(mine.shape, theirs.shape, strict=False)) if a != b]
    if mine.dim() == theirs.dim() and len(apart) == 1:
        axis = apart[0]
        row = mine.narrow(axis, 0, mine.shape[axis] // first)
        times = [1] * mine.dim()
        for constant, n in ((mine, first), (theirs, second)):
            times[axis] = n
            if row.shape[axis] * n != constant.shape[axis] or not torch.equal(row.repeat(times), constant):
                break
        else:
            return row.clone(), axis
    raise FrozenError(f"a constant, {node.name}, depends on the example")


def _repeat(graph: GraphModule, node: Node, row: Tensor, axis: int, images: Node, size: Node) -> None:
    """Repeat the constant `row` along the axis for each image, in place of the constant that `node` reads."""
    graph.register_buffer(f"{node.target}_each", row)
    with graph.graph.inserting_after(size):
        each = graph.graph.get_attr(f"{node.target}_each")
    apart: list[Any] = [*row.shape[:axis], 1, *row.shape[axis:]]
    whole: list[Any] = [*row.shape]
    with graph.graph.inserting_after(each):
        found = graph.graph.call_function(_ATEN.reshape.default, (each, apart))
    apart[axis], whole[axis] = images, size
    with graph.graph.inserting_after(found):
        found = graph.graph.call_function(_ATEN.expand.default, (found, apart))
    with graph.graph.inserting_after(found):
        found = graph.graph.call_function(_ATEN.reshape.default, (found, whole))
    node.replace_all_uses_with(found)
