"""ONNX files: checked, with known operators, ready to run by torch calls and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from heatcli.artifact.artifact import Artifact, InputInfo, Shapes
from heatcli.artifact.explained import NOTE
from heatcli.artifact.metadata import sidecar
from heatcli.artifact.onnx.runtime import Runtime
from heatcli.artifact.onnx.value import NodeError, RefusedError
from heatcli.artifact.recognise import Content, FileFormat
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line
from heatcli.system.files import stamp

# An ONNX graph with any of these operators is quantised.
_QUANTISING = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger".split())


def is_onnx(content: Content) -> bool:
    """Whether the content begins with a protobuf field that can open a `ModelProto`."""
    return content.entries is None and content.head[:1] in (b"\x08", b"\x12", b"\x1a", b"\x3a", b"\x42")


def load_onnx(path: Path) -> Artifact:
    """An ONNX model. Raises `ModelError` for an invalid file or an unknown opset."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
        external_data = {name: stamp(path.parent / name) for name in _external(proto.graph)}
        onnx.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: is no valid ONNX model: {first_line(error)}") from error
    rewrites = ("dequantise",) if any(map(_is_quantised, _nodes(proto.graph))) else ()
    weights = {i.name for i in proto.graph.initializer}
    inputs = tuple(_info(i) for i in proto.graph.input if i.name not in weights)
    metadata = {p.key: p.value for p in proto.metadata_props}
    widths = {d.dim_value for x in proto.graph.output for d in x.type.tensor_type.shape.dim}
    embedded, note = metadata.get(EMBEDDED) or sidecar(metadata, widths), metadata.get(NOTE, "")
    module = _Module(path, proto)
    runtime = Runtime(path, module)
    return Artifact(
        module, inputs, embedded, note=note, rewrites=rewrites, external_data=external_data, runtime=runtime,
        against=f"onnxruntime {version('onnxruntime')}", differs=runtime.differs,
        of_nodes=runtime.of_nodes,
    )  # fmt: skip


class _Module:
    """The program of a file, built on the first call; one program for all shapes."""

    def __init__(self, path: Path, proto: Any) -> None:
        self._path, self._proto = path, proto
        self._program: Any = None

    def __call__(self, shapes: Shapes | None = None) -> Any:  # noqa: ARG002 - sizes are numbers once it runs
        if self._program is None:
            from heatcli.artifact.onnx.program import Program

            try:
                self._program = Program(self._proto)
            except (NodeError, RefusedError) as error:
                raise ModelError(f"{self._path}: {error}") from error
            self._proto = None  # frees a second copy of the weights
        return self._program


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, including subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _is_quantised(node: Any) -> bool:
    return node.op_type in _QUANTISING or node.op_type.startswith("QLinear")


def _external(graph: Any) -> set[str]:
    """The names of the files that hold tensors of the graph, including subgraphs."""
    tensors = list(graph.initializer)
    files: set[str] = set()
    for attribute in (a for node in graph.node for a in node.attribute):
        tensors += [attribute.t, *attribute.tensors]
        for inner in (attribute.g, *attribute.graphs):
            files |= _external(inner)
    return files.union(entry.value for t in tensors for entry in t.external_data if entry.key == "location")


def _info(value: Any) -> InputInfo:
    """Name, shape and dtype of a graph input."""
    import torch

    from heatcli.artifact.onnx.tensors import DTYPES

    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    return InputInfo(value.name, shape, DTYPES.get(tensor.elem_type, torch.float32))


ONNX = FileFormat(name="onnx", recognises=is_onnx, load=load_onnx)
