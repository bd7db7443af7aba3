"""From any callable torch module to the flat ATen graph, by watching it run once on an example input.

Running on real tensors (`heatcli.graph.recorder`), sizes that the artifact computes with tensors are just numbers.
(`make_fx` yields the same graph, at the price of three seconds of imports, and stops at such sizes.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from heatcli.errors import ModelError, UsageError, first_line
from heatcli.graph.kinds import classify
from heatcli.graph.operator import Constant, Graph, Operator, Ref, Returned
from heatcli.graph.passes import DEFAULT, apply, needed_for
from heatcli.graph.recorder import Call, Recorder
from heatcli.graph.remarks import remarks

INPUT = "input"
_ATEN = torch.ops.aten
# What these make depends on the shape of their argument alone.
_SHAPE_ONLY = frozenset("new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like".split())
# A view demands strides, which passes may change; a reshape does not.
_STRIDE_FREE = {_ATEN.view.default: _ATEN.reshape.default, _ATEN._unsafe_view.default: _ATEN.reshape.default}


def capture(
    module: Callable[[Tensor], Any],
    example: Tensor,
    names: Mapping[str, Tensor],
    where: str,
    passes: Iterable[str] = DEFAULT,
    head: int = 0,
) -> Graph:
    """Run `module` once on `example` [N, C, H, W] and return what it did as a `Graph`, rewritten by `passes`.

    As `record` says.
    """
    return apply(record(module, example, names, where, head), passes)


def record(
    module: Callable[[Tensor], Any], example: Tensor, names: Mapping[str, Tensor], where: str, head: int = 0
) -> Graph:  # fmt: skip
    """What `module` does on `example` [N, C, H, W], as a classified graph that no pass has rewritten.

    `names` are the artifact's parameters and buffers, whose names the graph keeps; `head` says which of several outputs
    is explained. Raises `ModelError`, naming `where`, if it cannot be run, draws random numbers, returns no scores, or
    its scores do not depend on the image.
    """
    recorder = Recorder()
    try:
        with torch.no_grad(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), recorder:
            warnings.simplefilter("ignore")
            returned = module(example)
    except Exception as error:  # whatever the artifact's own code raises
        if recorder.refused is not None:
            raise ModelError(f"{where}: {recorder.refused}") from error
        raise ModelError(
            f"{where}: cannot be run on an input of shape {tuple(example.shape)}: {_cause(error, recorder.failed)}"
        ) from error
    output = recorder.value_of(scores(returned, head, where))
    graph = classify(_flatten(recorder.calls, example, output, names, where))
    known = {_address(tensor): name for name, tensor in names.items() if tensor.numel()}
    standardised = [known.get(_address(mean), "without a name") for mean in recorder.standardised]
    return replace(graph, returned=_returned(returned), remarks=remarks(graph, standardised))


def _cause(error: Exception, failed: Exception | None) -> str:
    """The telling line of an error; TorchScript wraps the real one in a trace-back, or loses it (`failed`)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inner = [line.removeprefix("RuntimeError: ") for line in lines if line.startswith("RuntimeError: ")]
    if not inner and failed is not None and "in the TorchScript interpreter" in str(error):
        return first_line(failed)
    return first_line(RuntimeError(inner[-1])) if inner else first_line(error)


def _returned(returned: Any) -> tuple[Returned, ...]:
    """Every floating-point tensor that the artifact returns, in the order that `head` counts them."""
    leaves, _ = pytree.tree_flatten_with_path(returned)
    return tuple(
        Returned(tuple(x.shape), x.dtype, ".".join(str(key.key) for key in path if isinstance(key, pytree.MappingKey)))
        for path, x in leaves
        if isinstance(x, Tensor) and x.dtype.is_floating_point
    )


def scores(returned: Any, head: int, where: str) -> Tensor:
    """The output to explain: the floating-point tensor number `head` of what the artifact returns."""
    found = [x for x in pytree.tree_leaves(returned) if isinstance(x, Tensor) and x.dtype.is_floating_point]
    if not found:
        raise ModelError(f"{where}: returns no floating-point tensor; heatcli explains scores")
    if not 0 <= head < len(found):
        shapes = ", ".join(f"{i}: {tuple(x.shape)}" for i, x in enumerate(found))
        raise UsageError(f"{where}: has no output {head}; it returns {shapes}")
    return found[head]


