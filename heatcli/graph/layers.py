"""Layer names: which values of a graph a name stands for, in `--layer` and in the parameter of CAM methods.

`last` is the last feature map before global pooling. Any other name, or a glob, matches an operator (`convolution_3`,
or `convolution` for all), a parameter (`features.0.weight`) or the module that has the parameter (`features.0`). The
value is that operator's output, including a batch norm folded into it. An ONNX node's name
(`/layer4/layer4.1/conv2/Conv`) and the module in it (`layer4.1.conv2`) stand for the last operator of the node. A
block's name (`layer4`) stands for the block's output: the output of its last layer, or of the operators without
parameters (sum, ReLU) that follow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.kinds import CONVOLUTION, LAYOUT, has_weights
from heatcli.graph.operator import Graph, Operator, bypassed, needed_for

LAST = "last"
_PLANAR = tuple(f"{dims}d{end}" for dims in (1, 2, 3) for end in ("", "_with_indices", "_aa"))


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator whose output [N, C, …] can be shown, and the names of the artifact's tensors that it reads."""

    operator: Operator
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, operator: Operator) -> Layer:
        """The layer of an operator."""
        named = [c.name for c in operator.constants if not c.name.startswith("constant_")]
        named.sort(key=lambda name: "bias" in name)  # the weight first, as in addmm(bias, x, weight)
        return cls(operator, tuple(dict.fromkeys(named)))

    @property
    def name(self) -> str:
        """The operator's name in the graph, such as `convolution_3`."""
        return self.operator.name

    @property
    def title(self) -> str:
        """The operator's name, its weight's name and the shape of its output for one image."""
        weight = f" ({self.parameters[0]})" if self.parameters else ""
        return f"{self.name}{weight}: " + "×".join(map(str, self.operator.shape[1:]))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that match the layer: `convolution_3`, `convolution`, `features.0.weight`, `features.0`."""
        tensors = parameters_of(self.operator)
        modules = dict.fromkeys(name.rpartition(".")[0] for name in tensors if "." in name)
        return (self.name, self.operator.title, *tensors, *modules)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The name of the node that it comes from, and of the module in that; none where nodes have no names."""
        node = self.operator.node
        return tuple(dict.fromkeys(name for name in (node, module_of(node)) if name))

    @property
    def module(self) -> str:
        """The name of the module that it is in, as well as that is known, or ""."""
        named = [name.rpartition(".")[0] for name in self.parameters if "." in name and not name.startswith("onnx::")]
        return named[0] if named else module_of(self.operator.node)


def module_of(node: str) -> str:
    """The module in the name of an ONNX node: `layer4.1.conv2` of `/layer4/layer4.1/conv2/Conv`; "" where none is."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):  # as exporters name the members of a list
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def parameters_of(op: Operator) -> list[str]:
    """Names of the artifact's tensors that the operator reads, or whose shift it adds."""
    return [*(c.name for c in op.constants), *(o.name for o in op.offsets)]


def layers_of(graph: Graph) -> list[Layer]:
    """Every operator that depends on the image, in forward order."""
    return [Layer.of(op) for op in graph.operators if op.sources and op.dtype.is_floating_point]


def find_layers(graph: Graph, wanted: Sequence[str], path: Path) -> list[Layer]:
    """The layers that any name of `wanted` matches, in forward order. Raises `UsageError` if a name matches none."""
    known = layers_of(graph)
    selected: set[str] = set()
    for name in wanted:
        matches = [find_map(graph, name).name] if name == LAST else [layer.name for layer in _matching(known, name)]
        if not matches:
            ways = "; globs and operators' names work too, and `heatcli inspect --layers` lists all"
            raise unknown_name(f"layer of {path.name}", name, _offered(known), ways)
        selected.update(matches)
    return [layer for layer in known if layer.name in selected]


def one_layer(graph: Graph, wanted: str, path: Path, flag: str = "--layer") -> Layer:
    """The only layer that `wanted`, the value of `flag`, matches. Raises `UsageError` if none or several match."""
    matches = find_layers(graph, [wanted], path)
    if len(matches) > 1:
        raise UsageError(f"{flag} {wanted} names {len(matches)} layers of {path.name}; give one: "
                         + ", ".join(layer.name for layer in matches[:12]))  # fmt: skip
    return matches[0]


