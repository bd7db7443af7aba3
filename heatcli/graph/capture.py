"""From any callable torch module to the flat ATen graph, by recording one run on an example input.

The recorder (`heatcli.graph.recorder`) runs on real tensors, so sizes computed with tensors are plain numbers.
(`make_fx` yields the same graph, but takes three seconds to import and fails at such sizes.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from heatcli.errors import ModelError, ShapeError, UsageError, first_line
from heatcli.graph import suppression
from heatcli.graph.anchors import Anchors
from heatcli.graph.ends import FindBoxes, end_of
from heatcli.graph.heads import joined
from heatcli.graph.kinds import classify
from heatcli.graph.lookups import Positions
from heatcli.graph.nested import leaves, mapped
from heatcli.graph.operator import Constant, Graph, Operator, Ref, Returned, needed_for
from heatcli.graph.positions import chosen_for, held
from heatcli.graph.recorder import Call, Recorder
from heatcli.graph.remarks import remarks
from heatcli.graph.schemas import has_free_shape, title_of
from heatcli.system.torch_private import pytree

INPUT = "input"
_ATEN = torch.ops.aten
# The output depends only on the argument's shape.
_SHAPE_ONLY = frozenset("new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like".split())
# A view requires certain strides, which passes may change. A reshape does not.
_STRIDE_FREE = {_ATEN.view.default: _ATEN.reshape.default, _ATEN._unsafe_view.default: _ATEN.reshape.default}


def record(
    module: Callable[[Tensor], Any], example: Tensor, names: Mapping[str, Tensor], where: str, head: int | None = 0,
    boxes: FindBoxes | None = None, tokens: bool = False, anchors: Anchors | None = None,
) -> Graph:  # fmt: skip
    """Record `module` on `example` [N, C, H, W] as a classified graph that no pass has rewritten.

    `names`: the artifact's parameters and buffers, whose names the graph keeps. `head`: which of several outputs is
    explained; None: the first, or the boxes that `boxes` finds in all of them. `tokens`: the module reads the example
    as whole numbers (`heatcli.graph.lookups`). `anchors`: those that boxes are relative to. Raises
    `ModelError`, naming `where`, if the module cannot be run, draws random numbers, returns no scores, or its scores do
    not depend on the image; `UsageError` if there is no output `head`.
    """
    with closing(Recorder()) as recorder:
        returned = _run(recorder, module, example, where)
        every = [recorder.value_of(x) for x in floating(returned)]
        detected = None if boxes is None or head is not None else boxes(every, example.shape, False)
        end = None
        if detected is None and head is None:
            leaves = [recorder.value_of(x) for x in pytree.tree_leaves(returned) if isinstance(x, Tensor)]
            end = end_of(recorder, example, leaves, boxes, where)
        if end is not None:
            returned, detected = end.raw, end.boxes
        with torch.no_grad(), recorder:
            output = (
                scores(returned, head or 0, where)
                if detected is None
                else joined(floating(returned), detected, anchors if end is None else None)
            )
        output = recorder.value_of(output)
        chosen = chosen_for(output, recorder.calls)
        calls = recorder.calls
        if end is not None:
            calls = [call for call in calls if id(call) not in end.choice.after]
        graph = _flatten(calls, example, output, names, where, tokens, chosen)
        graph = replace(classify(graph), boxes=detected)
        if end is not None:
            nodes = suppression.nodes_of(calls, floating(returned))
            graph = replace(graph, before=end.choice.operators, raw=nodes)
        known = {_address(tensor): name for name, tensor in names.items() if tensor.numel()}
        standardised = [known.get(_address(mean), "without a name") for mean in recorder.standardised]
        return replace(graph, returned=_returned(returned), remarks=remarks(graph, standardised))


def _run(recorder: Recorder, module: Callable[[Tensor], Any], example: Tensor, where: str) -> Any:
    """What the module returns for the example, recorded. Raises `ModelError`."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), recorder:
            warnings.simplefilter("ignore")
            return module(example)
    except Exception as error:  # whatever the artifact's own code raises
        if recorder.refused is not None:
            raise ModelError(f"{where}: {recorder.refused}") from error
        raise ShapeError(
            f"{where}: cannot be run on an input of shape {tuple(example.shape)}: {_cause(error, recorder.failed)}"
        ) from error


