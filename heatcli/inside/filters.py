"""The kernels of a network's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import UsageError
from heatcli.graph.layers import Layer, find_layers, layers_of
from heatcli.images.sheet import Block, Tile, coloured, picture_of
from heatcli.model.model import Model


@dataclass(frozen=True, eq=False)
class Kernels:
    """The kernels of a convolution, float32 [outputs, inputs per group, …]."""

    layer: Layer
    weight: NDArray[np.float32]

    @property
    def order(self) -> list[int]:
        """The indices of the filters by norm, the largest first."""
        norms = np.linalg.norm(self.weight.reshape(len(self.weight), -1), axis=1)
        return [int(i) for i in np.argsort(-norms, kind="stable")]


def filters(model: Model, wanted: Sequence[str]) -> list[Kernels]:
    """The kernels of convolutions. `wanted`: names or globs; empty for all. Raises `UsageError`, `ModelError`."""
    # Without graph passes, because folding a BatchNorm into a convolution changes the kernels.
    network = replace(model.network, capture=replace(model.capture, passes=()))
    graph = network.graph((model.batch_size or 1, *model.pictures.input_shape))
    layers = find_layers(graph, wanted, model.path) if wanted else layers_of(graph)
    found = []
    for layer in layers:
        constant = layer.operator.constant(1) if "convolution" in layer.operator.title else None
        if constant is None:
            continue
        weight = constant.value.detach().float().cpu()
        if layer.operator.arg(6):  # the outputs of a transposed convolution are in the second dimension
            weight = weight.transpose(0, 1)
        found.append(Kernels(layer, weight.numpy()))
    if not found:
        raise UsageError(f"{model.path}: no convolution with constant kernels" + (" is named so" if wanted else ""))
    return found


def draw(kernels: Kernels, top: int) -> Block:
    """Draw the `top` largest filters: in colour for three inputs, else the kernel of each filter's strongest input."""
    weight, layer = kernels.weight, kernels.layer
    inputs, flat, rgb = weight.shape[1], weight.ndim == 3, weight.ndim == 4 and weight.shape[1] == 3
    name = layer.parameters[0] if layer.parameters else layer.name
    title = f"{name} ({layer.name}), {'×'.join(map(str, weight.shape))}"
    if weight[0, 0].size == 1:
        matrix = weight.reshape(len(weight), inputs)
        scale = float(np.abs(matrix).max())
        return Block(f"{title}: the matrix, outputs down", [Tile(coloured(matrix, -scale, scale, "bwr"))])
    tiles = []
    for o in kernels.order[:top]:
        kernel = weight[o]
        scale = float(np.abs(kernel).max()) or 1.0
        norm = np.linalg.norm(kernel)
        if rgb:
            tiles.append(Tile(picture_of(0.5 + kernel / (2 * scale)), f"{o}\n‖{norm:.3g}‖"))
        elif flat:  # a convolution over a sequence: inputs × width
            tiles.append(Tile(coloured(kernel, -scale, scale, "bwr"), f"{o}\n‖{norm:.3g}‖"))
        else:
            strongest = int(np.argmax(np.linalg.norm(kernel.reshape(inputs, -1), axis=1)))
            grid = kernel[strongest]
            label = f"{o}\n‖{norm:.3g}‖" if inputs == 1 else f"{o} ← {strongest}\n‖{norm:.3g}‖"
            tiles.append(Tile(coloured(grid, -scale, scale, "bwr"), label))
    shown = f", {top} of {len(weight)} by norm" if len(weight) > top else ""
    note = "" if inputs == 1 or rgb or flat else "; filter ← its strongest input"
    return Block(f"{title}{shown}{note}", tiles)
