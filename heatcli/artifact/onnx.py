"""ONNX, through onnx2fx, after onnxslim has folded what depends on shapes alone."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

from heatcli.artifact.artifact import Artifact, InputInfo, Shapes
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line
from heatcli.files import stamp


def load_onnx(path: Path) -> Artifact:
    """An ONNX model; it is converted once its input shape is fixed, so that shape computations fold away."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx2fx.utils.names import sanitize_name

    try:
        proto = onnx.load(str(path), load_external_data=False)
        parts = {name: stamp(path.parent / name) for name in _external(proto.graph)}
        onnx.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: is no valid ONNX model: {first_line(error)}") from error
    rewrites = ("dequantise",) if _dequantise(proto) else ()
    weights = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    embedded = next((p.value for p in proto.metadata_props if p.key == EMBEDDED), "")
    renamed = {sanitize_name(i.name): i.name for i in proto.graph.initializer}
    return Artifact(
        lambda shapes: _convert(path, proto, shapes),
        tuple(map(_info, inputs)),
        embedded,
        renamed,
        rewrites,
        parts=parts,
    )


def _external(graph: Any) -> set[str]:
    """The names of the files that hold tensors of the graph, those of subgraphs included."""
    tensors = list(graph.initializer)
    found: set[str] = set()
    for attribute in (a for node in graph.node for a in node.attribute):
        tensors += [attribute.t, *attribute.tensors]
        for inner in (attribute.g, *attribute.graphs):
            found |= _external(inner)
    return found.union(entry.value for t in tensors for entry in t.external_data if entry.key == "location")


def _dequantise(proto: Any) -> bool:
    """Let values pass QuantizeLinear → DequantizeLinear pairs unrounded: relevance cannot follow whole numbers."""
    producers = {name: node for node in proto.graph.node for name in node.output}
    pairs = [
        (node, producers[node.input[0]])
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in producers
    ]
    pairs = [(node, source) for node, source in pairs if source.op_type == "QuantizeLinear"]
    for node, source in pairs:
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
        node.input[0] = source.input[0]
    return bool(pairs)


def _info(value: Any) -> InputInfo:
    """Name, shape and dtype of a graph input."""
    import onnx
    import torch

    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    dtype = getattr(torch, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), torch.float32)
    return InputInfo(value.name, shape, dtype)


def _computes_shapes(graph: Any) -> bool:
    """Whether there is anything to fold; importing what folds takes longer than all else here."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return any(node.op_type in ("Shape", "Size", "If", "Loop") for node in graph.node) or any(
        map(_computes_shapes, inner)
    )


def _folded(proto: Any, shapes: Shapes) -> Any:
    import onnxslim

    return onnxslim.slim(
        copy.deepcopy(proto),
        input_shapes=[f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items()],
        skip_optimizations=["graph_fusion", "weight_tying"],  # both would lose bias names
    )


def _convert(path: Path, proto: Any, shapes: Shapes) -> Any:
    """The model as a torch module for inputs of those shapes, its shape computations folded away."""
    import onnx2fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            folded = _folded(proto, shapes) if _computes_shapes(proto.graph) else proto
        except Exception:  # it only simplifies; what it cannot simplify may still convert
            folded = proto
        try:
            return onnx2fx.convert(folded).eval()
        except Exception as error:
            raise ModelError(f"{path}: cannot be converted from ONNX: {first_line(error)}") from error