def find_map(graph: Graph, name: str) -> Operator:
    """The operator whose output [N, C, h, w] a CAM method uses: the last one that `name` matches.

    Raises `UsageError`, listing the layers there are.
    """
    graph = _without_casts(graph)
    maps = spatial(graph)
    if not maps:
        raise UsageError("this network has no maps [N, C, h, w] between image and output, so CAM methods say nothing")
    if name == LAST:
        return (last_maps(graph) or maps)[-1]
    matches = _matching([Layer.of(op) for op in maps], name)
    if matches:
        return matches[-1].operator
    ways = f"; last and operators such as {maps[-1].name} work too, and `heatcli inspect --layers` lists all"
    raise unknown_name("layer", name, _offered([Layer.of(op) for op in maps]), ways)


def _offered(layers: Sequence[Layer]) -> list[str]:
    """Names to suggest for an unknown layer: modules and blocks with weights, else operators."""
    names = dict.fromkeys(layer.module for layer in layers if has_weights(layer.operator) and layer.module)
    blocks = dict.fromkeys(name.partition(".")[0] for name in names)
    return [*blocks, *(name for name in names if name not in blocks)] or [layer.name for layer in layers]


def stands_for(name: str, operator: Operator) -> bool:
    """Whether `name` matches the operator, as a name or glob or as the name of a block that contains it."""
    layer = Layer.of(operator)
    return any(fnmatchcase(n, name) or n.startswith(f"{name}.") for n in (*layer.names, *layer.aliases))


def _matching(layers: Sequence[Layer], name: str) -> list[Layer]:
    """The layers that a name or glob matches, else the output of the block of that name.

    Among the operators of one node, only the last matches.
    """
    matches = [layer for layer in layers if any(fnmatchcase(n, name) for n in layer.names)]
    if matches:
        return matches
    of_nodes = {layer.operator.node: layer for layer in layers if any(fnmatchcase(n, name) for n in layer.aliases)}
    if of_nodes:
        return list(of_nodes.values())
    within = [
        i for i, layer in enumerate(layers) if any(n.startswith(f"{name}.") for n in (*layer.names, *layer.aliases))
    ]
    return [_end_of_block(layers, within[-1])] if within else []


def _end_of_block(layers: Sequence[Layer], last: int) -> Layer:
    """The last of the successive layers without parameters that follow number `last`, or that layer itself."""
    end = layers[last]
    for after in layers[last + 1 :]:
        if parameters_of(after.operator) or end.name not in after.operator.sources:
            break
        end = after
    return end


def cut_at(graph: Graph, layer: Layer) -> Graph:
    """The part of the graph that computes `layer`'s output."""
    return replace(
        graph, operators=needed_for(layer.name, graph.operators), output=layer.name,
        output_shape=layer.operator.shape, final=None, centred=False,
    )  # fmt: skip


# --- maps ---------------------------------------------------------------------------------------------------------


def spatial(graph: Graph) -> list[Operator]:
    """Operators whose output is a stack of maps [N, C, h, w] with h·w > 1, in forward order.

    Of signals the maps are [N, C, l], of volumes [N, C, d, h, w].

    The shape alone does not decide (attention has [N, heads, tokens, tokens]): a planar operator (convolution, pooling,
    upsampling, a mean over the plane) must write or read the value, or it must derive from such a value elementwise.
    Nor does the operator alone: 1×1 convolutions also serve lists (a YOLO's boxes, [N, 16, 4, boxes]), so a value that
    comes from no map must have a plane like the input's.
    """
    rank = _rank(graph)
    read = {name for op in graph.operators if _planar(op, rank) for name in op.sources}
    maps: dict[str, Operator] = {}
    for op in graph.operators:
        planar = _planar(op, rank)
        carried = op.kind != LAYOUT and any(source in maps for source in op.sources)
        carried |= planar and graph.input in op.sources
        starts = (planar or op.name in read) and _is_plane(graph, op.shape[2:], rank)
        if op.sources and _may_be_maps(graph, op.shape, rank) and (carried or starts):
            maps[op.name] = op
    return list(maps.values())


