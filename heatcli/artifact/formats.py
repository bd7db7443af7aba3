"""Loaders, one a format: a file becomes a callable torch module, its parameters' names and what it says of itself."""

from __future__ import annotations

import ast
import copy
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.recognise import ONNX, PT2, TORCHSCRIPT, Format
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded artifact.

    `module_for`: the torch module that runs inputs of a given shape. `shape`: its input's dimensions, None where free
    or not said. `embedded`: the text of a sidecar inside it, or "". `renamed`: the module's names of parameters and
    buffers → the artifact's own, where they differ. `dtype`: of its input.
    """

    module_for: Callable[[tuple[int, ...]], Any]
    shape: tuple[int | None, ...] | None = None
    embedded: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    def names(self, module: Any) -> dict[str, Tensor]:
        """Parameters and buffers of `module` under the artifact's own names."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {self.renamed.get(name, name): tensor for name, tensor in tensors.items()}


def load_torchscript(path: Path) -> Artifact:
    """A scripted or traced module; the C++ loader reads tensors and TorchScript code, no Python pickle runs."""
    extra = {EMBEDDED: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; that is no news to its users
        try:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ModelError(f"{path}: TorchScript cannot load it: {first_line(error)}") from error
    text = extra[EMBEDDED]
    floats = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
    return Artifact(
        lambda _: module,
        embedded=text if isinstance(text, str) else bytes(text).decode(),
        dtype=next(floats, torch.float32),
    )


# --- torch.export ------------------------------------------------------------------------------------------------

_TARGETS = re.compile(
    r"(torch\.ops\.(aten|prims|higher_order|prim)\.|_operator\.|operator\.|math\.|torch\.sym_)[\w.]+$"
)
_PLAIN_CONSTANTS = ("data/constants/tensor_", "data/constants/model_constants_config.json", "data/constants/model.pt")
_FUNCTIONS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs And Or Not Eq Ne Lt Le Gt Ge Equality Unequality
    StrictLessThan LessThan StrictGreaterThan GreaterThan floor ceiling sqrt FloorDiv CeilDiv CleanDiv ModularIndexing
    PythonMod Where PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToInt TruncToFloat RoundToInt FloorToInt
    CeilToInt ToFloat Identity""".split()
)


def load_pt2(path: Path) -> Artifact:
    """A torch.export archive. What in it would be unpickled or executed is refused before torch sees it."""
    _refuse_unsafe(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(str(path))
            module = program.module()
        except Exception as error:
            raise ModelError(f"{path}: torch.export cannot load it: {first_line(error)}") from error
    user_inputs = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in user_inputs]
    tensors = [v for v in values if isinstance(v, Tensor)]
    if len(tensors) != 1:
        raise ModelError(f"{path}: takes {len(tensors)} tensors; heatcli explains networks with one input")
    shape = tuple(d if isinstance(d, int) else None for d in tensors[0].shape)
    return Artifact(lambda _: module, shape, _archive_text(path), dtype=_floating(path, tensors[0].dtype))


def _refuse_unsafe(path: Path) -> None:
    """Refuse pickled payloads, compiled libraries and calls outside the operator libraries in a .pt2 archive."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if "aotinductor" in inner:
                raise ModelError(
                    f"{path}: holds compiled code (AOTInductor), which heatcli does not run; "
                    "save it with torch.export.save"
                )
            if inner.endswith("_config.json") and _find(json.loads(archive.read(name)), "use_pickle", True):
                raise ModelError(f"{path}: holds pickled tensors; heatcli never unpickles")
            if inner.startswith("data/constants/") and not inner.startswith(_PLAIN_CONSTANTS):
                raise ModelError(f"{path}: holds pickled objects ({inner}); heatcli never unpickles")
            if inner.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:
                    raise ModelError(f"{path}: holds pickled objects ({inner}); heatcli never unpickles") from error
            if inner.startswith("models/") and inner.endswith(".json"):
                program = json.loads(archive.read(name))
                for target in _all(program, "target"):
                    if not _TARGETS.match(target):
                        raise ModelError(f"{path}: calls {target!r}, which is no tensor operator; refused")
                for expression in _all(program, "expr_str"):
                    if not _is_arithmetic(expression):
                        raise ModelError(f"{path}: holds a shape expression that is none: {expression[:60]!r}; refused")


def _is_arithmetic(expression: str) -> bool:
    """Whether a size expression holds nothing but numbers, symbols and known functions (torch evaluates it)."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
               ast.Compare, ast.operator, ast.unaryop, ast.cmpop)  # fmt: skip
    return all(
        isinstance(node, allowed)
        and (not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS))
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.value.isidentifier())
        for node in nodes
    )


def _items(tree: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _find(tree: Any, key: str, value: Any) -> bool:
    return any(k == key and v == value for k, v in _items(tree))


def _all(tree: Any, key: str) -> Iterable[str]:
    return (v for k, v in _items(tree) if k == key and isinstance(v, str))


def _floating(path: Path, dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise ModelError(f"{path}: takes {dtype}, not floating-point pixels")
    return dtype


def _archive_text(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.partition("/")[2] == f"extra/{EMBEDDED}":
                return archive.read(name).decode()
    return ""


# --- ONNX --------------------------------------------------------------------------------------------------------


def load_onnx(path: Path) -> Artifact:
    """An ONNX model; it is converted once its input shape is fixed, so that shape computations fold away."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx2fx.utils.names import sanitize_name

    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: is no valid ONNX model: {first_line(error)}") from error
    weights = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise ModelError(f"{path}: takes {len(inputs)} inputs ({names}); heatcli explains networks with one input")
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)
    embedded = next((p.value for p in proto.metadata_props if p.key == EMBEDDED), "")

    renamed = {sanitize_name(i.name): i.name for i in proto.graph.initializer}
    kind = inputs[0].type.tensor_type.elem_type
    dtype = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64,
             onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BFLOAT16: torch.bfloat16}.get(kind)  # fmt: skip
    if dtype is None:
        raise ModelError(f"{path}: takes {onnx.TensorProto.DataType.Name(kind)}, not floating-point pixels")
    return Artifact(lambda given: _convert(path, proto, inputs[0].name, given), shape, embedded, renamed, dtype)


def _convert(path: Path, proto: Any, name: str, given: tuple[int, ...]) -> Any:
    """The model as a torch module for inputs of the shape `given`, its shape computations folded away."""
    import onnx2fx
    import onnxslim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            folded = onnxslim.slim(
                copy.deepcopy(proto),
                input_shapes=[f"{name}:{','.join(map(str, given))}"],
                skip_optimizations=["graph_fusion", "weight_tying"],  # both would lose bias names
            )
        except Exception:  # it only simplifies; what it cannot simplify may still convert
            folded = proto
        try:
            return onnx2fx.convert(folded).eval()
        except Exception as error:
            raise ModelError(f"{path}: cannot be converted from ONNX: {first_line(error)}") from error


LOADERS: dict[Format, Callable[[Path], Artifact]] = {
    TORCHSCRIPT: load_torchscript,
    ONNX: load_onnx,
    PT2: load_pt2,
}
