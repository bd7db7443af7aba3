"""From an ONNX graph to a program of torch calls, and the program itself."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Body, Call, Node
from heatcli.artifact.onnx.operators.quantised import WEIGHTS
from heatcli.artifact.onnx.quantised import whole
from heatcli.artifact.onnx.registry import OPERATORS, takes
from heatcli.artifact.onnx.tensors import HALF_BYTES, dense_of, tensor_of
from heatcli.artifact.onnx.value import NodeError, Operator, RefusedError, Scope, Value

OLDEST = 7
# Operators whose output type is an input's type → index of that input, and the equivalent attribute.
_TYPED_BY = {"CastLike": (1, "to"), "QuantizeLinear": (2, "output_dtype")}
_SHAPES = frozenset(("Shape", "Size"))  # equal for every image, although their input is not


class Program:
    """An ONNX graph that runs on tensors, called with its inputs in order; one graph for all shapes."""

    def __init__(self, proto: Any) -> None:
        """Raises `NodeError` for unknown operators and `RefusedError` for unknown opsets."""
        builder = _Builder(proto)
        self.body = builder.body(proto.graph, frozenset(), {})
        self._bodies = builder.bodies

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """All outputs, quantised ones as integers."""
        return tuple(map(whole, self.body.run(values, ChainMap())))

    def steps(self, scope: Scope) -> Iterator[tuple[Node, tuple[Value, ...]]]:
        """Every node with its outputs, for the values in `scope`."""
        return self.body.steps(ChainMap(scope, self.body.constants))

    def to(self, device: torch.device | str) -> Program:
        """The same program, with its constants moved to the device."""
        for body in self._bodies:
            body.constants.update({name: tensor.to(device) for name, tensor in body.constants.items()})
        return self

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Initialisers and constants, under their names in the file."""
        taken: dict[str, int] = {}
        for body in self._bodies:
            ordered = sorted(body.constants.items(), key=lambda item: item[0] not in body.renamed)
            for key, tensor in ordered:
                name = body.renamed.get(key, key)
                taken[name] = taken.get(name, 0) + 1
                yield (name if taken[name] == 1 else f"{name}:{taken[name]}"), tensor

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """An empty iterator: all constants are parameters."""
        return iter(())


