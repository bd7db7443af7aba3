"""How long a method takes beside the eager input gradient and beside peers: prints the tables of SPEED.md.

    python tests/measure/speed.py [--networks A,B] [--methods A,B] [--repeats 5] [--threads 2] [--no-peers]
        [--memory] [--compile] [--amp] [--keep-freed]

float32 on the CPU, batch 8 at 224×224, random weights; BatchNorm has the statistics of the batch, or activations would
vanish, and arithmetic with the smallest numbers there are is slow. Every round runs each contestant once, in turn; a
ratio is the median over rounds of the ratio within a round. Captum and Zennit get the eager module; heatcli its
TorchScript.
Captum's DeepLift runs a second time where a network has activations that it takes the gradient of (SiLU, hardswish),
told of them: then their slopes count, as in DeepLIFT; products of two values it still takes the gradient of.
`--memory`: peak memory above what was in use before, beside the eager gradient's, instead of time; medians, too.
`--compile`, `--amp`: every method once more, compiled, or in mixed precision.
`--keep-freed`: the process keeps memory that is freed, as heatcli's commands do; all of the contestants find it there.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

import heatcli
from heatcli.evaluate.speed import Job, Timing, own_gradient, peers_of, timed
from heatcli.graph.passes import DEFAULT
from heatcli.system.memory import keep_freed

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v3_large", "efficientnet_b0")
METHODS = (
    "gradient", "input-x-gradient", "lrp-0", "blame-bias", "lrp-eps", "lrp-z-plus", "lrp-alpha1-beta0",
    "lrp-epsilon-plus", "deeplift-rescale",
)  # fmt: skip
PEERS = {
    "lrp-eps": ("captum LRP", "zennit Epsilon"),
    "lrp-epsilon-plus": ("zennit EpsilonPlus",),
    "deeplift-rescale": ("captum DeepLift",),
}
BATCH, SIZE, STEPS = 8, 224, 32
INTEGRATED = "integrated-gradients"
VARIANTS: dict[str, dict[str, Any]] = {
    "": {}, "compile": {"compiled": True}, "amp": {"passes": (*DEFAULT, "mixed-precision")}
}  # fmt: skip
UNTOLD = (torch.nn.SiLU, torch.nn.Hardswish, torch.nn.Hardsigmoid)  # Captum's DeepLift takes their gradient


def contestants(name: str, methods: list[str], with_peers: bool, variants: Sequence[str] = ("",)) -> dict[str, Job]:
    """The eager gradient, heatcli's methods on the TorchScript, and the peers', for one network."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    batch = torch.randn(BATCH, 3, SIZE, SIZE)
    standardise(module, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.jit.script(module).save(str(path))
        models = {variant: heatcli.load(path, size=SIZE, **VARIANTS[variant]) for variant in variants}

    def explained(method: str, model: heatcli.Model) -> Job:
        more = {"steps": STEPS} if method == INTEGRATED else {}
        return lambda: heatcli.explain(model, batch, method, **more)

    theirs = peers_of(out_of_place(module), batch) if with_peers else {}
    jobs: dict[str, Job] = {"eager": own_gradient(module, batch)}
    for method in methods:
        for variant, model in models.items():
            jobs[f"{method} --{variant}" if variant else method] = explained(method, model)
        jobs |= {name: theirs[name] for name in PEERS.get(method, ()) if name in theirs}
        deeplift = theirs.get("captum DeepLift") if any(isinstance(m, UNTOLD) for m in module.modules()) else None
        if method == "deeplift-rescale" and deeplift is not None:
            jobs["captum DeepLift, told"] = captums_secants(deeplift)
            for title in ("captum DeepLift", "captum DeepLift, told"):
                low, high = sums(jobs[title], module, batch)
                print(f"{name}, {title}: relevances come to {low:.3g} to {high:.3g} × what the score gains")
        if method == INTEGRATED and with_peers:
            jobs["captum IntegratedGradients"] = captums_integrated(module, batch)
    return jobs


def out_of_place(module: torch.nn.Module) -> torch.nn.Module:
    """A copy for Captum, whose hooks refuse activations in place."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return copied


def standardise(module: torch.nn.Module, batch: torch.Tensor) -> None:
    """Give every BatchNorm the statistics that it sees on the batch; eval mode."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(batch)
    module.eval()


def captums_integrated(module: torch.nn.Module, batch: torch.Tensor) -> Job:
    """Captum's method, of as many steps."""
    from captum.attr import IntegratedGradients

    top, zero = module(batch).argmax(1), torch.zeros_like(batch)
    return lambda: IntegratedGradients(module).attribute(
        batch, zero, target=top, n_steps=STEPS, internal_batch_size=BATCH
    )


def captums_secants(job: Job) -> Job:
    """Captum's DeepLift, told that `UNTOLD` are activations too, whose slope from the baseline counts."""
    from captum.attr._core import deep_lift

    told = {**deep_lift.SUPPORTED_NON_LINEAR, **dict.fromkeys(UNTOLD, deep_lift.nonlinear)}

    def run() -> object:
        """As it answers with that table in place of its own."""
        own, deep_lift.SUPPORTED_NON_LINEAR = deep_lift.SUPPORTED_NON_LINEAR, told
        try:
            return job()
        finally:
            deep_lift.SUPPORTED_NON_LINEAR = own

    return run


def sums(deeplift: Job, module: torch.nn.Module, batch: torch.Tensor) -> tuple[float, float]:
    """The least and the most that an image's relevances come to, over what its top score gains on the zero baseline."""
    with torch.no_grad():
        outputs, zero = module(batch), module(torch.zeros_like(batch))
    top = outputs.argmax(1, keepdim=True)
    relevance = deeplift()
    assert isinstance(relevance, torch.Tensor)
    found = relevance.flatten(1).sum(1) / (outputs - zero).gather(1, top)[:, 0]
    return float(found.min()), float(found.max())


def memory(timing: Timing) -> int:
    """Its peak, in bytes."""
    assert timing.peak is not None, "this system does not say"
    return timing.peak


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--keep-freed", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.keep_freed:
        keep_freed()
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}\n")
    variants = ["", *(variant for variant in ("compile", "amp") if getattr(options, variant))]
    shown: dict[str, dict[str, str]] = {}
    for name in options.networks.split(","):
        with_peers = not (options.no_peers or options.memory)
        jobs = contestants(name, options.methods.split(","), with_peers, variants)
        print(name, flush=True)
        runs = 2 if options.compile else 1
        rounds, repeats = (options.repeats, 1) if options.memory else (1, options.repeats)
        found = [list(timed(jobs, BATCH, repeats, torch.device("cpu"), "eager", runs)) for _ in range(rounds)]
        for i, timing in enumerate(found[0]):
            if timing.refused:
                print(f"  {timing.name}: {timing.refused}")
                shown.setdefault(timing.name, {})[name] = "refuses"
                continue
            peaks = [memory(timings[i]) / memory(timings[0]) for timings in found] if options.memory else []
            ratio = statistics.median(peaks) if peaks else timing.ratio
            assert ratio is not None
            shown.setdefault(timing.name, {})[name] = f"{ratio:.2f}"
            print(f"  {timing.name}: {ratio:.2f}", flush=True)
    names = options.networks.split(",")
    print(f"\n| method | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for job, cells in shown.items():
        print(f"| {job} | {' | '.join(cells.get(n, '–') for n in names)} |")


if __name__ == "__main__":
    main()
