"""TorchScript, scripted or traced."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from heatcli.artifact.artifact import Artifact, InputInfo, Shapes
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line
from heatcli.files import stamp


def load_torchscript(path: Path) -> Artifact:
    """A scripted or traced module; the C++ loader reads tensors and TorchScript code, no Python pickle runs."""
    before = stamp(path)
    module, text, functional, training = _opened(path)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    required = [a.name for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    inputs = tuple(InputInfo(name, dtype=dtype) for name in required)
    ran = False

    def module_for(_: Shapes) -> Any:
        """One that never ran, while the file is there: from the second run on TorchScript makes fewer calls, and
        operators are named by the number of their call."""
        nonlocal ran
        if ran and stamp(path) == before:
            return _opened(path)[0]
        ran = True
        return module

    remarks = (_TRAINING,) if training else ()
    return Artifact(module_for, inputs, text, functional=functional, remarks=remarks)


_TRAINING = (
    "was saved in training mode, where batch norm and dropout depend on chance and company; it is explained as after "
    "model.eval()"
)
_TRAINED = ("aten::batch_norm", "aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::rrelu")


def _opened(path: Path) -> tuple[Any, str, bool, bool]:
    """The module in evaluation mode, the sidecar inside the file, whether the module can be captured under
    `functionalize`, and whether it was in training mode, where that makes a difference."""
    extra = {EMBEDDED: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; that is no news to its users
        try:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ModelError(f"{path}: TorchScript cannot load it: {first_line(error)}") from error
    training = bool(getattr(module, "training", False))
    module.eval()
    if not hasattr(module, "forward"):
        raise ModelError(f"{path}: has no forward method, so there is nothing to run")
    text = extra[EMBEDDED]
    functional = _settle_tensors(module)
    differs = training and any(module.forward.graph.findNode(kind) for kind in _TRAINED)
    return module, text if isinstance(text, str) else bytes(text).decode(), functional, differs


def _settle_tensors(module: Any) -> bool:
    """Compute calls of `torch.tensor(…)` in the code beforehand, or write them otherwise; whether none is left.

    Met under `functionalize` they crash the interpreter.
    """
    graph = module.forward.graph
    torch._C._jit_pass_inline(graph)
    if graph.findNode("aten::tensor"):
        torch._C._jit_pass_constant_propagation(graph)
    for node in graph.findAllNodes("aten::tensor"):
        _as_scalar_tensor(graph, node)
    return not graph.findNode("aten::tensor")


def _as_scalar_tensor(graph: Any, node: Any) -> None:
    """`torch.tensor(number)` as `torch.scalar_tensor(number)`; of anything else it is left as it is."""
    number, dtype, device, _ = node.inputs()
    default = {"IntType": torch.int64, "FloatType": torch.get_default_dtype(), "BoolType": torch.bool}
    own = default.get(number.type().kind())
    if own is None:
        return
    with graph.insert_point_guard(node):
        nothing = graph.insertConstant(None)
        kind = graph.insertConstant(own) if dtype.type().kind() == "NoneType" else dtype
        other = graph.create("aten::scalar_tensor", [number, kind, nothing, device, nothing], 1)
        other.insertBefore(node)
    other.output().setType(node.output().type())
    node.output().replaceAllUsesWith(other.output())
    node.destroy()
