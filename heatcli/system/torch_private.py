"""Every private or undocumented name of torch that heatcli uses, each with its reason.

Other rooms import these names from here. `tests/system/test_torch_private.py` has a test for each name, which says what
breaks in heatcli when a new torch changes it. Where torch's public API can replace a name, there is a fallback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as unrecorded

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

__all__ = (
    "BACKWARD_BY_INPUT", "BACKWARD_BY_OUTPUT", "COMPILER_LOG", "COMPILER_OPTIONS", "DispatchMode",
    "HigherOrderOperator", "OpOverload", "OpOverloadPacket", "convolution_backward", "library_name_of",
    "load_decomposed", "make_fx", "name_of", "pytree", "read_program", "relu_backward", "run_backward", "schema_of",
    "schemas_of", "select_between", "unrecorded", "without_overload", "written_forward",
)  # fmt: skip

# `pytree`: finds tensors in nested arguments. torch has no public module for nested structures.
# `OpOverload`, `OpOverloadPacket`: the classes of `torch.ops.aten.add.Tensor` and `torch.ops.aten.add`, to tell an ATen
# operator from any other callable. `HigherOrderOperator`: the class of `torch.cond`.
# `unrecorded`: a context without dispatch modes, in which quantised weights become real ones that count as constants.

_ATEN = torch.ops.aten


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode whose `__torch_dispatch__` sees every ATen call. No public API shows these calls for a ScriptModule.

    The mode also sees `torch.cond`. It does not ask torch to skip dynamo, which would import dynamo (1 s).
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def name_of(operator: Any) -> str:
    """The name without library and overload: `add` for `aten::add.Tensor`, `cond` for `torch.cond`."""
    packet = getattr(operator, "overloadpacket", operator)
    return str(getattr(packet, "__name__", packet))


def library_name_of(operator: Any) -> str:
    """The name with the library, without the overload: `aten::add`; "" for an operator without a schema."""
    schema = getattr(operator, "_schema", None)
    return "" if schema is None else str(schema.name)


def schema_of(operator: Any) -> torch.FunctionSchema:
    """The arguments and returns of an ATen overload, including which arguments it writes."""
    schema: torch.FunctionSchema = operator._schema
    return schema


def schemas_of(name: str) -> list[torch.FunctionSchema]:
    """The schemas of all overloads of `library::name`, without loading any; empty if torch has none.

    Unlike `torch.ops`, this list includes TorchScript's own operators (`prim::…`).
    """
    schemas: list[torch.FunctionSchema] = torch._C._jit_get_schemas_for_operator(name)
    return schemas


def load_decomposed() -> None:
    """Let torch know the operators `quantized_decomposed::…` of quantised programs: it does once this is imported.

    A torch without that module does not know them; then such programs are refused by the operator's name.
    """
    with contextlib.suppress(ImportError):
        import torch.ao.quantization.fx._decomposed  # noqa: F401


_ENGINE = getattr(torch.autograd.Variable, "_execution_engine", None)


def run_backward(
    output: Tensor, inputs: Sequence[Tensor], multiplier: Tensor, differentiable: bool
) -> Sequence[Tensor | None]:
    """The vector-Jacobian product of an autograd graph, which is kept; None for an input without influence.

    Equals torch.autograd.grad without its wrapper, which imports sympy (1 s) to compare two shapes.
    """
    if _ENGINE is None:
        return torch.autograd.grad(
            output, inputs, multiplier, retain_graph=True, create_graph=differentiable, allow_unused=True
        )
    return _ENGINE.run_backward(  # type: ignore[no-any-return]
        (output,), (multiplier,), True, differentiable, tuple(inputs), allow_unreachable=True, accumulate_grad=False
    )


# --- ATen's backward kernels ------------------------------------------------------------------------------------------


def _kernels(names: str) -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    """`NAME_backward` by NAME. For a missing kernel a walk uses a tape, which needs more memory."""
    found = {name: getattr(_ATEN, f"{name}_backward", None) for name in names.split()}
    return {name: kernel for name, kernel in found.items() if kernel is not None}


# For y = f(x): (multiplier of y, y or x) → multiplier of x, without a tape.
BACKWARD_BY_OUTPUT = _kernels("sigmoid tanh")
BACKWARD_BY_INPUT = _kernels("silu hardswish hardsigmoid")


def relu_backward(multiplier: Tensor, output: Tensor, out: Tensor | None = None) -> Tensor:
    """`multiplier` where `output` > 0, else 0; tensors of one shape. Written to `out` if given. One pass on a CPU."""
    if not hasattr(_ATEN, "threshold_backward"):
        product = torch.where(output > 0, multiplier, 0)
        return product if out is None else out.copy_(product)
    if out is None:
        return _ATEN.threshold_backward(multiplier, output, 0)  # type: ignore[no-any-return]
    return _ATEN.threshold_backward.grad_input(multiplier, output, 0, grad_input=out)  # type: ignore[no-any-return]


def select_between(m: Tensor, x: Tensor, low: float, high: float, out: Tensor | None = None) -> Tensor:
    """m where low < x < high, else 0; tensors of one shape. Written to `out` if given.

    The derivative of hardtanh is one vectorised pass on a CPU. torch.where and masks are slower.
    """
    if not hasattr(_ATEN, "hardtanh_backward"):
        selected = torch.where((x > low) & (x < high), m, 0)
        return selected if out is None else out.copy_(selected)
    if out is None:
        return _ATEN.hardtanh_backward(m, x, low, high)  # type: ignore[no-any-return]
    return _ATEN.hardtanh_backward.grad_input(m, x, low, high, grad_input=out)  # type: ignore[no-any-return]


def convolution_backward(multiplier: Tensor, x: Tensor, weights: Tensor, how: Sequence[Any]) -> Tensor:
    """The multiplier of a convolution's input `x` [N, C, …]. `multiplier`: the output's, [N, K, …].

    `how`: stride, padding, dilation, transposed, output padding, groups. This is the kernel that autograd calls.
    `torch.nn.grad` does not cover transposed convolutions.
    """
    gradients = _ATEN.convolution_backward.default(multiplier, x, weights, None, *how, [True, False, False])
    return gradients[0]  # type: ignore[no-any-return]


# --- loaded only where needed -----------------------------------------------------------------------------------------


def read_program(file: IO[bytes]) -> ExportedProgram:
    """The program in a `.pt2` archive. Raises what torch raises.

    Unlike `torch.export.load`, does not fall back to an older reader of pickles.
    """
    from torch.export.pt2_archive._package import load_pt2

    return load_pt2(file).exported_programs["model"]


def make_fx(
    function: Callable[..., Any], instead: Mapping[Any, Callable[..., Any]] | None = None
) -> Callable[..., GraphModule]:
    """Records what `function` does on tensors as an FX graph of ATen operators. The import takes 3 s.

    `instead`: operator → a function of other operators, which is recorded in its place. torch.export cannot record a
    function that performs a walk.
    """
    from torch.fx.experimental.proxy_tensor import make_fx as recorder

    return recorder(function, decomposition_table=dict(instead or {}))


COMPILER_OPTIONS: Mapping[str, Any] = {"cpp.dynamic_threads": True}  # compiled code works with any number of threads
COMPILER_LOG = "torch.utils.cpp_extension"  # logs a warning on every machine without a GPU


def written_forward(own: Mapping[str, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """For `make_fx`: backward operators → functions of forward operators, torch's and, by name, `own`.

    The import of torch's decompositions takes 2 s.
    """
    from torch._decomp import decomposition_table

    found: dict[Any, Callable[..., Any]] = {op: f for op, f in decomposition_table.items() if "backward" in name_of(op)}
    packets = {name: getattr(_ATEN, f"{name}_backward", None) for name in own}
    return {**found, **{packet.default: own[name] for name, packet in packets.items() if packet is not None}}


def without_overload(operator: Any) -> Any:
    """`torch.ops.aten.add` of `torch.ops.aten.add.Tensor`: TorchScript finds overloads itself."""
    return operator.overloadpacket
