"""TorchScript, scripted or traced."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from heatcli.artifact import archive, script
from heatcli.artifact.artifact import Artifact, InputInfo, Shapes
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line


def load_torchscript(path: Path) -> Artifact:
    """A scripted or traced module.

    torch's C++ loader gets an archive that was written anew from entries that are known to do no harm
    (`heatcli.artifact.script`).
    """
    entries = archive.read(path)
    content = archive.safe(path, entries, script.checked)
    module, functional = _opened(path, content)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    required = [a.name for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    inputs = tuple(InputInfo(name, dtype=dtype) for name in required)
    ran = False

    def module_for(_: Shapes) -> Any:
        """One that never ran: from the second run on TorchScript makes fewer calls, and operators are named by the
        number of their call."""
        nonlocal ran
        if ran:
            return _opened(path, content)[0]
        ran = True
        return module

    return Artifact(module_for, inputs, archive.text(path, entries, f"extra/{EMBEDDED}"), functional=functional)


def _opened(path: Path, content: bytes) -> tuple[Any, bool]:
    """The module, and whether it can be captured under `functionalize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; that is no news to its users
        try:
            module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # its parser raises several
            raise ModelError(f"{path}: TorchScript cannot load it: {first_line(error)}") from error
    if not hasattr(module, "forward"):
        raise ModelError(f"{path}: has no forward method, so there is nothing to run")
    return module, _settle_tensors(module)


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