def _cause(error: Exception, failed: Exception | None) -> str:
    """The informative line of an error. TorchScript wraps the original error in a traceback, or loses it (`failed`)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inner = [line.removeprefix("RuntimeError: ") for line in lines if line.startswith("RuntimeError: ")]
    if not inner and failed is not None and "in the TorchScript interpreter" in str(error):
        return first_line(failed)
    return first_line(RuntimeError(inner[-1])) if inner else first_line(error)


def _returned(returned: Any) -> tuple[Returned, ...]:
    """Every floating-point tensor that the artifact returns, in the order in which `head` counts them."""
    leaves, _ = pytree.tree_flatten_with_path(returned)
    return tuple(
        Returned(tuple(x.shape), x.dtype, ".".join(str(key.key) for key in path if isinstance(key, pytree.MappingKey)))
        for path, x in leaves
        if isinstance(x, Tensor) and x.dtype.is_floating_point
    )


def floating(returned: Any) -> list[Tensor]:
    """Every floating-point tensor that the artifact returns, in the order in which `head` counts them."""
    return [x for x in pytree.tree_leaves(returned) if isinstance(x, Tensor) and x.dtype.is_floating_point]


def scores(returned: Any, head: int, where: str) -> Tensor:
    """The output to explain: floating-point tensor number `head` of what the artifact returns.

    Raises `ModelError` if no floating-point tensor is returned, `UsageError` if there is no output `head`.
    """
    tensors = floating(returned)
    if not tensors:
        raise ModelError(f"{where}: returns no floating-point tensor; heatcli explains scores")
    if not 0 <= head < len(tensors):
        shapes = ", ".join(f"{i}: {tuple(x.shape)}" for i, x in enumerate(tensors))
        raise UsageError(f"{where}: has no output {head}; it returns {shapes}")
    return tensors[head]


def _flatten(
    calls: list[Call], example: Tensor, output: Tensor, names: Mapping[str, Tensor], where: str, tokens: bool,
    chosen: Sequence[Tensor] = (),
) -> Graph:  # fmt: skip
    """Operators in order, one for each output tensor of each call. Values independent of the image are constants.

    A number that the module reads from a value that depends on the image (to branch on it) becomes a guard. The
    `chosen` positions are held as they are.
    """
    known = {_address(tensor): name for name, tensor in names.items() if tensor.numel()}
    values: dict[int, Ref | Constant] = {id(example): Ref(INPUT)}
    active = {INPUT: tuple(example.shape)}
    operators: dict[str, Operator] = {}
    decided: dict[str, float] = {}
    kept_apart = {id(tensor) for tensor in chosen}
    place = Positions(INPUT, tuple(example.shape)) if tokens else None
    for number, call in enumerate(calls):
        given = leaves((call.args, call.kwargs))
        for tensor in given:
            if isinstance(tensor, Tensor) and id(tensor) not in values:
                values[id(tensor)] = Constant(known.get(_address(tensor), f"constant_{len(values)}"), tensor.detach())
        read = given if title_of(call.target) not in _SHAPE_ONLY else ()
        inputs = [values[id(x)] for x in read if isinstance(x, Tensor)]
        if isinstance(call.output, bool | int | float):
            asked = [x.name for x in inputs if isinstance(x, Ref)]
            bounds = tokens and all(name in operators and operators[name].title == "aminmax" for name in asked)
            decided |= {} if bounds else dict.fromkeys(asked, call.output)  # one_hot only checks the bounds of tokens
        several = isinstance(call.output, (tuple, list))
        for index, tensor in enumerate(call.output if several else [call.output]):
            if not isinstance(tensor, Tensor) or id(tensor) in values:
                continue
            name = f"{title_of(call.target)}_{number}" + (f"_{index}" if several and index else "")
            of_image = any(isinstance(x, Ref) for x in inputs)
            if not of_image or not (tensor.numel() or id(tensor) in kept_apart):  # independent of the image
                values[id(tensor)] = Constant(_derived_name(inputs, name), tensor.detach())
                continue
            op = _operator(call, name, index if several else None, tensor, values, active)
            if place is not None:
                op, made = place.told(op)
                if made is not None:
                    operators[made.name], active[made.name] = made, made.shape
            operators[name] = op
            values[id(tensor)] = Ref(name)
            if operators[name].sources and tensor.dtype.is_floating_point:
                active[name] = tuple(tensor.shape)
    result = values.get(id(output))
    if not isinstance(result, Ref):
        raise ModelError(f"{where}: its output does not depend on the image; nothing can be explained")
    complex_ones = [op.name for op in needed_for(result.name, operators.values()) if op.dtype.is_complex]
    if complex_ones:
        raise ModelError(
            f"{where}: computes with complex numbers (operator {complex_ones[0]}), which heatcli does not explain; "
            "export the network from its spectrogram on"
        )
    if result.name not in active:
        raise ModelError(
            f"{where}: its output depends on the image only by way of whole numbers or comparisons (thresholds, "
            "indices, integer types); no relevance passes through those"
        )
    shape, every = tuple(example.shape), operators.values()
    positions = {x.name: tensor for tensor in chosen if isinstance(x := values.get(id(tensor)), Ref)}
    kept = needed_for(result.name, held(every, positions) if positions else every)
    for operator in kept:
        if _is_of_no_fixed_shape(operator, operators):
            raise ModelError(
                f"{where}: the shape of its operator {operator.name} depends on the picture; heatcli explains graphs "
                "that are the same for every picture"
            )
    for source, taken in decided.items():
        if isinstance(taken, float):
            raise ModelError(
                f"{where}: takes a value of the picture out of the graph as a number (operator {source}, {taken:.4g}), "
                "which no relevance can follow; keep it a tensor"
            )
    guards = tuple((Graph(INPUT, shape, needed_for(name, every), name, ()), x) for name, x in decided.items())
    chosen_on = example.detach() if positions else None
    return Graph(INPUT, shape, kept, result.name, tuple(output.shape), guards=guards, chosen_on=chosen_on)


def _is_of_no_fixed_shape(operator: Operator, others: Mapping[str, Operator]) -> bool:
    """Whether the shape of the operator's output depends on the values of the image."""
    picks = [others[x.name] for x in leaves(operator.args[1:2]) if isinstance(x, Ref) and x.name in others]
    return has_free_shape(operator.target, (mask.dtype for mask in picks))