class _Builder:
    """Builds bodies from protos. Functions of the model take precedence over the standard's."""

    def __init__(self, proto: Any) -> None:
        self.bodies: list[Body] = []
        self._half_bytes: dict[str, int] = {}
        self._functions = {(_domain(f.domain), f.name): f for f in proto.functions}
        self._opsets = {_domain(o.domain): o.version for o in proto.opset_import}
        _check_opset(self._opsets.get("", OLDEST))

    def body(self, graph: Any, fixed: Collection[str], attributes: Mapping[str, Any]) -> Body:
        """The body of a `GraphProto` or `FunctionProto`. `fixed`: names of values that are equal for every image.

        `attributes`: the attributes of the node that calls the function.
        """
        function = not hasattr(graph, "initializer")
        self._note_half_bytes(graph)
        constants: dict[str, Tensor] = {}
        renamed: dict[str, str] = {}
        if not function:
            constants |= {t.name: tensor_of(t) for t in graph.initializer}
            constants |= {t.values.name: dense_of(t) for t in graph.sparse_initializer}
        same = {*fixed, *constants}
        nodes = []
        for proto in graph.node:
            node = self._node(proto, same, attributes)
            if node.operator == "Constant" and not node.domain:
                constants[proto.output[0]] = _constant(node)
                same.add(proto.output[0])
                continue
            prepared = self._dequantised(node, constants, renamed)
            same.update(constants)
            if prepared is None:
                continue
            nodes.append(prepared)
            if node.operator in _SHAPES or (node.fixed and all(node.fixed) and not _has_body(node)):
                same.update(node.outputs)
        names = (graph.input, graph.output)
        inputs, outputs = (tuple(x if function else x.name for x in values) for values in names)
        given = tuple(name for name in inputs if name not in constants)
        body = Body(given, outputs, tuple(nodes), constants, renamed)
        self.bodies.append(body)
        return body

    def _note_half_bytes(self, graph: Any) -> None:
        """Remember which values are 4-bit integers, since their tensors hold bytes."""
        types = {t.name: t.data_type for t in getattr(graph, "initializer", ())}
        if types or hasattr(graph, "initializer"):
            types |= {v.name: v.type.tensor_type.elem_type for v in graph.input}
        self._half_bytes |= {name: number for name, number in types.items() if number in HALF_BYTES}

    def _node(self, proto: Any, fixed: Collection[str], given: Mapping[str, Any]) -> Node:
        """A node of the graph. `fixed`, `given`: as for `body`. Raises `NodeError`."""
        domain = _domain(proto.domain)
        name = proto.name or next(iter(proto.output), "")
        attributes = {}
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in given:
                    attributes[attribute.name] = given[attribute.ref_attr_name]
                continue
            try:
                attributes[attribute.name] = self._attribute(attribute, fixed, given)
            except RefusedError as error:
                raise NodeError(f'node "{name}" ({proto.op_type}): {error}') from error
        inputs = tuple(proto.input)
        position, said = _TYPED_BY.get(proto.op_type, (0, ""))
        if said and len(inputs) > position and inputs[position] in self._half_bytes:
            attributes[said] = self._half_bytes[inputs[position]]
        node = Node(
            proto.op_type, domain, name, self._opsets.get(domain, 1), inputs, tuple(proto.output), attributes,
            tuple(not i or i in fixed for i in inputs), _unset,
            takes(domain, proto.op_type),
        )  # fmt: skip
        object.__setattr__(node, "run", self._operator(node, proto))
        return node

    def _dequantised(self, node: Node, constants: dict[str, Tensor], renamed: dict[str, str]) -> Node | None:
        """The node with dequantised weights, which keep their names; None for a DequantizeLinear of weights."""
        weights = WEIGHTS.get(node.operator, {})
        inputs = list(node.inputs)
        for index, (others, real) in weights.items():
            read = [inputs[i] if i < len(inputs) else "" for i in (index, *others)]
            if not read[0] or any(name and name not in constants for name in read):
                continue
            key = node.outputs[0] if node.operator == "DequantizeLinear" else " ".join((*read, "real"))
            constants[key] = real(node, *(constants[name] if name else None for name in read))
            renamed[key] = read[0]
            inputs[index] = key
            if key == node.outputs[0]:
                return None
        return replace(node, inputs=tuple(inputs))

    def _operator(self, node: Node, proto: Any) -> Operator:
        """The function that runs a node. Raises `NodeError` for an unknown operator."""
        key = (node.domain, node.operator)
        if key in self._functions:
            return self._function(self._functions[key], node)
        if key in OPERATORS:
            return OPERATORS[key]
        if node.operator == "Constant" and not node.domain:
            return _unset
        operator = self._standard(node, proto)
        if operator is None:
            raise NodeError(
                f"{node.title}: heatcli does not know this operator; export the network with operators of the ONNX "
                f"standard up to opset {newest_opset()}"
            )
        return operator

    def _function(self, function: Any, node: Node) -> Operator:
        """A function of the model or of the standard as an operator."""
        defaults = {a.name: self._attribute(a, (), {}) for a in function.attribute_proto}
        opsets = {_domain(o.domain): o.version for o in function.opset_import}
        outer, self._opsets = self._opsets, {**self._opsets, **opsets}
        fixed = {name for name, same in zip(function.input, node.fixed, strict=False) if same}
        fixed |= set(function.input[len(node.fixed) :])
        body = self.body(function, fixed, {**defaults, **node.attributes})
        self._opsets = outer

        def run(call: Call, *values: Value) -> tuple[Value, ...]:  # noqa: ARG001 - operators share one signature
            """The outputs of the function."""
            missing = [None] * (len(body.inputs) - len(values))
            return body.run([*values, *missing], ChainMap())

        return run

    def _standard(self, node: Node, proto: Any) -> Operator | None:
        """An operator that the standard defines by a function, or None."""
        import onnx

        try:
            schema: Any = onnx.defs.get_schema(node.operator, node.opset, node.domain)
        except onnx.defs.SchemaError:
            return None
        if schema.has_function:
            function = onnx.FunctionProto()
            function.ParseFromString(schema.get_function_with_opset_version(_newest(schema.function_opset_versions)))
            return self._function(function, node)
        if not schema.has_context_dependent_function:
            return None
        opsets = dict(self._opsets)

        def run(call: Call, *values: Value) -> tuple[Value, ...]:
            """Run the function, which depends on the inputs' types and is built here."""
            types = [_type_of(value) for value in values]
            version = _newest(schema.context_dependent_function_opset_versions)
            content = schema.get_context_dependent_function_with_opset_version(version, _resolved(proto, node), types)
            function = onnx.FunctionProto()
            function.ParseFromString(content)
            self._opsets = opsets
            outputs: tuple[Value, ...] = self._function(function, node)(call, *values)
            return outputs

        return run

    def _attribute(self, attribute: Any, fixed: Collection[str], given: Mapping[str, Any]) -> Any:
        """The value of a node's attribute. Raises `RefusedError` for tensors that are no numbers."""
        from onnx import GraphProto, SparseTensorProto, TensorProto, helper

        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, TensorProto):
            return tensor_of(value)
        if isinstance(value, SparseTensorProto):
            return dense_of(value)
        if isinstance(value, GraphProto):
            return self.body(value, fixed, given)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [v.decode() if isinstance(v, bytes) else v for v in value]
        return value


