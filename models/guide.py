"""Relevance as a training loss: the walk is differentiable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from heatcli.engine.forward import forward
from heatcli.engine.walk import walk
from heatcli.graph.capture import record
from heatcli.graph.operator import Constant, Graph
from heatcli.graph.passes import apply
from heatcli.methods.table import method

MEAN_FILE = Path(__file__).parent / "animals.mean.npz"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Guide:
    """The penalty: weight · the mean share of |relevance| outside the animal, for some images of each batch.

    Relevance is that of the true class in the network as it will be used: batch norm by its running statistics.
    `trained_on`: a method of one walk, perhaps with `@mean`, the mean training picture as its baseline; what the
    network says of that picture is taken as given.
    """

    def __init__(self, weight: float, images: int, start: float, trained_on: str) -> None:
        self.weight, self.images, self.start = weight, images, start
        self.graph: Graph | None = None
        name, _, baseline = trained_on.partition("@")
        self.rules = method(name).rules
        self.origin: Tensor | None = None
        if baseline == "mean":
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            self.origin = ((torch.from_numpy(np.load(MEAN_FILE)["mean"]) - mean) / std)[None]

    def __call__(self, net: nn.Module, inputs: Tensor, labels: Tensor, coverage: Tensor, progress: float) -> Tensor:
        """A scalar; none before `start`, a part of the training."""
        if progress < self.start:
            return inputs.new_zeros(())
        net.eval()
        share = self.outside(net, inputs[: self.images], labels[: self.images], coverage[: self.images, 0])
        net.train()
        return self.weight * share

    def outside(self, net: nn.Module, inputs: Tensor, labels: Tensor, coverage: Tensor) -> Tensor:
        """The mean share of |relevance| outside the animals of `coverage` [N, H, W], differentiable."""
        inputs = inputs.contiguous()
        if self.graph is None:
            names = {**dict(net.named_parameters()), **dict(net.named_buffers())}
            # no passes: folded weights would no longer be the parameters
            self.graph = apply(record(net, torch.zeros_like(inputs), names, "the network in training"), ())
        origin = None if self.origin is None else self.origin.expand_as(inputs)
        tape = forward(live(self.graph, net), inputs, origin, differentiable=True)
        seed = torch.zeros_like(tape.output).scatter_(1, labels[:, None], 1.0)
        difference = inputs if origin is None else inputs - origin
        relevance = (walk(tape, self.rules, seed, None) * difference).sum(1).abs()
        whole = relevance.sum((1, 2)).clamp(min=1e-9)
        return ((relevance * (1 - coverage)).sum((1, 2)) / whole).mean()


def live(graph: Graph, net: nn.Module) -> Graph:
    """The graph with the network's own parameters in place of the constants that were captured."""
    parameters = dict(net.named_parameters())

    def swapped(x: object) -> object:
        """An argument, or the parameter that it is a copy of."""
        if not isinstance(x, Constant) or x.name not in parameters:
            return x
        parameter = parameters[x.name]
        return Constant(x.name, parameter if parameter.shape == x.value.shape else parameter.t())

    operators = []
    for op in graph.operators:
        args, kwargs = pytree.tree_map(swapped, (op.args, dict(op.kwargs)))
        operators.append(replace(op, args=args, kwargs=kwargs))
    return replace(graph, operators=tuple(operators))
