"""Writing a record as ONNX, as a torch.export archive or as TorchScript.

The writers share their arguments: `example` inputs, names of `inputs` and `outputs`, texts to store `inside` the file
by key, and whether the batch may have `any_number` of images.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.errors import UsageError, first_line
from heatcli.system.extras import optional
from heatcli.system.torch_private import OpOverload, without_overload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.fx import GraphModule

OPSET = 18
_MOST = 1 << 16  # the largest batch, a bound that torch.export needs
_ATEN = torch.ops.aten
_MAPS = ("relevance", "heatmap")  # the outputs at the end of the walk
_USES_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose")


def onnx_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],
    inside: Mapping[str, str], any_number: bool,
) -> bytes:  # fmt: skip
    """The record as ONNX with operators of the standard domain only, checked by `onnx.checker`.

    `example`: example inputs, each [n, …]. `inputs`, `outputs`: names. `inside`: texts for the file, by key.
    `any_number`: for any number of images. Raises `UsageError`.
    """
    import onnx

    optional("onnxscript", "ONNX is written by onnxscript", "export")
    with quiet(), _told("ONNX"):
        program = torch.onnx.export(
            _program(record, example, any_number), dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=list(outputs), verbose=False, custom_translation_table=_translations(),
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
    _book_early(proto.graph)
    for key, text in inside.items():
        proto.metadata_props.add(key=key, value=text)
    with _told("ONNX"):
        onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _translations() -> dict[Any, Callable[..., Any]]:
    """For torch's exporter: operators that it lacks or writes at length → functions that write them.

    Of max pooling, ONNX counts indices through the whole batch, torch within a channel. torch's exporter pools the
    input once more, by windows of one value, to know each channel's first index; a count of channels says the same. A
    remainder would too, but OpenVINO (to 2026.4) takes it in float32, which holds integers to 2^24.
    """
    from onnxscript import opset18 as onnx

    def product(x: Any, dim: int, keepdim: bool = False) -> Any:
        """The product along an axis."""
        axis: Any = onnx.Constant(value_ints=[dim])
        return onnx.ReduceProd(x, axis, keepdims=int(keepdim))

    def product_of_all(x: Any) -> Any:
        """The product of all elements."""
        return onnx.ReduceProd(x, keepdims=0)

    def first_of_each_channel(batch: Any, axes: int) -> Any:
        """The index of each channel's first value in the batch [N, C, …], [N, C, 1, …]."""
        channels: Any = onnx.Shape(batch, end=-axes)
        zero: Any = onnx.Constant(value_int=0)
        one: Any = onnx.Constant(value_int=1)
        number: Any = onnx.Range(zero, onnx.ReduceProd(channels, keepdims=0), one)
        sides: Any = onnx.Concat(channels, onnx.Constant(value_ints=[1] * axes), axis=0)
        each: Any = onnx.Reshape(number, sides)
        return onnx.Mul(each, onnx.ReduceProd(onnx.Shape(batch, start=-axes)))

    def pooling(axes: int) -> Callable[..., Any]:
        """Of `axes` spatial axes."""

        def written(
            x: Any, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
            dilation: Sequence[int] = (1,), ceil_mode: bool = False,
        ) -> tuple[Any, Any]:  # fmt: skip
            """`x` [N, C, …] or [C, …]; the largest values of its windows and their indices in the channel."""
            kernel, steps, dilation, sides = (
                [*each] * (axes // len(each)) for each in (kernel, stride or kernel, dilation, padding)
            )
            first: Any = onnx.Constant(value_ints=[0])
            single = len(x.shape) == axes + 1
            batch = onnx.Unsqueeze(x, first) if single else x
            most, index = onnx.MaxPool(
                batch, kernel_shape=kernel, strides=steps, dilations=dilation, pads=[*sides, *sides],
                ceil_mode=int(ceil_mode),
            )  # fmt: skip
            index = onnx.Sub(index, first_of_each_channel(batch, axes))
            return (onnx.Squeeze(most, first), onnx.Squeeze(index, first)) if single else (most, index)

        return written

    return {
        _ATEN.prod.default: product_of_all,
        _ATEN.prod.dim_int: product,
        _ATEN.max_pool2d_with_indices.default: pooling(2),
        _ATEN.max_pool3d_with_indices.default: pooling(3),
    }


def _keep_apart(graph: Any) -> None:
    """Give each weight that two kinds of operators use a copy for the second kind. A workaround for OpenVINO.

    OpenVINO (to 2026.4) keeps a single copy of such a constant, in the layout of its first user: a convolution and a
    transposed one, or a matrix and its transpose. If the weight is square, the other user computes another function.
    A weight may be an initializer or what is computed of initializers alone, and may be turned by an operator of its
    own. The copy is the weight negated twice, which is exact; the runtime computes it when it loads the file.
    """
    import onnx

    fixed = {tensor.name for tensor in graph.initializer}
    users: dict[str, list[tuple[tuple[str, int], Any, int]]] = {}
    for node in graph.node:
        if fixed.issuperset(filter(None, node.input)):
            fixed.update(node.output)
        if node.op_type in _USES_WEIGHTS:
            turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
            for place, name in enumerate(node.input[:2]):
                if name in fixed:
                    users.setdefault(name, []).append(((node.op_type, turned), node, place))
    for name, found in users.items():
        others = [(node, place) for how, node, place in found if how != found[0][0]]
        if others:
            negative, back = f"{name}.negative", f"{name}.back"
            first = list(graph.node).index(others[0][0])
            graph.node.insert(first, onnx.helper.make_node("Neg", [negative], [back]))
            graph.node.insert(first, onnx.helper.make_node("Neg", [name], [negative]))
        for node, place in others:
            node.input[place] = f"{name}.back"


def _book_early(graph: Any) -> None:
    """Put what books the walk behind the walk, the bookings of its last layers first.

    ONNX Runtime (to 1.32) runs a node's inputs in the reverse of their order in the file. In the order of the record it
    would finish the walk first, and keep every multiplier until all are booked.
    """
    nodes = list(graph.node)
    made = {name: i for i, node in enumerate(nodes) for name in node.output}
    reads = [{made[name] for name in node.input if name in made} for node in nodes]
    walk: set[int] = set()
    ahead = [made[name] for name in _MAPS if name in made]
    while ahead:
        i = ahead.pop()
        if i not in walk:
            walk.add(i)
            ahead += reads[i]
    reached: list[int] = []  # how far the walk is when the node can run
    for i in range(len(nodes)):
        reached.append(i if i in walk else max((reached[j] for j in reads[i]), default=-1))
    order, done, read = sorted(walk), set(walk), set().union(*reads)
    ahead = [i for i in reversed(range(len(nodes))) if i not in walk and i not in read]
    while ahead:
        waiting = reads[ahead[-1]] - done
        ahead += sorted(waiting, key=reached.__getitem__)
        if not waiting:
            i = ahead.pop()
            order += [] if i in done else [i]
            done.add(i)
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def pt2_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],  # noqa: ARG001
    inside: Mapping[str, str], any_number: bool,
) -> bytes:  # fmt: skip
    """The record as an archive of torch.export (.pt2); arguments as for `onnx_of`. Raises `UsageError`."""
    file = io.BytesIO()
    with quiet(), _told("torch.export"):
        torch.export.save(_program(record, example, any_number), file, extra_files=dict(inside))
    return file.getvalue()


def torchscript_of(
    record: GraphModule, example: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str],  # noqa: ARG001
    inside: Mapping[str, str], any_number: bool,  # noqa: ARG001
) -> bytes:  # fmt: skip
    """The record as TorchScript; arguments as for `onnx_of`. Changes the record. Raises `UsageError`."""
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
    """The record as torch.export's program; `any_number`: for any number of images."""
    batch = torch.export.Dim("N", min=1, max=_MOST)
    shapes = tuple({0: batch} for _ in example) if any_number else None
    return torch.export.export(record, tuple(example), dynamic_shapes=shapes)


@contextmanager
def _told(form: str) -> Iterator[None]:
    """A block that raises any error of an exporter as a `UsageError` of one line."""
    try:
        yield
    except Exception as error:  # exporters raise errors of many classes
        causes = [error]
        while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
            causes.append(causes[-1].__cause__)
        raise UsageError(f"this explanation cannot be written as {form}: {first_line(causes[-1], 200)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """A block without the exporters' warnings, of Python and in their log."""
    logs = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
