"""Random networks walked back by every backward method, in float64: books, gradient, batches, baselines.

Networks are those of `tests/support/random_graphs.py`, traced. Four properties that hold for any network:

- the ledger: pixels, biases and losses add up to the score;
- `gradient` is autograd's derivative of the module;
- an image gets in a batch what it gets alone, where two copies of it side by side get one map: torch rounds some functions
  otherwise at other places of a tensor, and a tie of maxima then has another winner;
- with input and baseline exchanged, relevance by DeepLIFT's rules changes its sign, where every operator has a rule.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import truth
from trial import FAULT, REFUSED, RIGHT, Class, Trial

CLOSE = 1e-9  # of what was added up, in float64
MAPS = 1e-6  # of the largest pixel
NOTHING = 1e-9  # a map that is 0 but for rounding
NETWORKS, MORE, SOME = 200, 2000, 4


def _loaded(seed: int) -> Any:
    """The network in float64 as a traced artifact, loaded."""
    import torch
    from random_graphs import inputs, network

    import heatcli

    module, x = network(seed).module().double(), inputs(seed, 0).double()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.pt"
        torch.jit.trace(module, x.clone(), check_trace=False).save(str(path))
        return heatcli.load(path, size=tuple(x.shape[2:]), channels=x.shape[1])


def _open(result: Any) -> str:
    """By how much the ledger is open, where that is more than rounding; ""."""
    ledger = result.ledger
    size = float(result.relevance.abs().sum() + ledger.output.abs().sum())
    for entries in (result.biases, result.absorbed, result.unexplained):
        size += sum(float(x.abs().sum()) for x in entries.values())
    booked = ledger.pixels + ledger.biases + ledger.absorbed + ledger.unexplained
    left = float((ledger.output - ledger.output_baseline - booked).abs().max())
    return "" if left <= CLOSE * size else f"the ledger is open by {left:.2g} of {size:.2g}"


def _apart(a: Any, b: Any, what: str, allowed: float = MAPS) -> str:
    """By how much two maps differ, where that is more than rounding; ""."""
    off, largest = float((a - b).abs().max()), float(b.abs().max())
    return "" if off <= allowed * max(largest, NOTHING) else f"{what}: {off:.2g} of {largest:.2g} off"


def problems(model: Any, seed: int, name: str) -> list[str]:
    """What does not hold of one network and method."""
    import torch
    from random_graphs import inputs

    import heatcli
    from heatcli.methods.table import METHODS

    method = METHODS[name]
    x, x0 = inputs(seed, 1).double(), inputs(seed, 2)[:1].double()
    found = []
    for baseline in [None] if method.baseline is None else [x0] if method.baseline != "none" else [None, x0]:
        whole = heatcli.explain(model, x, name, target=0, baseline=baseline)
        alone = heatcli.explain(model, x[1:], name, target=0, baseline=baseline)
        some = [_open(whole) if method.conserves else "", _apart(whole.relevance[1:], alone.relevance, "alone")]
        if some[-1]:
            twins = heatcli.explain(model, torch.cat([x[1:], x[1:]]), name, target=0, baseline=baseline).relevance
            some[-1] = "" if _apart(twins[:1], twins[1:], "") else some[-1]
        if baseline is not None and name.startswith("deeplift") and not whole.unexplained:
            there, back = (
                heatcli.explain(model, a, name, target=0, baseline=b).relevance for a, b in ((x[:1], x0), (x0, x[:1]))
            )
            some.append(_apart(there, -back, "exchanged"))
        found += [f"{text}{'' if baseline is None else ' (with a baseline)'}" for text in some if text]
    if (
        name == "gradient"
        and truth.map_of(lambda: _eager(seed), x, heatcli.explain(model, x, name, target=0)) == "wrong"
    ):
        found.append("another gradient than autograd's, and than differences of the score")
    return found


def _eager(seed: int) -> Any:
    """The network as autograd can follow it."""
    from random_graphs import compiled, network

    return compiled(network(seed).source.replace(".detach()", ""), seed)


def every_method(seed: int, count: int) -> Iterator[Trial]:
    """A trial for each network and backward method."""
    return _trials(seed, count or NETWORKS, None)


def some_methods(seed: int, count: int) -> Iterator[Trial]:
    """The same with more networks and `SOME` methods each, others for each network."""
    return _trials(seed, count or MORE, SOME)


def _methods(number: int, most: int | None) -> list[str]:
    """The backward methods that network `number` is walked by."""
    from heatcli.methods.table import METHODS

    names = [name for name, method in METHODS.items() if method.kind == "backward"]
    return names if most is None else [names[(number * most + i) % len(names)] for i in range(most)]


def _trials(seed: int, count: int, most: int | None) -> Iterator[Trial]:
    import torch

    from heatcli.errors import ModelError, UsageError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number in range(seed, seed + count):
        try:
            model = _loaded(number)
        except ModelError as error:
            yield Trial(f"seed {number}", REFUSED, str(error))
            continue
        except RuntimeError:  # torch cannot trace it in float64
            continue
        for name in _methods(number, most):
            what = f"seed {number}, {name}"
            try:
                wrong = problems(model, number, name)
            except UsageError as error:  # a method for networks with ReLUs
                yield Trial(what, REFUSED, str(error))
                continue
            except ModelError as error:
                yield Trial(f"seed {number}", REFUSED, str(error))
                break
            except Exception as error:
                yield Trial(what, FAULT, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            yield Trial(what, FAULT if wrong else RIGHT, "; ".join(wrong))


CLASSES: dict[str, Class] = {
    "random networks, every backward method": every_method,
    f"random networks, {SOME} backward methods each": some_methods,
}
