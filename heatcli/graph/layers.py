"""Which value of a graph a name stands for: `last`, an operator, or a layer of the artifact by its parameters."""

from __future__ import annotations

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.kinds import CONVOLUTION, LAYOUT, has_weights
from heatcli.graph.operator import Graph, Operator, bypassed

LAST = "last"
_PLANAR = ("2d", "2d_with_indices", "2d_aa")


def spatial(graph: Graph) -> list[Operator]:
    """Operators whose value is a stack of maps [N, C, h, w], h·w > 1, in forward order.

    A shape alone does not tell (attention has [N, heads, tokens, tokens]): something that works in the plane
    (convolution, pooling, upsampling, a mean over it) writes it or reads it, or it came from one elementwise.
    """
    read = {name for op in graph.operators if _planar(op) for name in op.sources}
    found: dict[str, Operator] = {}
    for op in graph.operators:
        carried = op.kind != LAYOUT and any(source in found for source in op.sources)
        if op.sources and _maps(graph, op.shape) and (_planar(op) or op.name in read or carried):
            found[op.name] = op
    return list(found.values())


def _maps(graph: Graph, shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[0] == graph.input_shape[0] and shape[2] * shape[3] > 1


def _planar(op: Operator) -> bool:
    if op.title in ("mean", "sum", "amax"):
        axes = op.arg(1)
        return (
            len(op.source_shapes[0]) == 4 and isinstance(axes, list | tuple) and sorted(a % 4 for a in axes) == [2, 3]
        )
    planar = op.role == CONVOLUTION or op.title.endswith(_PLANAR)
    return planar and len(op.source_shapes[0]) == 4


def find_layer(graph: Graph, name: str) -> Operator:
    """The operator whose value [N, C, h, w] is meant. Raises `UsageError`, with the names that there are.

    `last`: the last before the image is pooled away; where the output itself is a map, before the last layer with
    weights. Else an operator's name, or what its parameters' names begin with: `features.28` is the value that the
    layer with `features.28.weight` gives, with a batch norm that was folded into it; a block such as `layer4` ends with
    what follows its last layer and has no parameters (the sum, the ReLU).
    """
    graph = bypassed(graph, lambda op, _: op.title == "_to_copy")  # the same values in another dtype
    maps = spatial(graph)
    if not maps:
        raise UsageError("this network has no maps [N, C, h, w] between image and output, so CAM methods say nothing")
    if name == LAST:
        return _last(graph, maps)
    by_name = {op.name: op for op in maps}
    if name in by_name:
        return by_name[name]
    of = [op for op in maps if any(p == name or p.startswith(f"{name}.") for p in parameters_of(op))]
    if of:
        return of[-1] if _is_layer(name, of[-1]) else _end(maps, of[-1])
    layers = dict.fromkeys(p.rpartition(".")[0] for op in maps for p in parameters_of(op) if "." in p)
    ways = f"; last and operators such as {maps[-1].name} work too"
    raise unknown_name("layer", name, layers or by_name, ways)


def _is_layer(name: str, op: Operator) -> bool:
    return any(p == name or p.rpartition(".")[0] == name for p in parameters_of(op))


def _end(maps: list[Operator], op: Operator) -> Operator:
    """The last of the operators that follow `op` one after the other and have no parameters."""
    end = op
    for after in maps[maps.index(op) + 1 :]:
        if parameters_of(after) or end.name not in after.sources:
            break
        end = after
    return end


def parameters_of(op: Operator) -> list[str]:
    """Names of the artifact's tensors that it reads or whose shift it adds."""
    return [*(c.name for c in op.constants), *(o.name for o in op.offsets)]


def _last(graph: Graph, maps: list[Operator]) -> Operator:
    if len(graph.output_shape) != 4 or graph.output_shape[2] * graph.output_shape[3] == 1:
        return maps[-1]
    weighted = [i for i, op in enumerate(graph.operators) if has_weights(op)]
    before = {op.name for op in graph.operators[: weighted[-1]]} if weighted else set()
    return next((op for op in reversed(maps) if op.name in before), maps[0])