def _operator(
    call: Call, name: str, index: int | None, output: Tensor,
    values: Mapping[int, Ref | Constant], active: Mapping[str, tuple[int, ...]],
) -> Operator:  # fmt: skip
    """A recorded call as an operator. `active`: shapes of the values that carry the image, by name."""

    def named(x: Any) -> Any:
        """The `Ref` or `Constant` that stands for a tensor; anything else unchanged."""
        return values[id(x)] if isinstance(x, Tensor) else x

    args, kwargs = mapped(named, (tuple(call.args), call.kwargs))
    sources = [x for x in leaves((args, kwargs)) if isinstance(x, Ref) and x.name in active]
    target = _STRIDE_FREE.get(call.target, call.target)
    if target is _ATEN._convolution.default:  # the same operator with trailing cuDNN flags
        target, args = _ATEN.convolution.default, args[:9]
    if target is _ATEN.reshape.default and len(args) > 1 and -1 in args[1]:  # −1 may stand for any number
        args = (args[0], list(output.shape))
    return Operator(
        name=name,
        target=target,
        args=args,
        kwargs=kwargs,
        index=index,
        shape=tuple(output.shape),
        dtype=output.dtype,
        sources=tuple(x.name for x in sources),
        source_shapes=tuple(active[x.name] for x in sources),
        node=call.node,
    )


def _derived_name(origins: list[Ref | Constant], otherwise: str) -> str:
    """The name of a constant computed from constants: that of the only one, or of the only one called bias."""
    names = list(dict.fromkeys(origin.name for origin in origins))
    biases = [name for name in names if name.endswith("bias")]
    chosen = names if len(names) == 1 else biases
    return chosen[0] if len(chosen) == 1 else otherwise


def _address(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()
