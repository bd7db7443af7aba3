"""How long a method takes beside the eager input gradient and beside peers: prints the README's table.

    python tests/peers/measure_speed.py [--networks A,B] [--methods A,B] [--repeats 5] [--threads 2] [--no-peers]
        [--memory]

float32 on the CPU, batch 8 at 224×224, random weights. Every round runs each contestant once, in turn; a ratio is the
median over rounds of the ratio within a round. Captum and Zennit get the eager module; heatcli its TorchScript.
`--memory`: peak memory above what was in use before, beside the eager gradient's, instead of time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

import heatcli
from heatcli.bench import Peak

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v3_large", "efficientnet_b0")
METHODS = (
    "gradient", "input-x-gradient", "lrp-0", "blame-bias", "lrp-eps", "lrp-z-plus", "lrp-alpha1-beta0",
    "lrp-epsilon-plus", "deeplift-rescale",
)  # fmt: skip
BATCH, SIZE = 8, 224
Job = Callable[[], object]


def eager_gradient(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The floor that everything is compared with."""
    x = batch.clone().requires_grad_()
    return torch.autograd.grad(module(x).max(1).values.sum(), x)[0]


def peers(module: torch.nn.Module, batch: torch.Tensor) -> dict[str, Job]:
    """Captum's and Zennit's methods of the same name, on the eager module."""
    from captum.attr import LRP, DeepLift, IntegratedGradients
    from zennit.composites import EpsilonPlus, LayerMapComposite
    from zennit.rules import Epsilon, Norm, Pass
    from zennit.types import Activation, AvgPool, BatchNorm, Linear

    top, zero = module(batch).argmax(1), torch.zeros_like(batch)
    epsilon = [(Activation, Pass()), (AvgPool, Norm()), (BatchNorm, Pass()), (Linear, Epsilon())]

    def zennits(composite: object) -> Job:
        def run() -> object:
            x = batch.clone().requires_grad_()
            with composite.context(module) as hooked:  # type: ignore[attr-defined]
                return torch.autograd.grad(hooked(x).max(1).values.sum(), x)[0]

        return run

    return {
        "lrp-eps/captum": lambda: LRP(module).attribute(batch.clone().requires_grad_(), target=top),
        "lrp-eps/zennit": zennits(LayerMapComposite(epsilon)),
        "lrp-epsilon-plus/zennit": zennits(EpsilonPlus()),
        "deeplift-rescale/captum": lambda: DeepLift(module).attribute(batch, zero, target=top),
        "integrated-gradients/captum": lambda: IntegratedGradients(module).attribute(
            batch, zero, target=top, n_steps=32, internal_batch_size=BATCH
        ),
    }


def contestants(name: str, methods: list[str], with_peers: bool) -> dict[str, Job]:
    """The eager gradient, heatcli's methods on the TorchScript, and the peers', for one network."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None).eval()
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # Captum's hooks refuse it
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    batch = torch.randn(BATCH, 3, SIZE, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.jit.script(module).save(str(path))
        model = heatcli.load(path, size=SIZE)

    def explained(method: str) -> Job:
        more = {"steps": 32} if method == "integrated-gradients" else {}
        return lambda: heatcli.explain(model, batch, method, **more)

    jobs: dict[str, Job] = {"eager": lambda: eager_gradient(module, batch), **{m: explained(m) for m in methods}}
    if with_peers:
        jobs |= {k: v for k, v in peers(module, batch).items() if k.split("/")[0] in jobs}
    return jobs


def ratios(jobs: dict[str, Job], repeats: int) -> dict[str, float]:
    """Median over rounds of each job's time over that of the job called `eager`; a job that raises is left out."""
    taken: dict[str, list[float]] = {}
    for round_number in range(repeats + 1):
        seconds = {}
        for name, job in jobs.items():
            started = time.perf_counter()
            try:
                job()
            except Exception as error:  # a peer that refuses the network
                if not round_number:
                    print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
                continue
            seconds[name] = time.perf_counter() - started
        if round_number:  # the first one warms up
            for name, value in seconds.items():
                taken.setdefault(name, []).append(value / seconds["eager"])
    return {name: statistics.median(values) for name, values in taken.items()}


def peaks(jobs: dict[str, Job]) -> dict[str, float]:
    """Each job's peak memory over that of the job called `eager`, after a run that warms up."""
    most: dict[str, int] = {}
    for name, job in jobs.items():
        for _ in range(2):
            with Peak(torch.device("cpu")) as peak:
                job()
        assert peak.most is not None, "this system does not say"
        most[name] = peak.most
    return {name: value / most["eager"] for name, value in most.items()}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}\n")
    rows: dict[str, dict[str, float]] = {}
    for name in options.networks.split(","):
        jobs = contestants(name, options.methods.split(","), not (options.no_peers or options.memory))
        print(name, flush=True)
        for job, ratio in (peaks(jobs) if options.memory else ratios(jobs, options.repeats)).items():
            rows.setdefault(job, {})[name] = ratio
            print(f"  {job}: {ratio:.2f}", flush=True)
    names = options.networks.split(",")
    print(f"\n| method | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for job, found in rows.items():
        print(f"| {job} | {' | '.join(f'{found[n]:.2f}' if n in found else 'refuses' for n in names)} |")


if __name__ == "__main__":
    main()
