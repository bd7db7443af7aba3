"""Baselines of sequences: none, zeros, the letter frequencies of the background, shuffles of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.errors import UsageError, unknown_name
from heatcli.explanation import Explanation, explain
from heatcli.images.baselines import Reference
from heatcli.methods.joining import combined
from heatcli.methods.table import Method
from heatcli.model.model import Model

NAMES = ("none", "zero", "background", "shuffle")
FORMS = "; background:0.3,0.2,0.2,0.3 and shuffle:COUNT work too"
SHUFFLES = 10


@dataclass(frozen=True, eq=False)
class References:
    """A baseline: its name, its tensors (each [N, A, L] or [1, A, L]), and its parameters for the report."""

    name: str
    batches: list[Tensor]
    details: dict[str, Any]


def references(model: Model, batch: Tensor, baseline: str, seed: int = 0) -> References:
    """The references for one-hot sequences [N, A, L] by the name of a baseline. Raises `UsageError`."""
    name, _, argument = baseline.partition(":")
    if name == "zero" and not argument:
        return References(name, [torch.zeros_like(batch[:1])], {})
    if name == "background":
        frequencies = _frequencies(model, argument, batch.shape[1])
        column = torch.tensor(frequencies, dtype=batch.dtype, device=batch.device).reshape(1, -1, 1)
        return References(name, [column.expand(1, -1, batch.shape[2])], {"frequencies": frequencies})
    if name == "shuffle":
        count = int(argument) if argument.isdecimal() else 0 if argument else SHUFFLES
        if count < 1:
            raise UsageError(f"baseline {baseline!r}: shuffle:COUNT takes a number of shuffles from 1")
        dice = np.random.default_rng(seed)
        hot = batch.cpu().numpy()
        made = [np.stack([shuffled(one, dice) for one in hot]) for _ in range(count)]
        return References(name, [torch.from_numpy(one).to(batch) for one in made], {"count": count})
    raise unknown_name("baseline for sequences", baseline, NAMES, FORMS)


def _frequencies(model: Model, argument: str, letters: int) -> list[float]:
    """The frequency of each letter: given, the sidecar's, or equal ones. Raises `UsageError`."""
    try:
        given = [float(part) for part in argument.split(",")] if argument else list(model.settings.background)
    except ValueError:
        given = []
    given = given or ([] if argument else [1 / letters] * letters)
    if len(given) != letters or min(given) < 0 or abs(sum(given) - 1) > 1e-3:
        raise UsageError(f"background:{argument} is not allowed; give {letters} frequencies that sum to 1")
    return given


def shuffled(onehot: NDArray[np.float32], dice: np.random.Generator) -> NDArray[np.float32]:
    """A one-hot sequence [A, L] shuffled with the same counts of dinucleotides.

    The result is a random Euler path through the letters: the successors of each letter are shuffled, except the last
    one (Altschul and Erickson 1985; the shuffle of DeepLIFT's genomics examples).
    """
    columns, codes = np.unique(onehot, axis=1, return_inverse=True)
    codes = codes.reshape(-1)
    successors: list[NDArray[np.int64]] = []
    for letter in range(columns.shape[1]):
        own = np.flatnonzero(codes[:-1] == letter) + 1
        own[:-1] = dice.permutation(own[:-1])
        successors.append(own)
    used = [0] * len(successors)
    path = [0]
    for _ in range(len(codes) - 1):
        letter = codes[path[-1]]
        path.append(int(successors[letter][used[letter]]))
        used[letter] += 1
    return onehot[:, path]


def explain_sequences(
    model: Model, batch: Tensor, method: Method, target: Any = None, baseline: str | None = None, seed: int = 0
) -> Explanation:
    """`heatcli.explain` for one-hot sequences [N, A, L]; with several shuffles, the mean of their explanations.

    The ledger is linear, so it stays exact: output_baseline is the mean output of the shuffles. Raises `UsageError`.
    """
    name = method.baseline if baseline is None else baseline
    if name in (None, "none") or (baseline is not None and method.baseline is None):
        return explain(model, batch, method, target, baseline)
    assert name is not None
    found = references(model, batch, name, seed)
    parts = [explain(model, batch, method, target, one) for one in found.batches]
    return replace(_mean(parts), reference=Reference(found.name, None, found.details))


def _mean(parts: Sequence[Explanation]) -> Explanation:
    """The mean of several explanations of the same scores."""
    mean = combined(parts, lambda values: torch.stack(tuple(values)).mean(0))
    seconds = {name: sum(part.seconds[name] for part in parts) for name in parts[0].seconds}
    return replace(mean, outputs=parts[0].outputs, probabilities=parts[0].probabilities, seconds=seconds)
