"""How fast methods are on a model: images a second, time beside its own input gradient, peak memory."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatcli.errors import HeatcliError, UsageError, first_line
from heatcli.explanation import explain
from heatcli.methods.table import Method
from heatcli.model.model import Model
from heatcli.system.memory import give_back, resident

Job = Callable[[], object]
GRADIENT = "torch.autograd.grad"
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """One contestant: medians over rounds. `ratio`: its time over that of the artifact's own input gradient.

    `peak`: the most memory above what was in use before, in bytes; None where the system does not say. `refused`: why
    it did not run; the rest is None then. `note`: what its result says of it.
    """

    name: str
    images_per_second: float | None = None
    ratio: float | None = None
    peak: int | None = None
    refused: str | None = None
    note: str | None = None


def bench(
    model: Model, methods: Mapping[str, Method], batch_size: int = 8, repeats: int = 5, peers: bool = False
) -> Iterator[Timing]:
    """Time methods, by the name of their row, on random images (see `timed`).

    The yardstick is autograd's gradient of the artifact itself by its input. Raises `UsageError` for impossible counts.
    """
    if batch_size < 1 or repeats < 1:
        raise UsageError(f"--batch-size {batch_size} and --repeats {repeats} must be at least 1")
    size = model.network.artifacts_batch((batch_size, *model.shape)) or batch_size
    batch = torch.randn(size, *model.shape, generator=torch.Generator().manual_seed(0))
    batch = batch.to(model.device, model.pictures.dtype)
    module = _module(model, batch)
    jobs: dict[str, Job] = {GRADIENT: own_gradient(module, batch)}
    jobs |= {name: _explained(model, batch, method) for name, method in methods.items()}
    if peers:
        jobs |= peers_of(module, batch)
    yield from timed(jobs, len(batch), repeats, model.device, runs=1 if model.network.compiler is None else 2)


def _module(model: Model, batch: Tensor) -> Any:
    """The artifact as a module of its pictures alone, its parameters at rest."""
    if model.capture.others or model.capture.picture.channels_last:
        raise UsageError(f"{model.path}: bench takes models with one input, channels first")
    module = model.artifact.module_for({model.capture.picture.name: tuple(batch.shape)}).to(model.device)
    for _, parameter in module.named_parameters():
        parameter.requires_grad_(False)
    return module


def _explained(model: Model, batch: Tensor, method: Method) -> Job:
    return lambda: explain(model, batch, method)


def _output(returned: Any) -> Tensor:
    output = returned[0] if isinstance(returned, tuple | list) else returned
    return output.flatten(1)  # type: ignore[no-any-return]


def own_gradient(module: Any, batch: Tensor) -> Job:
    """Autograd's gradient of the top scores by the batch."""

    def run() -> Tensor:
        x = batch.clone().requires_grad_()
        return torch.autograd.grad(_output(module(x)).amax(1).sum(), x)[0]

    return run


def peers_of(module: Any, batch: Tensor) -> dict[str, Job]:
    """Captum's and Zennit's methods on a module, where they are installed."""
    jobs: dict[str, Job] = {}
    with torch.no_grad():
        top, zero = _output(module(batch)).argmax(1), torch.zeros_like(batch)
    try:
        from captum import attr
    except ImportError:
        pass
    else:
        for name in ("LRP", "GuidedBackprop", "InputXGradient"):
            jobs[f"captum {name}"] = _captum(getattr(attr, name), module, batch, top)
        jobs["captum DeepLift"] = lambda: attr.DeepLift(module).attribute(batch, zero, target=top)
    try:
        from zennit import composites, rules, types
    except ImportError:
        pass
    else:
        epsilon = [
            (types.Activation, rules.Pass()), (types.AvgPool, rules.Norm()), (types.BatchNorm, rules.Pass()),
            (types.Linear, rules.Epsilon()),
        ]  # fmt: skip
        jobs["zennit Epsilon"] = _zennit(composites.LayerMapComposite(epsilon), module, batch)
        jobs["zennit EpsilonPlus"] = _zennit(composites.EpsilonPlus(), module, batch)
    return {name: _silenced(job) for name, job in jobs.items()}


def _captum(method: Any, module: Any, batch: Tensor, top: Tensor) -> Job:
    return lambda: method(module).attribute(batch.clone().requires_grad_(), target=top)


def _zennit(composite: Any, module: Any, batch: Tensor) -> Job:
    def run() -> Tensor:
        with composite.context(module) as hooked:
            return own_gradient(hooked, batch)()  # type: ignore[return-value]

    return run


def _silenced(job: Job) -> Job:
    """The same job, without the warnings in which peers announce their hooks."""

    def run() -> object:
        """What the job returns."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return job()

    return run


def timed(
    jobs: Mapping[str, Job], images: int, repeats: int, device: torch.device, yardstick: str = GRADIENT, runs: int = 1
) -> Iterator[Timing]:
    """Time jobs on so many images, all in turn in every round; a `ratio` is that to `yardstick`.

    Before, each one runs `runs` times, and once more while memory is measured: what happens once, such as capture, is
    neither timed nor weighed.
    """
    peaks: dict[str, int | None] = {}
    refused: dict[str, str] = {}
    results: dict[str, object] = {}
    for name, job in jobs.items():
        try:
            for _ in range(runs):
                results[name] = job()
            with Peak(device) as peak:
                job()
            peaks[name] = peak.most
        except HeatcliError as error:
            refused[name] = str(error)
        except Exception as error:  # whatever a peer, or the artifact's own code, raises
            refused[name] = f"{type(error).__name__}: {first_line(error, 120)}"
    seconds: dict[str, list[float]] = {name: [] for name in peaks}
    for _ in range(repeats):
        for name, taken in seconds.items():
            started = time.perf_counter()
            jobs[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - started)
    base = seconds.get(yardstick)
    for name in jobs:
        if name in refused:
            yield Timing(name, refused=refused[name])
            continue
        ratio = None if base is None else statistics.median(a / b for a, b in zip(seconds[name], base, strict=True))
        note = None if name == yardstick else _note(results[name], results.get(yardstick))
        yield Timing(name, images / statistics.median(seconds[name]), ratio, peaks[name], note=note)


def _note(result: object, gradient: object) -> str | None:
    """A peer that hands back the plain gradient has hooked nothing."""
    same = isinstance(result, Tensor) and isinstance(gradient, Tensor) and torch.equal(result, gradient)
    return "the plain gradient: its rules never fired" if same else None


class Peak:
    """The most memory in use inside a `with`, above what was in use before it; `most` is None where nobody says."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.most: int | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            gc.collect()
            give_back()
            try:
                _RESET.write_text("5", encoding="ascii")
            except OSError:
                self.device = torch.device("meta")  # nobody says
                return self
            self._before = resident()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self.device) - self._before
        elif self.device.type == "cpu":
            self.most = resident("VmHWM") - self._before
