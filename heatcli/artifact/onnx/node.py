"""A node of an ONNX graph, the call that its function receives, and its name in errors."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.quantised import preserving, whole
from heatcli.artifact.onnx.value import NodeError, Operator, Scope, Takes, Value
from heatcli.errors import first_line
from heatcli.graph.recorder import NODE


@dataclass(frozen=True, eq=False)
class Node:
    """One node. `run` is called with a `Call` and the values of `inputs` ("": an omitted input).

    `opset`: the version of its domain. `fixed`: which inputs are equal for every image.
    """

    operator: str
    domain: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    fixed: tuple[bool, ...]
    run: Operator
    takes: Takes = Takes.WHOLE

    @property
    def title(self) -> str:
        """The node's name in errors."""
        domain = f", domain {self.domain}" if self.domain else ""
        return f'node "{self.name}" ({self.operator}{domain})'


@dataclass(frozen=True, eq=False)
class Body:
    """A graph, a subgraph or a function, ready to run. `constants`: its initialisers and constant nodes by name.

    `renamed`: names of dequantised constants → the names in the file.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def run(self, values: Sequence[Value], outer: Scope) -> tuple[Value, ...]:
        """The outputs for the inputs `values`, in a scope that includes the names of `outer`."""
        scope: Scope = ChainMap(dict(zip(self.inputs, values, strict=False)), self.constants, *outer.maps)
        for node, outputs in self.steps(scope):
            scope.update(zip(node.outputs, outputs, strict=False))
        return tuple(scope.get(name) for name in self.outputs)

    def steps(self, scope: Scope) -> Iterator[tuple[Node, tuple[Value, ...]]]:
        """Every node with its outputs, for the values in `scope`, which the caller updates during the iteration."""
        for node in self.nodes:
            yield node, run_node(node, scope)


def run_node(node: Node, scope: Scope) -> tuple[Value, ...]:
    """The outputs of one node. Raises `NodeError`."""
    values: list[Value] = [scope[name] if name else None for name in node.inputs]
    outer = NODE.set(node.name)
    try:
        if node.takes is Takes.REAL:
            values, wrapped = preserving(values)
            outputs = node.run(Call(node, scope), *values)
            return tuple(map(wrapped, outputs if isinstance(outputs, tuple) else (outputs,)))
        outputs = node.run(Call(node, scope), *(map(whole, values) if node.takes is Takes.WHOLE else values))
    except NodeError:
        raise
    except Exception as error:  # whatever torch raises
        raise NodeError(f"{node.title}: {first_line(error)}") from error
    finally:
        NODE.reset(outer)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a node, as its function receives it."""

    node: Node
    scope: Scope

    @property
    def opset(self) -> int:
        """The version of the node's domain."""
        return self.node.opset

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute: a number, a string, a list of them, or a tensor."""
        return self.node.attributes.get(name, default)

    def wants(self, index: int) -> bool:
        """Whether output number `index` is requested."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def fixed(self, index: int) -> bool:
        """Whether input number `index` is equal for every image."""
        return index < len(self.node.fixed) and self.node.fixed[index]

    def number(self, index: int, value: Tensor) -> Any:
        """`value`, input number `index`, as a number if it has one element and is fixed; else unchanged."""
        return value.item() if self.fixed(index) and value.numel() == 1 else value

    def body(self, name: str) -> Callable[..., tuple[Value, ...]]:
        """The subgraph in an attribute, as a function of its inputs."""
        body = self.node.attributes[name]
        return lambda *values: body.run(values, self.scope)


def numbers(value: Tensor | None) -> list[Any]:
    """A tensor of shapes, axes or pads as plain numbers, read one by one so that the recorder sees each."""
    return [] if value is None else [number.item() for number in value.reshape(-1).unbind()]


def integers(value: Tensor, like: Sequence[int]) -> Tensor:
    """The integers `like` as an int64 tensor [count] on the device of `value`."""
    return torch.tensor(list(like), dtype=torch.int64, device=value.device)


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front. Raises `ValueError` for an axis out of range."""
    for axis in axes:
        if not -rank <= axis < max(rank, 1):
            raise ValueError(f"axis {axis} of a tensor with {rank} dimensions")
    return [int(axis) % max(rank, 1) for axis in axes]
