"""The sections of EXPERIMENTS.md, from what `measure.py` measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatcli.evaluate.run import resampled

Found = dict[str, Any]
PAPER = {"8→3": 1.26, "8→6": 1.20, "9→1": 1.17, "4→1": 1.11}
"""Shrikumar et al. 2017, fig. 4: medians of reveal-cancel over input×gradient, read off the boxplots."""

BASE, CANCEL, INTEGRATED = "input-x-gradient@black", "deeplift-reveal-cancel@black", "integrated-gradients@black"


def compared(falls: Found) -> dict[str, dict[str, dict[str, float]]]:
    """By method and pair: the median, and its ratio to input×gradient's with a paired bootstrap interval."""

    def ratio(x: np.ndarray, axis: int = 0) -> np.ndarray:
        middle = np.median(x, axis=axis)
        return middle[:1] / middle[1:]

    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, own in falls.items():
        rows[name] = {}
        for pair in PAPER:
            both = np.stack([own[pair], falls[BASE][pair]], 1)
            low, high = resampled(both, 0, ratio, times=1000)[:, 0]
            rows[name][pair] = {"images": len(both), "median": float(np.median(both[:, 0])),
                                "ratio": float(ratio(both)[0]), "low": float(low), "high": float(high)}  # fmt: skip
    return rows


def morph_section(found: Found) -> str:
    """The morph table, beside the paper's."""
    rows, pairs = compared(found), list(PAPER)
    counts = ", ".join(f"{pair}: {rows[BASE][pair]['images']:.0f}" for pair in pairs)
    lines = [f"| method | {' | '.join(pairs)} | seconds |", "|---|" + "---|" * (len(pairs) + 1)]
    order = sorted(rows, key=lambda name: -sum(rows[name][pair]["ratio"] for pair in pairs))
    for name in order:
        cells = (f"{r['median']:.1f} (×{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}])" for r in
                 (rows[name][pair] for pair in pairs))  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} | {found[name]['seconds']} |")
    paper = " | ".join(f"×{PAPER[pair]:.2f}" for pair in pairs)
    lines.append(f"| *paper: reveal-cancel ÷ input×gradient* | {paper} | |")
    return (
        "## Morph: the DeepLIFT digit experiment\n\n"
        "`digits.onnx`; up to 20% of the pixels, those that speak most for A rather than B (positive differences of the "
        "two classes' relevance), turn black. Median fall of the log-odds of A over B, and its ratio to "
        f"`input-x-gradient`'s with a paired 95% bootstrap interval. Test digits predicted as A, of the first 1,000 ({counts}).\n\n"
        + "\n".join(lines)
        + "\n\n"
        + morph_claims(rows, pairs)
    )


def morph_claims(rows: Found, pairs: Sequence[str]) -> str:
    """Which of the paper's findings hold, by the numbers."""

    def ratios(name: str) -> list[dict[str, float]]:
        return [rows[name][pair] for pair in pairs] if name in rows else []

    lines = ["Shrikumar et al. 2017, fig. 4:", ""]
    cancel = ratios(CANCEL)
    if cancel:
        paper = [
            n
            for n in (BASE, INTEGRATED, "deeplift-rescale@black", CANCEL, "guided-backprop", "sensitivity")
            if n in rows
        ]
        best = [pair for pair in pairs if max(paper, key=lambda n: rows[n][pair]["median"]) == CANCEL]
        lines.append(_claim(len(best) == len(pairs), "reveal-cancel is the best of the paper's methods",
                            f"it has the highest median for {', '.join(best) or 'no pair'}"))  # fmt: skip
        apart = ", ".join(
            f"{pair} {r['ratio']:.2f} (paper {PAPER[pair]:.2f})" for pair, r in zip(pairs, cancel, strict=True)
        )
        lines.append(_claim(all(r["low"] > 1 for r in cancel), "reveal-cancel above input×gradient", apart))
    integrated = ratios(INTEGRATED)
    if integrated:
        near = all(abs(r["ratio"] - 1) <= 0.1 for r in integrated)
        lines.append(_claim(near, "integrated gradients about equal to input×gradient (within a tenth)",
                            ", ".join(f"{pair} {r['ratio']:.2f}" for pair, r in zip(pairs, integrated, strict=True))))  # fmt: skip
    for name, title in (
        ("guided-backprop", "guided backprop below"),
        ("sensitivity", "squared gradient (|gradient| in the paper) below"),
    ):
        own = ratios(name)
        if own:
            lines.append(_claim(all(r["high"] < 1 for r in own), f"{title} input×gradient",
                                ", ".join(f"{pair} {r['ratio']:.2f}" for pair, r in zip(pairs, own, strict=True))))  # fmt: skip
    return "\n".join(lines) + "\n"


