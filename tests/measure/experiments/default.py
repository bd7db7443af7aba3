"""Which method should be the default of `explain`? Every candidate on trained networks: DEFAULT.md and HELD_OUT.md.

    python tests/measure/experiments/default.py measure NETWORK --data DATA   (pictures.py says how to fill DATA)
    python tests/measure/experiments/default.py page

What is measured lies in --cache as JSON, a line a chunk of pictures and method; a run that is interrupted goes on.
DEFAULT.md is written once all its networks are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from default_page import held_out, page  # noqa: E402
from pictures import HELD_OUT, NETWORKS, part  # noqa: E402

from heatcli.evaluate.explainer import Explainer  # noqa: E402
from heatcli.evaluate.layers import layers_of, randomisation, with_random  # noqa: E402
from heatcli.evaluate.perturbation import by_region, curve, fall, of_samek  # noqa: E402
from heatcli.evaluate.similarity import rank_correlation  # noqa: E402
from heatcli.evaluate.subject import Subject  # noqa: E402
from heatcli.evaluate.subjects import alone  # noqa: E402
from heatcli.evaluate.trial import Trial, tried  # noqa: E402
from heatcli.sequences.references import explain_sequences  # noqa: E402

CANDIDATES = (
    "lrp-eps", "lrp-eps@blur", "lrp-epsilon-plus", "lrp-epsilon-plus@blur", "lrp-epsilon-plus-flat",
    "lrp-epsilon-plus-flat@blur", "lrp-epsilon-gamma-box", "lrp-epsilon-gamma-box@blur", "lrp-gamma", "lrp-gamma@blur",
    "lrp-z-plus", "lrp-alpha2-beta1", "deeplift-rescale", "deeplift-rescale@blur", "deeplift-reveal-cancel",
    "deeplift-reveal-cancel@blur", "input-x-gradient@blur", "gradient", "sensitivity", "deconvnet", "guided-backprop",
    "grad-cam", "random", "edges",
)  # fmt: skip
ONLY_SMALL = ("lrp-eps@mean", "integrated-gradients@blur")  # a mean picture is there; 32 walks are no day's work
SCARCE = ("lrp-gamma@blur", "lrp-epsilon-gamma-box@blur", "input-x-gradient@blur", "lrp-epsilon-plus-flat@blur",
          "deeplift-rescale", "deeplift-rescale@blur", "deeplift-reveal-cancel")  # fmt: skip
"""Left out on the large network and the shortcut: each is near another one."""
FIRST = ("lrp-eps", "lrp-eps@blur", "lrp-alpha2-beta1", "deconvnet", "sensitivity", "gradient", "random")
"""On the large network these come first: those that the rule and Samek's order need; the others with --others."""
CHUNK = {"EfficientNet-Lite0": 20, "open_nsfw": 20}
SANITY = {"EfficientNet-Lite0": (4, 7), "open_nsfw": (4, 7), "animals.pt": (8, 7), "animals-shortcut.pt": (8, 7)}
"""Pictures and depths of the randomised layers; else 16 pictures and every layer."""


def candidates(network: str) -> list[Explainer]:
    """Those that the network takes; of sequences, the background's frequencies are the baseline instead of a blur."""
    names = [*CANDIDATES]
    if network.startswith("animals"):
        names += ONLY_SMALL
    if network == "motifs.onnx":
        names = [
            n
            for n in [*names, ONLY_SMALL[1]]
            if n.partition("@")[0] not in ("edges", "grad-cam", "lrp-epsilon-gamma-box")
        ]
    if network in ("EfficientNet-Lite0", "animals-shortcut.pt", "open_nsfw"):
        names = [n for n in names if n not in SCARCE and n not in ONLY_SMALL]
    return [Explainer.parse(name) for name in names]


