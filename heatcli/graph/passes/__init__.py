"""Graph passes: small, named, optional rewrites.

A pass takes a classified graph and returns another with the same output, except that `logit` and `centre-logits` change
the output on purpose. Passes match operators and what these compute, never an architecture or an exporter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import mark_first, mark_nonnegative, named_apart
from heatcli.graph.mixed_precision import mixed_precision
from heatcli.graph.operator import Constant, Graph, Operator
from heatcli.graph.passes.activations import join_activations
from heatcli.graph.passes.explained import centre_logits, logit
from heatcli.graph.passes.identities import drop_identities
from heatcli.graph.passes.layers import fold_batch_norm, join_layers, join_scales
from heatcli.graph.passes.masks import join_masks
from heatcli.graph.passes.norms import join_norms
from heatcli.graph.passes.rewriting import Pass

__all__ = ["DEFAULT", "KEEPING_OUTPUT", "OUTPUTS", "PASSES", "Pass", "apply", "channels_last"]

PASSES: dict[str, Pass] = {
    "drop-identities": drop_identities,
    "join-masks": join_masks,
    "join-norms": join_norms,
    "join-activations": join_activations,
    "join-scales": join_scales,
    "join-layers": join_layers,
    "fold-batch-norm": fold_batch_norm,
    "logit": logit,
    "mixed-precision": mixed_precision,
    "centre-logits": centre_logits,
}
DEFAULT = tuple(name for name in PASSES if name not in ("mixed-precision", "centre-logits"))
# Passes that keep the artifact's output, up to rounding.
KEEPING_OUTPUT = frozenset(PASSES) - {"logit", "mixed-precision", "centre-logits"}
OUTPUTS: dict[str, tuple[str, ...]] = {
    "logit": ("logit",),
    "centred-logit": ("logit", "centre-logits"),
    "probability": (),
}


def apply(graph: Graph, names: Iterable[str]) -> Graph:
    """Run the passes called `names`, in the order of the registry, then the marks and the memory format."""
    wanted = set(names)
    for name, rewrite in PASSES.items():
        if name in wanted:
            graph = rewrite(graph)
    return mark_nonnegative(mark_first(channels_last(named_apart(graph))))


def channels_last(graph: Graph) -> Graph:
    """Set the weights of 2-D convolutions to channels last, a layout with faster kernels; values stay the same."""
    if graph.reads_memory or any(facts_of(op).refuses_channels_last for op in graph.operators):
        return graph

    def with_weight_last(op: Operator) -> Operator:
        """A 2-D convolution with a channels last weight; any other operator unchanged."""
        weight = op.constant(1) if op.title == "convolution" else None
        if weight is None or weight.value.dim() != 4:
            return op
        value = weight.value.contiguous(memory_format=torch.channels_last)
        return replace(op, args=(op.args[0], Constant(weight.name, value), *op.args[2:]))

    return replace(graph, operators=tuple(with_weight_last(op) for op in graph.operators), channels_last=True)
