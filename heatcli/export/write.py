"""A record as a file: ONNX, a torch.export archive or TorchScript, with what it is written inside."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.errors import UsageError, first_line
from heatcli.system.torch_private import OpOverload, without_overload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.fx import GraphModule

OPSET = 18
_MOST = 1 << 16  # images of a batch, as a bound for torch.export
_ATEN = torch.ops.aten


def onnx_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],
    inside: Mapping[str, str], any_number: bool,
) -> bytes:  # fmt: skip
    """As ONNX, operators of the standard domain alone, checked. Raises `UsageError`."""
    import onnx

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "ONNX is written by onnxscript, which is not installed; pip install 'heatcli[export]'"
        ) from error
    with quiet(), _told("ONNX"):
        program = torch.onnx.export(
            _program(record, example, any_number), dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=list(outputs), verbose=False,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    values = (*proto.graph.input, *proto.graph.output) if any_number else ()
    for dimension in (value.type.tensor_type.shape.dim[0] for value in values):
        dimension.dim_param = "N"
    foreign = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    if foreign or proto.functions:
        raise UsageError(
            f"its explanation needs operators of {', '.join(sorted(foreign)) or 'functions'}, which no runtime has"
        )
    _keep_apart(proto.graph)
    for key, text in inside.items():
        proto.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _keep_apart(graph: Any) -> None:
    """Give products that lay a weight out otherwise than its first user a copy, computed when a runtime loads the file.

    OpenVINO (to 2026.4) keeps one copy of a constant for a convolution and a transposed one, or for a matrix and its
    transpose, laid out for the one that it meets first, and computes another function where such weights are square.
    Twice negated, the weights are the same in every bit.
    """
    import onnx

    users: dict[str, list[tuple[tuple[str, int], Any]]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
            users.setdefault(node.input[1], []).append(((node.op_type, turned), node))
    for name, found in users.items():
        others = [node for how, node in found if how != found[0][0]]
        if others:
            negative, back = f"{name}.negative", f"{name}.back"
            first = list(graph.node).index(others[0])
            graph.node.insert(first, onnx.helper.make_node("Neg", [negative], [back]))
            graph.node.insert(first, onnx.helper.make_node("Neg", [name], [negative]))
        for node in others:
            node.input[1] = f"{name}.back"


def pt2_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],  # noqa: ARG001
    inside: Mapping[str, str], any_number: bool,
) -> bytes:  # fmt: skip
    """As an archive of torch.export. Raises `UsageError`."""
    file = io.BytesIO()
    with quiet(), _told("torch.export"):
        torch.export.save(_program(record, example, any_number), file, extra_files=dict(inside))
    return file.getvalue()


def torchscript_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],  # noqa: ARG001
    inside: Mapping[str, str], any_number: bool,  # noqa: ARG001
) -> bytes:  # fmt: skip
    """As TorchScript. Raises `UsageError`."""
    for node in record.graph.nodes:
        if isinstance(node.target, OpOverload):
            node.target = without_overload(node.target)
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("device", "layout", "pin_memory")}
    record.recompile()
    file = io.BytesIO()
    with quiet(), _told("TorchScript"):
        torch.jit.save(torch.jit.script(record), file, _extra_files=dict(inside))
    return file.getvalue()


Writer = Callable[..., bytes]
WRITERS: dict[str, Writer] = {".onnx": onnx_of, ".pt2": pt2_of, ".pt": torchscript_of}


def _program(record: GraphModule, example: Sequence[Tensor], any_number: bool) -> Any:
    batch = torch.export.Dim("N", min=1, max=_MOST)
    shapes = tuple({0: batch} for _ in example) if any_number else None
    return torch.export.export(record, tuple(example), dynamic_shapes=shapes)


@contextmanager
def _told(form: str) -> Iterator[None]:
    """What an exporter raises, as one line."""
    try:
        yield
    except Exception as error:  # whatever the exporters raise
        causes = [error]
        while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
            causes.append(causes[-1].__cause__)
        raise UsageError(f"this explanation cannot be written as {form}: {first_line(causes[-1], 200)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