def tried_on_sequences(own: Subject, explainer: Explainer) -> Trial:
    """As `tried`, for sequences: letters are replaced by random ones of the background."""
    start = time.process_time()
    heatmaps, shown = sequence_maps(own, explainer)
    seconds = (time.process_time() - start) / len(own)
    background = torch.tensor(own.model.settings.background)
    drawn = torch.multinomial(background, own.batch[:, 0].numel(), replacement=True, generator=own.generator(3))
    fill = torch.nn.functional.one_hot(drawn.reshape(own.batch[:, 0].shape), 4).movedim(2, 1).to(own.batch)
    found = []
    _, each = of_samek((1, heatmaps.shape[1]), 5)
    for least_first in (False, True):
        when, _ = by_region(heatmaps[:, None], 1, least_first)
        found.append(fall(curve(own, when[:, 0] // each, 5, own.batch, fill)))
    positive = heatmaps.double().clamp(min=0)
    inside = (positive * own.mask).sum(1) / positive.sum(1).clamp(min=1e-30)
    return Trial(explainer, found[0], found[1], inside, shown, seconds)


def sequence_maps(own: Subject, explainer: Explainer, model: object = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance a position [N, L], and the share of the score that it holds."""
    nothing = torch.full((len(own),), torch.nan, dtype=torch.float64)
    if explainer.method is None:
        return torch.rand(own.batch[:, 0].shape, generator=own.generator(1 if model is None else 2)), nothing
    baseline = "background" if explainer.baseline == "blur" else explainer.baseline
    found = explain_sequences(model or own.model, own.batch, explainer.method, 0, baseline)  # type: ignore[arg-type]
    score = found.ledger.output - found.ledger.output_baseline
    return found.relevance.detach().sum(1), found.ledger.pixels / score if explainer.method.conserves else nothing


def measured(
    network: str, whole: Subject, had: set[tuple[str, int]], others: bool = False
) -> Iterator[dict[str, object]]:
    """A row a chunk of pictures and method; the chunks that are there already are left out."""
    size = CHUNK.get(network, 100)
    for start in range(0, len(whole), size):
        own = part(whole, start, size)
        for explainer in candidates(network):
            if (explainer.name, start) in had or (network[0] == "E" and (explainer.name not in FIRST) != others):
                continue
            sequences = network == "motifs.onnx"
            found = tried_on_sequences(own, explainer) if sequences else tried(alone(own), explainer)
            values = {name: getattr(found, name).tolist() for name in ("most", "least", "inside", "shown")}
            yield {"method": explainer.name, "start": start, "seconds": found.seconds, **values}


def sanity(network: str, whole: Subject, had: set[str]) -> Iterator[dict[str, object]]:
    """A row a method: how like the original the map stays as layers are randomised, each picture's mean over depths."""
    count, depths = SANITY.get(network, (16, None))
    own = part(whole, 0, count)
    for explainer in candidates(network):
        if explainer.name in had:
            continue
        row: dict[str, object] = {"method": explainer.name}
        if network == "motifs.onnx":
            layers = tuple(reversed(layers_of(own.model.graph(own.batch.shape))))
            original = sequence_maps(own, explainer)[0]
            for order in ("cascading", "independent"):
                chosen = [layers[: i + 1] if order == "cascading" else layers[i : i + 1] for i in range(len(layers))]
                ranks = [
                    rank_correlation(original, sequence_maps(own, explainer, with_random(own.model, some, 0))[0]).abs()
                    for some in chosen
                ]
                row[order] = torch.stack(ranks).mean(0).tolist()
        else:
            for order in ("cascading", "independent"):
                found = randomisation(own, explainer, order == "cascading", 0, depths)
                row[order] = found.rank.abs().mean(1).tolist()
                row[f"{order}, SSIM"] = found.ssim.mean(1).tolist()
                row[f"{order}, |map|"] = found.absolute_rank.mean(1).tolist()
        yield row


def rows(file: Path) -> list[dict[str, object]]:
    """The lines of a file, or none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def measure(args: argparse.Namespace) -> None:
    """Add what is missing of one network."""
    torch.set_num_threads(1)
    whole = NETWORKS[args.network](args.data, args.count)
    masked = len(whole.masked)
    about = {"pictures": len(whole), "masks": masked, "names": whole.names if args.network[0] == "E" else ()}
    (args.cache / f"{args.network}.about.json").write_text(json.dumps(about))
    print(f"{args.network}: {len(whole)} pictures, {masked} with a mask", file=sys.stderr)
    tasks = {"tries": measured, "sanity": sanity}
    for task in args.tasks:
        file = args.cache / f"{args.network}.{task}.jsonl"
        had = {(r["method"], r["start"]) if task == "tries" else r["method"] for r in rows(file)}
        more = {"others": args.others} if task == "tries" else {}
        for row in tasks[task](args.network, whole, had, **more):
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(f"  {task} {row['method']} {row.get('start', '')} {row.get('seconds', '')}", file=sys.stderr)


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("default"), help="what was measured")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("network", choices=list(NETWORKS))
    one.add_argument("--data", type=Path, default=Path("data"))
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--tasks", nargs="+", choices=["tries", "sanity"], default=["tries", "sanity"])
    one.add_argument("--others", action="store_true", help="the large network: the methods that can wait")
    commands.add_parser("page")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.command == "measure":
        measure(args)
        return
    found = {
        name: {
            "about": json.loads((args.cache / f"{name}.about.json").read_text()),
            **{task: rows(args.cache / f"{name}.{task}.jsonl") for task in ("tries", "sanity")},
        }
        for name in NETWORKS
        if (args.cache / f"{name}.about.json").is_file()
    }
    for name, own, write in (
        ("DEFAULT.md", [n for n in NETWORKS if n not in HELD_OUT], page),
        ("HELD_OUT.md", HELD_OUT, partial(held_out, chosen="lrp-eps@blur")),
    ):
        there = {network: found[network] for network in own if network in found}
        if there and (own is HELD_OUT or len(there) == len(own)):
            (HERE / name).write_text(write(there), encoding="utf-8")
            print(f"wrote {HERE / name}")


if __name__ == "__main__":
    main()