def _claim(holds: bool, claim: str, measured: str) -> str:
    return f"- {claim}: **{'holds' if holds else 'does not hold'}** here. {measured}."


def _table(found: Found, columns: Sequence[str], order_by: str) -> str:
    own: dict[str, Found] = {}
    for row in found["rows"]:
        own.setdefault(row["method"], {})[row["column"]] = row
    lines = [f"| method | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in sorted(own, key=lambda n: -own[n][order_by]["mean"]):
        cells = (f"{r['mean']:.3g} [{r['low']:.3g}, {r['high']:.3g}]" for r in (own[name][c] for c in columns))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(found: Found, method: str, column: str) -> float | None:
    return next((r["mean"] for r in found["rows"] if r["method"] == method and r["column"] == column), None)


def aopc_section(found: Found) -> str:
    """AOPC, beside Samek's order."""
    pairs = (("lrp-eps", "deconvnet"), ("lrp-alpha2-beta1", "deconvnet"), ("deconvnet", "sensitivity"),
             ("lrp-eps", "sensitivity"), ("lrp-alpha2-beta1", "sensitivity"), ("lrp-z-plus", "deconvnet"),
             ("deeplift-reveal-cancel", "deconvnet"), ("deeplift-reveal-cancel", "sensitivity"))  # fmt: skip
    lines = [
        f"- `{upper}` above `{lower}`: AOPC {_apart(found, upper, lower, 'AOPC')}; area between the orders "
        f"{_apart(found, upper, lower, 'area between')}."
        for upper, lower in pairs
    ]
    return (
        "## AOPC: pixel flipping on the animals\n\n"
        f"`animals.pt`, the {found['images']} sample pictures, regions of 9×9 replaced by uniform noise, in units of the "
        "score (a logit); 19 steps, which is the share of the picture that the paper's 100 steps were. Mean with 95% "
        "bootstrap interval.\n\n"
        + _table(found, ["AOPC", "AOPC least first", "area between"], "AOPC")
        + "\n\nSamek et al. 2015 (ImageNet, SUN397 and Places networks): LRP above deconvnet above sensitivity. On 500 and "
        "more pictures of each of five networks: [DEFAULT.md](DEFAULT.md). Here, by the difference picture by picture with "
        "its 95% interval:\n\n"
        + "\n".join(lines)
        + "\n\nMaps of both signs (gradient, LRP-ε, α2β1) do not keep the score when their least relevant regions go "
        "first: these are strongly negative ones, which matter too. Maps without negative parts (z⁺, deep Taylor, "
        "sensitivity) rank the background last, so the area between the orders favours them.\n\n"
        "![Score as regions are replaced](pixel-flipping.png)\n"
    )


def _apart(found: Found, upper: str, lower: str, column: str) -> str:
    """How much one method is above another over the same pictures, and whether that is more than chance."""
    a, b = (next(r["values"] for r in found["rows"] if r["method"] == name and r["column"] == column)
            for name in (upper, lower))  # fmt: skip
    apart = np.asarray(a) - np.asarray(b)
    low, high = resampled(apart[:, None])[:, 0]
    verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
    return f"{apart.mean():+.2f} [{low:.2f}, {high:.2f}], **{verdict}**"


def sanity_section(found: Found) -> str:
    """Sanity checks of every method."""
    columns = ["cascading", "independent", "all random", "cascading, SSIM", "independent, SSIM"]

    def listed(kept: bool) -> str:
        rows = [r for r in found["rows"] if r["column"] == "cascading" and r["method"] not in ("edges", "random")]
        names = [r["method"] for r in sorted(rows, key=lambda r: -r["mean"]) if (r["mean"] > 0.4) == kept]
        return ", ".join(f"`{name}`" for name in names) or "none"

    return (
        "## Sanity checks: randomised layers\n\n"
        f"`animals.pt`, {found['images']} sample pictures. Layers are randomised (their weights shuffled) from the top, "
        "cascading or each alone; how like the original is the map after that? |rank correlation| and SSIM, means over "
        "layers and pictures with 95% bootstrap intervals; `all random`: with every layer random.\n\n"
        + _table(found, columns, "cascading")
        + "\n\nAdebayo et al. 2018: guided backprop and guided Grad-CAM hardly change; gradient, SmoothGrad and Grad-CAM "
        "do. Sixt et al. 2020: LRP that lets only positive contributions pass (z⁺, deep Taylor) does not change but for "
        f"its sign. Above 0.4 while layers cascade, so failing the default check: {listed(True)}. Below: {listed(False)}. "
        "Where a map is a product with the picture or a difference from a baseline, |map| and SSIM stay high because the "
        "picture is in it; the signs are lost all the same.\n\n"
        "![Likeness after each layer](randomisation.png)\n"
    )


def location_section(found: Found) -> str:
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
        "of the score's change under removed squares the map fails to foretell (0: none). A map that is positive everywhere "
        "foretells that more is lost where more is removed: the random map's figure is what a method has to beat.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def guided_section(found: Found) -> str:
    """Training with relevance."""
    runs = found["runs"]
    rows = [
        ("accuracy, mean of the classes", "accuracy"), ("the 14 other animals", "other_animals"),
        ("wolf on snow, dog on grass", "as_trained"), ("**swapped**: wolf on grass, dog on snow", "swapped"),
        ("dog on snow called wolf", "dog_on_snow_called_wolf"), ("wolf on grass called dog", "wolf_on_grass_called_dog"),
        ("wolf and dog on sand, water, photograph", "elsewhere"), ("training, seconds", "seconds"),
    ]  # fmt: skip
    first = runs["plain"]
    lines = [f"| | {' | '.join(runs)} |", "|---|" + "---|" * len(runs)]
    for title, key in rows:
        lines.append(f"| {title} | {' | '.join(f'{r[key]:.3g}' for r in runs.values())} |")
    for key in first["inside"]:
        method, which = key.split(", ")
        cells = " | ".join(
            f"{r['inside'][key][0]:.2f}{'*' if method == r['trained_on'] else ''}" for r in runs.values()
        )
        lines.append(f"| inside mask, mean: `{method}`, {which} | {cells} |")
    return (
        f"## Training with relevance\n\nThe shortcut's pictures (wolves always on snow, dogs always on grass), "
        f"{found['steps']} steps of {found['batch']} pictures each, far fewer than `animals.pt` had, plain and with a "
        f"penalty: the share of |relevance| outside the animal for {found['guided_images']} pictures of each batch, by "
        f"the method and with the weight in the heading (`python models/train_guided.py --steps {found['steps']} "
        "--method NAME --weights W`; masks are used at training time only). Measured on the held-out drawings; "
        f"inside-mask on {first['pictures']} wolves and dogs on all backgrounds (the animal covers "
        f"{100 * first['area_inside']:.0f}%), by methods that were not trained on, too; * marks the one that was.\n\n"
        + "\n".join(lines) + "\n\n" + guided_claims(runs)
    )  # fmt: skip


def guided_claims(runs: Found) -> str:
    """What the penalty did, by the numbers."""
    plain, lines = runs["plain"], []
    for name, run in runs.items():
        if name == "plain":
            continue
        others = [k for k in run["inside"] if k.endswith("true class") and k.split(", ")[0] != run["trained_on"]]
        gain = float(np.mean([run["inside"][k][0] - plain["inside"][k][0] for k in others]))
        cured = run["swapped"] - plain["swapped"]
        aside = run["other_animals"] - plain["other_animals"]
        verdict = "the shortcut is mostly gone" if run["swapped"] >= 0.5 else "the shortcut is not cured"
        if run["swapped"] < 0.5 and gain > 0.05:
            verdict += ", though the heatmaps, those of methods not trained on too, moved onto the animal: the penalty "
            verdict += "games the measure"
        lines.append(
            f"- `{name}`: relevance inside the animal by methods not trained on {gain:+.2f}; accuracy on swapped "
            f"backgrounds {cured:+.2f}, on the other animals {aside:+.2f}; {verdict}."
        )
    return "\n".join(lines) + "\n"