def newest_opset() -> int:
    """The newest opset of the standard that the installed onnx package knows."""
    import onnx

    return int(onnx.defs.onnx_opset_version())


def _check_opset(opset: int) -> None:
    """Raise `RefusedError` for an opset that heatcli does not read."""
    if not OLDEST <= opset <= newest_opset():
        raise RefusedError(
            f"is of opset {opset}; heatcli reads opsets {OLDEST} to {newest_opset()}; "
            "export it to one of these, or convert it with onnx.version_converter"
        )


def _unset(call: Call, *values: Value) -> Value:
    """The operator of a node whose operator is not set yet."""
    raise AssertionError(call.node.title, values)


def _newest(versions: Sequence[int]) -> int:
    return max(versions)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _resolved(proto: Any, node: Node) -> bytes:
    """The node with its attribute references replaced by the values of the function's caller."""
    import onnx

    plain = onnx.NodeProto()
    plain.CopyFrom(proto)
    del plain.attribute[:]
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            plain.attribute.append(attribute)
        elif attribute.name in node.attributes:
            plain.attribute.append(onnx.helper.make_attribute(attribute.name, node.attributes[attribute.name]))
    return bytes(plain.SerializeToString())


def _has_body(node: Node) -> bool:
    return any(isinstance(value, Body) for value in node.attributes.values())


def _constant(node: Node) -> Tensor:
    """The value of a Constant node. Raises `NodeError` for strings."""
    (kind, value), *_ = node.attributes.items()
    if kind in ("value", "sparse_value"):
        tensor: Tensor = value
        return tensor
    if "string" in kind:
        raise NodeError(f"{node.title}: strings cannot be explained; heatcli computes with numbers")
    return torch.tensor(value, dtype=torch.float32 if "float" in kind else torch.int64)


def _type_of(value: Value) -> bytes:
    """A value's type as a serialised `TypeProto`."""
    import onnx

    from heatcli.artifact.onnx.tensors import DTYPES

    if not isinstance(value, Tensor):
        return bytes(onnx.TypeProto().SerializeToString())
    number = next(number for number, dtype in DTYPES.items() if dtype == value.dtype)
    return bytes(onnx.helper.make_tensor_type_proto(number, list(value.shape)).SerializeToString())
