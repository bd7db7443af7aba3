"""Layers by name: an operator of the graph, or the parameter that it holds, under the artifact's own name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.operator import Graph, Operator
from heatcli.graph.passes import needed_for


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator whose value [N, C, …] can be looked at, and the names of the artifact's tensors in it."""

    operator: Operator
    parameters: tuple[str, ...]

    @property
    def name(self) -> str:
        """The operator's name in the graph, such as `convolution_3`."""
        return self.operator.name

    @property
    def title(self) -> str:
        """Its name, its weight's name and the shape of its value a picture."""
        weight = f" ({self.parameters[0]})" if self.parameters else ""
        return f"{self.name}{weight}: " + "×".join(map(str, self.operator.shape[1:]))

    @property
    def names(self) -> tuple[str, ...]:
        """Everything it answers to: `convolution_3`, `convolution`, `features.0.weight`, `features.0`."""
        modules = tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.parameters if "." in name))
        return (self.name, self.operator.title, *self.parameters, *modules)


def layers_of(graph: Graph) -> list[Layer]:
    """Every operator that the image reaches, in forward order."""
    return [_layer(op) for op in graph.operators if op.sources and op.dtype.is_floating_point]


def _layer(operator: Operator) -> Layer:
    named = [c.name for c in operator.constants if not c.name.startswith("constant_")]
    named.sort(key=lambda name: "bias" in name)  # the weight first, as in addmm(bias, x, weight)
    return Layer(operator, tuple(dict.fromkeys(named)))


def find_layers(graph: Graph, wanted: Sequence[str], path: Path) -> list[Layer]:
    """The layers that the names or globs of `wanted` stand for, in forward order. Raises `UsageError` for none."""
    known = layers_of(graph)
    found: set[str] = set()
    for pattern in wanted:
        matches = {layer.name for layer in known if any(fnmatchcase(name, pattern) for name in layer.names)}
        if not matches:
            names = [layer.parameters[0] if layer.parameters else layer.name for layer in known]
            raise unknown_name(f"layer of {path.name}", pattern, names, "; globs and operators' names work too")
        found |= matches
    return [layer for layer in known if layer.name in found]


def one_layer(graph: Graph, wanted: str, path: Path) -> Layer:
    """The one layer of that name. Raises `UsageError` if it is none or several."""
    found = find_layers(graph, [wanted], path)
    if len(found) > 1:
        raise UsageError(f"--layer {wanted} names {len(found)} layers of {path.name}; give one: "
                         + ", ".join(layer.name for layer in found[:12]))  # fmt: skip
    return found[0]


def cut_at(graph: Graph, layer: Layer) -> Graph:
    """The part of the graph that ends in `layer`'s value."""
    return replace(
        graph, operators=needed_for(layer.name, graph.operators), output=layer.name,
        output_shape=layer.operator.shape, final=None, centred=False,
    )  # fmt: skip
