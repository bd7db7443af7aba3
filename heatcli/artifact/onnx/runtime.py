"""The artifact in its own runtime, ONNX Runtime, and the first node where the program differs."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Node, run_node
from heatcli.artifact.onnx.quantised import whole
from heatcli.artifact.onnx.tensors import DTYPES
from heatcli.artifact.onnx.value import Value
from heatcli.errors import ModelError, NotComparedError, first_line
from heatcli.system.files import stamp

# ONNX Runtime's type names unknown to numpy → (the dtype, a dtype of equal size known to numpy).
_FOREIGN = {"tensor(bfloat16)": (torch.bfloat16, torch.uint16)}


class Runtime:
    """Runs a file by ONNX Runtime on the CPU, without graph optimisations. `program` returns the file's `Program`.

    Raises `NotComparedError` if ONNX Runtime cannot run the file, `ModelError` if the file has changed.
    """

    def __init__(self, path: Path, program: Callable[[], Any]) -> None:
        self._path, self._program = path, program
        self._stamp = stamp(path)
        self._session: Any = None
        self._lock = Lock()

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        """All outputs for inputs in order, as tensors on the CPU."""
        with self._lock:
            if self._session is None:
                self._session = self._opened(str(self._path))
        return self._ran(self._session, [output.name for output in self._session.get_outputs()], values)

    def of_nodes(self, values: Sequence[Tensor], nodes: Sequence[str]) -> list[Tensor] | None:
        """The first output of each of `nodes`, by name; None where a name is not that of exactly one node.

        `values`: the inputs in order, each [N, …].
        """
        named = [[node for node in self._program().body.nodes if name and node.name == name] for name in nodes]
        if not all(len(found) == 1 for found in named):
            return None
        outputs = [found[0].outputs[0] for found in named]
        return self._ran(self._opened(_with_outputs(self._path, outputs)), outputs, values)

    def differs(self, values: Sequence[Tensor]) -> str | None:
        """The first node whose outputs differ from ONNX Runtime's for equal inputs, or None.

        `values`: the inputs in order, each [N, …]. Nodes whose values the runtime does not return are skipped.
        """
        program = self._program()
        names = [name for node in program.body.nodes for name in node.outputs if name]
        session = self._opened(_with_outputs(self._path, names))
        told = {output.name for output in session.get_outputs() if output.type.startswith("tensor(")}
        names = [name for name in names if name in told]
        inputs = dict(zip(program.body.inputs, values, strict=False))
        scope: dict[str, Value] = {**inputs, **dict(zip(names, self._ran(session, names, values), strict=True))}
        device = next((v.device for v in values), torch.device("cpu"))
        scope = {name: value.to(device) for name, value in scope.items()}
        for node in program.body.nodes:
            if all(not name or name in scope or name in program.body.constants for name in node.inputs):
                outputs = run_node(node, ChainMap(scope, program.body.constants))
                for name, value in zip(node.outputs, outputs, strict=False):
                    if name in scope and not _alike(node, whole(value), scope[name]):
                        title: str = node.title
                        return title
        return None

    def _opened(self, model: str | bytes) -> Any:
        """A session that runs the file, or the model in bytes. Raises `ModelError`, `NotComparedError`."""
        import onnxruntime

        if stamp(self._path) != self._stamp:
            raise ModelError(f"{self._path}: was changed while it was in use; run again")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        folder = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(folder, str(self._path.absolute().parent))
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no class of their own
            raise NotComparedError(f"ONNX Runtime cannot load it: {first_line(error)}") from error

    def _ran(self, session: Any, names: Sequence[str], values: Sequence[Tensor]) -> list[Tensor]:
        """The values called `names` in a run. Raises `NotComparedError`."""
        import onnxruntime

        try:
            given = {
                i.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(*_as_array(v))
                for i, v in zip(session.get_inputs(), values, strict=False)
            }
            return [_as_tensor(found) for found in session.run_with_ort_values(list(names), given)]
        except Exception as error:
            raise NotComparedError(f"ONNX Runtime cannot run it: {first_line(error)}") from error


def _with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """The model with the values `names` added to its outputs."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    there = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(names) if n not in there
    )
    return bytes(proto.SerializeToString())


def _as_array(value: Tensor) -> tuple[Any, int]:
    """A tensor as an array, with its ONNX type number."""
    number = next(number for number, dtype in DTYPES.items() if dtype == value.dtype)
    value = value.detach().cpu().contiguous()
    return (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy(), number


def _as_tensor(value: Any) -> Tensor:
    """A value of the runtime as a tensor; an empty tensor for sequences and maps."""
    if not value.is_tensor():
        return torch.zeros(0)
    dtype, held = _FOREIGN.get(value.data_type(), (None, None))
    if dtype is None or held is None:
        return torch.from_numpy(value.numpy().copy())
    return torch.from_numpy(value.numpy().copy()).view(held).view(dtype)


def _alike(node: Node, ours: Value, theirs: Tensor) -> bool:
    """Whether two values are equal up to rounding; quantised ones may differ by one step."""
    if not isinstance(ours, Tensor) or not theirs.numel():
        return True
    if ours.shape != theirs.shape:
        return False
    a, b = ours.double(), theirs.double()
    if not theirs.dtype.is_floating_point:
        return bool(((a - b).abs() <= float("Quantize" in node.operator or "QLinear" in node.operator)).all())
    exact = torch.finfo(theirs.dtype).eps ** 0.5 if theirs.dtype.itemsize < 4 else 1e-4
    finite = torch.isfinite(b)
    if not torch.equal(torch.nan_to_num(a[~finite]), torch.nan_to_num(b[~finite])):
        return False
    scale = float(b[finite].abs().max()) if bool(finite.any()) else 0.0
    return bool(((a - b)[finite].abs() <= exact * scale + 1e-30).all())
