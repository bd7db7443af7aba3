"""What a node of an ONNX graph is, what the function that runs it is given, and how errors name it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from heatcli.errors import first_line

# A tensor, a `Quantised`, a list of values (a sequence), or None (an optional one that is not there).
Value = Any
Scope = ChainMap[str, Value]
Operator = Callable[..., Any]


class Takes(Enum):
    """What an operator is given of quantised values: their whole numbers, the real ones, or the values themselves."""

    WHOLE, REAL, QUANTISED = range(3)


class NodeError(RuntimeError):
    """A node that cannot be run; the text names it."""


class RefusedError(ValueError):
    """What an operator's function raises for what heatcli will not do; the text says why."""


@dataclass(frozen=True, eq=False)
class Node:
    """One node: `run` is called with a `Call` and the values of `inputs` ("": one that is left out).

    `opset`: the version of its domain. `fixed`: which inputs are the same for every image.
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
        """For errors."""
        domain = f", domain {self.domain}" if self.domain else ""
        return f'node "{self.name}" ({self.operator}{domain})'


@dataclass(frozen=True, eq=False)
class Body:
    """A graph, a subgraph or a function, ready to run. `constants`: its initialisers and constant nodes by name.

    `renamed`: constants that were dequantised → the names that the file gives them.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def run(self, values: Sequence[Value], outer: Scope) -> tuple[Value, ...]:
        """The outputs for the inputs `values`, in a scope where the names of `outer` are known, too."""
        scope: Scope = ChainMap(dict(zip(self.inputs, values, strict=False)), self.constants, *outer.maps)
        for node, outputs in self.steps(scope):
            scope.update(zip(node.outputs, outputs, strict=False))
        return tuple(scope.get(name) for name in self.outputs)

    def steps(self, scope: Scope) -> Iterator[tuple[Node, tuple[Value, ...]]]:
        """Every node with its outputs, for the values in `scope`, which whoever iterates keeps up to date."""
        for node in self.nodes:
            yield node, run_node(node, scope)


def run_node(node: Node, scope: Scope) -> tuple[Value, ...]:
    """The outputs of one node. Raises `NodeError`."""
    from heatcli.artifact.onnx.quantised import preserving, whole

    values: list[Value] = [scope[name] if name else None for name in node.inputs]
    try:
        if node.takes is Takes.REAL:
            values, wrapped = preserving(values)
            outputs = node.run(Call(node, scope), *values)
            return tuple(map(wrapped, outputs if isinstance(outputs, tuple) else (outputs,)))
        outputs = node.run(Call(node, scope), *(map(whole, values) if node.takes is Takes.WHOLE else values))
    except NodeError:
        raise
    except Exception as error:  # whatever torch says of its values
        raise NodeError(f"{node.title}: {first_line(error)}") from error
    return outputs if isinstance(outputs, tuple) else (outputs,)


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a node, as its function sees it."""

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
        """Whether output number `index` is asked for."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def fixed(self, index: int) -> bool:
        """Whether input number `index` is the same for every image."""
        return index < len(self.node.fixed) and self.node.fixed[index]

    def number(self, index: int, value: Tensor) -> Any:
        """Input number `index` as a plain number where it is a single one and the same for every image."""
        return value.item() if self.fixed(index) and value.numel() == 1 else value

    def body(self, name: str) -> Callable[..., tuple[Value, ...]]:
        """The subgraph in an attribute, to be called with its inputs."""
        body = self.node.attributes[name]
        return lambda *values: body.run(values, self.scope)


def numbers(value: Tensor | None) -> list[Any]:
    """A tensor such as shapes, axes or pads as plain numbers; read one by one, so that the recorder sees it."""
    return [] if value is None else [number.item() for number in value.reshape(-1).unbind()]


def integers(value: Tensor, like: Sequence[int]) -> Tensor:
    """Whole numbers as an int64 tensor on the device of `value`."""
    return torch.tensor(list(like), dtype=torch.int64, device=value.device)


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front. Raises `ValueError` for one that is not there."""
    for axis in axes:
        if not -rank <= axis < max(rank, 1):
            raise ValueError(f"axis {axis} of a tensor with {rank} dimensions")
    return [int(axis) % max(rank, 1) for axis in axes]