def _may_be_maps(graph: Graph, shape: tuple[int, ...], rank: int) -> bool:
    """Whether a value of that shape may be a stack of maps of `rank` axes."""
    return len(shape) == rank and shape[0] == graph.copies * graph.input_shape[0] and math.prod(shape[2:]) > 1


def _is_plane(graph: Graph, sides: Sequence[int], rank: int) -> bool:
    """Whether these may be the sides of a plane of the input: not one longer and another shorter than the input's."""
    whole = graph.input_shape[2:] if len(graph.input_shape) == rank else ()
    pairs = list(zip(sides, whole, strict=False))
    return not (any(side > of for side, of in pairs) and any(side < of for side, of in pairs))


def _rank(graph: Graph) -> int:
    """How many axes maps have: as many as the input, if that is of signals or volumes, else four.

    An input of two axes is a signal without channels if convolutions along it follow.
    """
    rank = len(graph.input_shape)
    if rank == 2 and any(op.title == "convolution" and len(op.shape) == 3 for op in graph.operators):
        return 3
    return rank if rank in (3, 5) else 4


def _planar(op: Operator, rank: int) -> bool:
    """Whether an operator works on the plane: convolution, pooling, upsampling, a mean or sum over the plane."""
    if op.title in ("mean", "sum", "amax"):
        axes = op.arg(1)
        return (
            len(op.source_shapes[0]) == rank
            and isinstance(axes, list | tuple)
            and sorted(a % rank for a in axes) == list(range(2, rank))
        )
    planar = op.role == CONVOLUTION or op.title.endswith(_PLANAR)
    return planar and len(op.source_shapes[0]) == rank


def last_maps(graph: Graph) -> list[Operator]:
    """The last maps on each way from the image to the output, in forward order; [] if there are none.

    Of an output with one position, the last ones before global pooling. Of an output with more (a segmentation, the
    boxes of a detector), the last ones before the last layer with weights of each way, where there are any.
    """
    graph = _without_casts(graph)
    maps = {op.name for op in spatial(graph)}
    before, all_of_it = (
        _first_met(graph, start, lambda op: op.name in maps) for start in (_ends(graph), {graph.output})
    )
    return before or all_of_it


def last_map(graph: Graph, depends: Collection[str]) -> Operator:
    """The last map that a score passes, if it depends on the values `depends` of the graph, and on no others.

    Where it passes several, such as those of class and centreness of a box, it is the last map of their size before
    they part, if there is one. If the score depends on no map, it is the last of all.
    """
    graph = _without_casts(graph)
    maps = {op.name for op in spatial(graph)}
    used = replace(graph, operators=tuple(op for op in graph.operators if op.name in depends))
    ends = _ends(used)
    met = _first_met(used, ends, lambda op: op.name in maps)
    if not met:
        return find_map(graph, LAST)
    last = met[-1]
    pending = set(ends) & set(depends)  # values that all of the score passes
    for op in reversed(used.operators):
        if pending == {op.name} and op.name in maps and op.shape[2:] == last.shape[2:]:
            return op
        if op.name in pending:
            pending.remove(op.name)
            pending.update(name for name in op.sources if name in depends)
    return last


def _without_casts(graph: Graph) -> Graph:
    return bypassed(graph, lambda op, _: op.title == "_to_copy")  # casts keep the values


def _ends(graph: Graph) -> set[str]:
    """The values whose last maps are wanted: the output, or, if that has positions, what its last layers read."""
    if math.prod(graph.output_shape[2:]) == 1:
        return {graph.output}
    layers = _first_met(graph, {graph.output}, has_weights)
    return {name for op in layers for name in op.sources} or {graph.output}


def _first_met(graph: Graph, start: Collection[str], wanted: Callable[[Operator], bool]) -> list[Operator]:
    """The operators that are `wanted` and met first on each way back from the values `start`, in forward order."""
    upstream, met = set(start), []
    for op in reversed(graph.operators):
        if op.name in upstream and wanted(op):
            met.append(op)
        elif op.name in upstream:
            upstream.update(op.sources)
    return met[::-1]