def _flatten(calls: list[Call], example: Tensor, output: Tensor, names: Mapping[str, Tensor], where: str) -> Graph:
    """Operators in order, one for each output tensor of each call; what the image does not reach is a constant.

    A number that the module makes of what the image reaches, to decide by, becomes a guard.
    """
    known = {_address(tensor): name for name, tensor in names.items() if tensor.numel()}
    values: dict[int, Ref | Constant] = {id(example): Ref(INPUT)}
    active = {INPUT: tuple(example.shape)}
    operators: dict[str, Operator] = {}
    decided: dict[str, float] = {}
    for number, call in enumerate(calls):
        leaves = pytree.tree_leaves((call.args, call.kwargs))
        for tensor in leaves:
            if isinstance(tensor, Tensor) and id(tensor) not in values:
                values[id(tensor)] = Constant(known.get(_address(tensor), f"constant_{len(values)}"), tensor.detach())
        read = leaves if _title(call.target) not in _SHAPE_ONLY else ()
        origins = [values[id(x)] for x in read if isinstance(x, Tensor)]
        if isinstance(call.output, bool | int | float):
            decided |= {x.name: call.output for x in origins if isinstance(x, Ref)}
        several = isinstance(call.output, (tuple, list))
        for index, tensor in enumerate(call.output if several else [call.output]):
            if not isinstance(tensor, Tensor) or id(tensor) in values:
                continue
            name = f"{_title(call.target)}_{number}" + (f"_{index}" if several and index else "")
            if not any(isinstance(origin, Ref) for origin in origins) or not tensor.numel():  # nothing of the image
                values[id(tensor)] = Constant(_derived_name(origins, name), tensor.detach())
                continue
            operators[name] = _operator(call, name, index if several else None, tensor, values, active)
            values[id(tensor)] = Ref(name)
            if operators[name].sources and tensor.dtype.is_floating_point:
                active[name] = tuple(tensor.shape)
    result = values.get(id(output))
    if not isinstance(result, Ref):
        raise ModelError(f"{where}: its output does not depend on the image; nothing can be explained")
    if result.name not in active:
        raise ModelError(
            f"{where}: its output depends on the image only by way of whole numbers or comparisons (thresholds, "
            "indices, integer types); no relevance passes through those"
        )
    shape, every = tuple(example.shape), operators.values()
    kept = needed_for(result.name, every)
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
    guards = tuple((Graph(INPUT, shape, needed_for(at, every), at, ()), x) for at, x in decided.items())
    return Graph(INPUT, shape, kept, result.name, tuple(output.shape), guards=guards)


def _is_of_no_fixed_shape(operator: Operator, others: Mapping[str, Operator]) -> bool:
    """Whether the shape of its output depends on the values of the picture."""
    if torch.Tag.dynamic_output_shape not in getattr(operator.target, "tags", ()):
        return False
    if operator.title != "index":
        return True
    picked = [others[x.name] for x in pytree.tree_leaves(operator.args[1]) if isinstance(x, Ref) and x.name in others]
    return any(mask.dtype in (torch.bool, torch.uint8) for mask in picked)


def _operator(
    call: Call, name: str, index: int | None, output: Tensor,
    values: Mapping[int, Ref | Constant], active: Mapping[str, tuple[int, ...]],
) -> Operator:  # fmt: skip
    def named(x: Any) -> Any:
        """A tensor as the reference or constant that it is known as."""
        return values[id(x)] if isinstance(x, Tensor) else x

    args, kwargs = pytree.tree_map(named, (tuple(call.args), dict(call.kwargs)))
    sources = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Ref) and x.name in active]
    target = _STRIDE_FREE.get(call.target, call.target)
    if target is _ATEN._convolution.default:  # the same, with flags for cuDNN behind
        target, args = _ATEN.convolution.default, args[:9]
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
    )


def _title(target: Any) -> str:
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target)).lstrip("_")


def _derived_name(origins: list[Ref | Constant], otherwise: str) -> str:
    """A constant computed from one constant keeps its name; from several, the name of the one called bias."""
    names = list(dict.fromkeys(origin.name for origin in origins))
    biases = [name for name in names if name.endswith("bias")]
    chosen = names if len(names) == 1 else biases
    return chosen[0] if len(chosen) == 1 else otherwise


def _address(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()
