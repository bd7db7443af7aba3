"""From any callable torch module to the flat ATen graph, by watching it run once on an example input.

A dispatch mode sees every ATen call that a ScriptModule, an ONNX conversion or an exported program makes; under
`functionalize` there are no in-place writes among them. Running on real tensors, sizes that the artifact computes with
tensors are just numbers. (`make_fx` yields the same graph, at the price of three seconds of imports, and stops at
such sizes.)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from heatcli.errors import ModelError, UsageError, first_line
from heatcli.graph.fused import FUSED
from heatcli.graph.kinds import classify
from heatcli.graph.operator import Constant, Graph, Operator, Ref, Returned
from heatcli.graph.passes import DEFAULT, apply, needed_for
from heatcli.graph.remarks import remarks

# Functionalizing an in-place call checks its shapes with torch's Python references, which import sympy: two seconds.
os.environ.setdefault("TORCH_DISABLE_FUNCTIONALIZATION_META_REFERENCE", "1")

INPUT = "input"
_ATEN = torch.ops.aten
# What these make depends on the shape of their argument alone.
_SHAPE_ONLY = frozenset("new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like".split())
# A view demands strides, which passes may change; a reshape does not.
_STRIDE_FREE = {_ATEN.view.default: _ATEN.reshape.default, _ATEN._unsafe_view.default: _ATEN.reshape.default}


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every call with its tensors alive, so that a tensor's identity is a name for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no dynamo here to be kept out; keeping it out would import it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _title(func) in FUSED:
            with self:
                return FUSED[_title(func)](*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        self.calls.append(_Call(func, args, kwargs or {}, output))
        return output


def capture(
    module: Callable[[Tensor], Any],
    example: Tensor,
    names: Mapping[str, Tensor],
    where: str,
    passes: Iterable[str] = DEFAULT,
    head: int = 0,
    functional: bool = True,
) -> Graph:
    """Run `module` once on `example` [N, C, H, W] and return what it did as a `Graph`, rewritten by `passes`.

    `names` are the artifact's parameters and buffers, whose names the graph keeps; `head` says which of several outputs
    is explained; `functional`: whether in-place writes are made functional (else they are refused). Raises
    `ModelError`, naming `where`, if it cannot be run, returns no scores, or its scores do not depend on the image.
    """
    try:
        returned, calls = _watched(module, example, where, functional)
    except ModelError:  # sizes that are computed from values are numbers only outside `functionalize`
        if not functional:
            raise
        functional = False
        returned, calls = _watched(module, example, where, functional)
    graph = classify(_flatten(calls, example, _scores(returned, head, where), names, where, functional))
    return apply(
        replace(graph, returned=_returned(returned), remarks=remarks(graph, {_title(c.target) for c in calls})), passes
    )


def _watched(module: Callable[[Tensor], Any], example: Tensor, where: str, functional: bool) -> tuple[Any, list[_Call]]:
    """What `module` returns for `example`, and every call it made."""
    recorder = _Recorder()
    try:
        with torch.no_grad(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), recorder:
            warnings.simplefilter("ignore")
            returned = functionalize(lambda x: module(x))(example) if functional else module(example)
    except Exception as error:  # whatever the artifact's own code raises
        raise ModelError(
            f"{where}: cannot be run on an input of shape {tuple(example.shape)}: {_cause(error)}"
        ) from error
    return returned, recorder.calls


def _cause(error: Exception) -> str:
    """The telling line of an error; TorchScript wraps the real one in a trace-back of its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inner = [line.removeprefix("RuntimeError: ") for line in lines if line.startswith("RuntimeError: ")]
    return first_line(RuntimeError(inner[-1])) if inner else first_line(error)


def _returned(returned: Any) -> tuple[Returned, ...]:
    """Every floating-point tensor that the artifact returns, in the order that `head` counts them."""
    leaves, _ = pytree.tree_flatten_with_path(returned)
    return tuple(
        Returned(tuple(x.shape), x.dtype, ".".join(str(key.key) for key in path if isinstance(key, pytree.MappingKey)))
        for path, x in leaves
        if isinstance(x, Tensor) and x.dtype.is_floating_point
    )


def _scores(returned: Any, head: int, where: str) -> Tensor:
    """The output to explain: the floating-point tensor number `head` of what the artifact returns."""
    found = [x for x in pytree.tree_leaves(returned) if isinstance(x, Tensor) and x.dtype.is_floating_point]
    if not found:
        raise ModelError(f"{where}: returns no floating-point tensor; heatcli explains scores")
    if not 0 <= head < len(found):
        shapes = ", ".join(f"{i}: {tuple(x.shape)}" for i, x in enumerate(found))
        raise UsageError(f"{where}: has no output {head}; it returns {shapes}")
    return found[head]


def _flatten(
    calls: list[_Call], example: Tensor, output: Tensor, names: Mapping[str, Tensor], where: str, functional: bool
) -> Graph:
    """Operators in order, one for each output tensor of each call; what the image does not reach is a constant.

    Calls that are not functional must not write into what the image reaches.
    """
    known = {_address(tensor): name for name, tensor in names.items() if tensor.numel()}
    values: dict[int, Ref | Constant] = {id(example): Ref(INPUT)}
    active = {INPUT: tuple(example.shape)}
    operators: dict[str, Operator] = {}
    for number, call in enumerate(calls):
        leaves = pytree.tree_leaves((call.args, call.kwargs))
        for tensor in leaves:
            if isinstance(tensor, Tensor) and id(tensor) not in values:
                values[id(tensor)] = Constant(known.get(_address(tensor), f"constant_{len(values)}"), tensor.detach())
        if not functional and call.target._schema.is_mutable and isinstance(values[id(leaves[0])], Ref):
            raise ModelError(
                f"{where}: writes in place ({call.target}) and calls torch.tensor(…), which torch cannot trace; "
                "export it with torch.export or to ONNX"
            )
        read = leaves if _title(call.target) not in _SHAPE_ONLY else ()
        origins = [values[id(x)] for x in read if isinstance(x, Tensor)]
        several = isinstance(call.output, (tuple, list))
        for index, tensor in enumerate(call.output if several else [call.output]):
            if not isinstance(tensor, Tensor) or id(tensor) in values:
                continue
            name = f"{_title(call.target)}_{number}" + (f"_{index}" if several and index else "")
            if not any(isinstance(origin, Ref) for origin in origins):
                values[id(tensor)] = Constant(_derived_name(origins, name), tensor.detach())
                continue
            operators[name] = _operator(call, name, index if several else None, tensor, values, active)
            values[id(tensor)] = Ref(name)
            if operators[name].sources and tensor.dtype.is_floating_point:
                active[name] = tuple(tensor.shape)
    result = values.get(id(output))
    if not isinstance(result, Ref) or result.name not in active:
        raise ModelError(f"{where}: its output does not depend on the image; nothing can be explained")
    kept = needed_for(result.name, operators.values())
    return Graph(INPUT, tuple(example.shape), kept, result.name, tuple(output.shape))


def _operator(
    call: _Call, name: str, index: int | None, output: Tensor,
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
