"""The speed of methods on a model: images per second, time compared with the model's input gradient, peak memory."""

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
    """The timing of a method or a peer, medians over rounds.

    `ratio`: its time divided by that of the artifact's input gradient. `peak`: peak memory in bytes above the memory in
    use before; None if the system does not measure it. `refused`: why it did not run; the numbers are then None.
    `note`: a remark on its result.
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
    """Time methods on a batch of random images (see `timed`). `methods`: name of the row → method.

    The time is compared with that of autograd's gradient of the artifact with respect to its input. `peers`: also time
    Captum's and Zennit's methods. Raises `UsageError` for counts below 1 and models with several inputs.
    """
    if batch_size < 1 or repeats < 1:
        raise UsageError(f"--batch-size {batch_size} and --repeats {repeats} must be at least 1")
    model.pictures.need_values_between("there is no gradient to time")
    shape = model.pictures.input_shape
    size = model.network.artifacts_batch((batch_size, *shape)) or batch_size
    batch = torch.randn(size, *shape, generator=torch.Generator().manual_seed(0))
    batch = batch.to(model.device, model.pictures.dtype)
    module = _module(model, batch)
    jobs: dict[str, Job] = {GRADIENT: own_gradient(module, batch)}
    jobs |= {name: _explained(model, batch, method) for name, method in methods.items()}
    if peers:
        jobs |= peers_of(module, batch)
    yield from timed(jobs, len(batch), repeats, model.device, runs=1 if model.network.compiler is None else 2)


def _module(model: Model, batch: Tensor) -> Any:
    """The artifact as a module of one input, with parameters that require no gradient. Raises `UsageError`."""
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
    """A job: autograd's gradient of the highest scores with respect to the batch [N, …]."""

    def run() -> Tensor:
        x = batch.clone().requires_grad_()
        return torch.autograd.grad(_output(module(x)).amax(1).sum(), x)[0]

    return run


def peers_of(module: Any, batch: Tensor) -> dict[str, Job]:
    """Jobs of Captum's and Zennit's methods on a module and a batch [N, …], if these packages are installed."""
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
    """The job of a composite of Zennit."""

    def run() -> Tensor:
        with composite.context(module) as hooked:
            return own_gradient(hooked, batch)()  # type: ignore[return-value]

    return run


def _silenced(job: Job) -> Job:
    """The job without warnings, since peers warn of their own hooks."""

    def run() -> object:
        """Run the job."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return job()

    return run


def timed(
    jobs: Mapping[str, Job], images: int, repeats: int, device: torch.device, yardstick: str = GRADIENT, runs: int = 1
) -> Iterator[Timing]:
    """Time jobs on `images` images. Each of `repeats` rounds runs every job once, in turn.

    `yardstick`: the job that the ratios refer to. Before the rounds each job runs `runs` times, and once more to
    measure memory, so that work done only once, such as capture, is not measured. A job that raises is reported as
    refused.
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
        except Exception as error:  # peers and the artifact's own code can raise anything
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
    """A remark if a result equals the plain gradient: the hooks of a peer did not work."""
    same = isinstance(result, Tensor) and isinstance(gradient, Tensor) and torch.equal(result, gradient)
    return "the plain gradient: its rules never fired" if same else None


class Peak:
    """The peak memory in a `with` block above the memory in use before it: `most`, in bytes; None if not measurable."""

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
                self.device = torch.device("meta")  # so that `__exit__` measures nothing
                return self
            self._before = resident()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self.device) - self._before
        elif self.device.type == "cpu":
            self.most = resident("VmHWM") - self._before
