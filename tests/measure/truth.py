"""Whether what heatcli explains is what is deployed: writes TRUTH.md beside this file.

    python tests/measure/truth.py graphs [--seeds 2000] [--jobs 1] [--formats A,B]
    python tests/measure/truth.py architectures [--all]
    python tests/measure/truth.py page
    python tests/measure/truth.py show SEED
    python tests/measure/truth.py shrink SEED FORMAT

Needs torchvision, timm, onnx, onnxruntime and onnxscript. Rows that are in the results folder already are kept (delete
it to start anew).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent / "coverage")]

HERE = Path(__file__).parent
PAGE = HERE / "TRUTH.md"
ROUNDING = 1e-4  # of the largest output
SAME = 1e-5  # of the largest output: within it, two modules compute one function
MAP = 1e-3  # of the largest gradient
NOTHING = 1e-6  # of the largest output: a gradient that is 0 but for rounding
AMPLIFIED = 100.0  # times what rounding the input changes
SLOW = 5  # formats that take seconds to write are written of each fifth network
CHUNK = 20  # networks a process
OUTCOMES = ("right", "refused", "caught", "wrong", "internal", "not exported", "not run")
TITLES = {
    "right": "explained and right", "refused": "refused", "caught": "caught", "wrong": "silently wrong",
    "internal": "internal errors", "not exported": "not exported", "not run": "not run by its runtime",
}  # fmt: skip
DOZEN = (
    "torchvision:resnet18", "torchvision:densenet121", "torchvision:googlenet", "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x1_0",
    "torchvision:mnasnet1_0", "torchvision:efficientnet_b0", "torchvision:regnet_y_400mf", "torchvision:convnext_tiny",
    "timm:legacy_seresnet18", "torchvision:swin_t",
)  # fmt: skip

Row = dict[str, Any]
Write = Callable[[Any, Any, Path], None]


# --- formats ------------------------------------------------------------------------------------------------------


def _scripted(module: Any, x: Any, path: Path) -> None:  # noqa: ARG001 - writers share one signature
    import torch

    torch.jit.script(module).save(str(path))


def _traced(module: Any, x: Any, path: Path) -> None:
    import torch

    torch.jit.trace(module, x, check_trace=False).save(str(path))


def _frozen(module: Any, x: Any, path: Path) -> None:
    import torch

    torch.jit.freeze(torch.jit.trace(module, x, check_trace=False)).save(str(path))


def _pt2(module: Any, x: Any, path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.export.save(torch.export.export(module, (x,)), file)


def _onnx(module: Any, x: Any, path: Path) -> None:
    import torch

    axes = {"x": {0: "n"}}
    torch.onnx.export(
        module, (x,), str(path), opset_version=17, dynamo=False, verbose=False, input_names=["x"], dynamic_axes=axes
    )


def _onnx_new(module: Any, x: Any, path: Path) -> None:
    import torch

    torch.onnx.export(module, (x,), str(path), opset_version=18, dynamo=True, external_data=False, verbose=False)


FORMATS: dict[str, Write] = {
    "scripted": _scripted, "traced": _traced, "frozen": _frozen, "pt2": _pt2, "onnx 17": _onnx,
    "onnx 18 new": _onnx_new,
}  # fmt: skip
SLOW_FORMATS = ("frozen", "pt2", "onnx 18 new")
PASSES_OF = ("traced", "onnx 17")  # formats whose graphs each pass is tried on


def runtime(path: Path, form: str) -> Callable[[Any], Any]:
    """The artifact on its own runtime: from a batch to its first output."""
    import torch

    if form.startswith("onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
    module = torch.export.load(path).module() if form == "pt2" else torch.jit.load(str(path))

    def run(x: Any) -> Any:
        with torch.no_grad():
            found = module(x.clone())
        return found if isinstance(found, torch.Tensor) else next(iter(found))

    return run


# --- one artifact -------------------------------------------------------------------------------------------------


def measured(
    module: Any, form: str, batches: Sequence[Any], exact: Callable[[], Any] | None = None, passes: bool = True
) -> Row:
    """One artifact of a module, exported on the first batch, explained on the others; `exact` makes the module anew.

    Its outcome, as `OUTCOMES` names it, and with `exact` what became of its gradient and, with `passes`, of its graph
    under each pass.
    """
    import torch

    import heatcli
    from heatcli.errors import HeatcliError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{'onnx' if 'onnx' in form else 'pt2' if form == 'pt2' else 'pt'}"
        try:
            with torch.no_grad():
                FORMATS[form](module, batches[0].clone(), path)
        except Exception as error:  # whatever exporters raise
            return {"outcome": "not exported", "why": _line(error)}
        try:
            run = runtime(path, form)
            truths = [run(x) for x in batches[1:]]
        except Exception as error:  # whatever runtimes raise
            return {"outcome": "not run", "why": _line(error)}
        if not all(bool(torch.isfinite(truth).all()) for truth in truths):
            return {"outcome": "not run", "why": "its output is not finite"}
        if all(_apart(truth, truths[0]) == 0 for truth in truths):  # exporters lose some writes in place
            return {"outcome": "not run", "why": "its output is the same for all inputs"}
        try:
            model = heatcli.load(path, size=tuple(batches[0].shape[2:]), channels=batches[0].shape[1], unverified=True)
            results = [heatcli.explain(model, x.clone(), "gradient", target=0) for x in batches[1:]]
        except HeatcliError as error:
            return {"outcome": "refused", "why": str(error).replace(str(path), "FILE")}
        except Exception as error:
            return {"outcome": "internal", "why": _line(error)}
        row: Row = {"outcome": "right", "error": 0.0}
        for x, truth, result in zip(batches[1:], truths, results, strict=True):
            off = _apart(result.outputs, truth)
            row["error"] = max(row["error"], off)
            if off > ROUNDING and off > AMPLIFIED * _apart(run(_rounded(x)), truth):
                verified = result.verified
                said = verified is not None and not verified.agrees
                row["outcome"] = "caught" if said or _is_refused(path, x) else "wrong"
        if exact is not None and row["outcome"] == "right":
            row["map"] = map_of(exact, batches[1], results[0], truths[0])
            if passes and form in PASSES_OF:
                row["passes"] = _passes(path, batches[1])
        return row


def _is_refused(path: Path, x: Any) -> bool:
    """Whether heatcli refuses the artifact for these inputs as its users run it, with its own comparison."""
    import heatcli

    try:
        heatcli.explain(
            heatcli.load(path, size=tuple(x.shape[2:]), channels=x.shape[1]), x.clone(), "gradient", target=0
        )
    except heatcli.ModelError:
        return True
    return False


def map_of(exact: Callable[[], Any], x: Any, result: Any, truth: Any = None) -> str:
    """Whether the gradient is that of the eager module in float64: "right", "wrong", or why nobody can tell.

    `truth`: the artifact's output, by default that explained.
    """
    import torch

    module, truth = exact().double(), result.outputs if truth is None else truth
    try:
        with torch.no_grad():
            if _apart(module(x.double().clone()), truth) > SAME:
                return "another function than the eager module"
    except RuntimeError:
        return "the eager module does not run in float64"
    found = result.relevance.double()

    def score(y: Any) -> Any:
        return module(y * 1.0)[:, 0].sum()

    try:
        leaf = x.double().requires_grad_()
        (gradient,) = torch.autograd.grad(score(leaf), leaf)
        off = float((found - gradient).abs().max())
        if off <= max(MAP * float(gradient.abs().max()), NOTHING * float(truth.abs().max())):
            return "right"
    except RuntimeError:
        pass  # autograd cannot follow some writes in place
    return _by_differences(score, x.double().detach(), found)


def _by_differences(score: Callable[[Any], Any], x: Any, found: Any) -> str:
    """The same by differences of the score along random directions, where it has a derivative."""
    import torch

    size, answers = 1e-6, []
    with torch.no_grad():
        for number in range(4):
            generator = torch.Generator().manual_seed(number)
            way = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            middle, after, before = score(x), score(x + size * way), score(x - size * way)
            right, left, own = (after - middle) / size, (middle - before) / size, (found * way).sum()
            scale = float((found * way).pow(2).sum().sqrt()) + float(right.abs()) + 1e-9
            if float((right - left).abs()) > MAP * scale:
                return "no derivative there"
            answers.append(float((own - (right + left) / 2).abs()) <= 3 * MAP * scale)
    return "right" if all(answers) else "wrong"


def _passes(path: Path, x: Any) -> dict[str, float]:
    """By pass: how far it takes the graph's output off, in units of what is allowed; of one image and of all."""
    import heatcli
    from heatcli.engine.values import output_of
    from heatcli.errors import ModelError
    from heatcli.graph.passes import KEEPING_OUTPUT, PASSES, apply

    model = heatcli.load(path, size=tuple(x.shape[2:]), channels=x.shape[1], passes=(), unverified=True)
    found: dict[str, float] = {}
    for batch in (x[:1], x):
        try:
            graph = model.graph(batch.shape)
        except ModelError:  # not a number of images that it takes
            continue
        truth = output_of(graph, batch)
        allowed = max(ROUNDING, AMPLIFIED * _apart(output_of(graph, _rounded(batch)), truth))
        for names in (*([name] for name in PASSES if name in KEEPING_OUTPUT), ["centre-logits"], KEEPING_OUTPUT):
            name = "all together" if names is KEEPING_OUTPUT else names[0]
            if name == "centre-logits" and truth.dim() != 2:  # of scores alone
                continue
            expected = truth - truth.mean(1, keepdim=True) if name == "centre-logits" else truth
            off = _apart(output_of(apply(graph, names), batch), expected) / allowed
            found[name] = max(found.get(name, 0.0), round(off, 4))
    return found


def _rounded(x: Any) -> Any:
    import torch

    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return x * (1 + torch.finfo(x.dtype).eps * noise)


def _apart(found: Any, expected: Any) -> float:
    if found.shape != expected.shape:
        return float("inf")
    a, b = found.detach().double(), expected.detach().double()
    off, largest = float((a - b).abs().max()), float(b.abs().max())
    off = off if off == off else float("inf")
    return off / largest if largest > 0 else off


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    inner = [line for line in lines if line.startswith(("RuntimeError:", "ValueError:"))]
    return f"{type(error).__name__}: {(inner or lines)[-1 if inner else 0][:200]}"


def one(seed: int, form: str, passes: bool = True) -> Row:
    """One random network in one format; `passes`: its graph's passes, too, one by one."""
    from random_graphs import compiled, inputs, network

    net = network(seed)
    plain = net.source.replace(".detach()", "")  # autograd stops there; the function does not
    batches = [inputs(seed, 0), inputs(seed, 1), 1.5 * inputs(seed, 2)]
    row = measured(net.module(), form, batches, lambda: compiled(plain, seed), passes)
    return {"seed": seed, "format": form, "steps": [step.name for step in net.steps[:-1]], **row}


# --- all of them --------------------------------------------------------------------------------------------------


def _wanted(seeds: Iterable[int], formats: Sequence[str], known: set[tuple[int, str]]) -> list[tuple[int, str]]:
    return [
        (seed, form) for seed in seeds for form in formats
        if (seed, form) not in known and not (form in SLOW_FORMATS and seed % SLOW)
    ]  # fmt: skip


def graphs(folder: Path, seeds: range, formats: Sequence[str], jobs: int) -> None:
    """Measure what is missing, some networks a process."""
    results, lock = folder / "graphs.jsonl", Lock()
    wanted = _wanted(seeds, formats, {(row["seed"], row["format"]) for row in rows_of(results)})
    by_chunk: dict[int, list[tuple[int, str]]] = {}
    for seed, form in wanted:
        by_chunk.setdefault(seed // CHUNK, []).append((seed, form))

    def chunk(pairs: list[tuple[int, str]]) -> None:
        """Those networks in a process; where it dies, that is the outcome of the one it was at; the rest follows."""
        while pairs:
            command = [sys.executable, __file__, "these", json.dumps(pairs)]
            with (
                tempfile.TemporaryFile("w+") as told,
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True) as process,
            ):
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("{"):
                        pairs = pairs[1:]
                        with lock, results.open("a") as file:
                            file.write(line)
                process.wait()
                told.seek(0)
                last = (told.read().strip().splitlines() or ["no word"])[-1][:200]
            if pairs:
                (seed, form), *pairs = pairs
                why = f"the process died: {last}"
                row = {"seed": seed, "format": form, "steps": [], "outcome": "internal", "why": why}
                with lock, results.open("a") as file:
                    file.write(json.dumps(row) + "\n")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(chunk, by_chunk.values()))


def these(pairs: Iterable[tuple[int, str]]) -> None:
    """Measure these networks; one JSON row a line on stdout."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = sys.stdout
    for seed, form in pairs:
        with contextlib.redirect_stdout(io.StringIO()):  # exporters print whole graphs
            row = one(seed, form)
        print(json.dumps(row), file=out, flush=True)


def architectures(folder: Path, names: Sequence[str]) -> None:
    """Measure known architectures at their size, scripted, traced and by the old exporter."""
    import torch
    from architectures import all_architectures, build
    from networks import calibrated, randomised

    warnings.simplefilter("ignore")
    results = folder / "architectures.jsonl"
    known = {(row["architecture"], row["format"]) for row in rows_of(results)}
    for name in names:
        size = all_architectures()[name]
        for form in ("scripted", "traced", "onnx 17"):
            if (name, form) in known:
                continue
            with torch.no_grad():
                module = calibrated(randomised(build(name, size), 1), size)
            batches = [torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(n)) for n in range(3)]
            row = {"architecture": name, "format": form, "size": size, **measured(module, form, batches)}
            print(row, flush=True)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")


def rows_of(path: Path) -> list[Row]:
    """The rows of a file of results; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- the page -----------------------------------------------------------------------------------------------------


def page(folder: Path) -> str:
    """The page of all results."""
    found, known = rows_of(folder / "graphs.jsonl"), rows_of(folder / "architectures.jsonl")
    seeds = len({row["seed"] for row in found})
    return "\n".join([
        "# What is explained is what is deployed", "", *_wrapped(
            "Written by `python tests/measure/truth.py`. Each artifact is run on its own runtime by that script, and "
            "explained with `unverified=True`, so that heatcli's own comparison hides nothing. *Right*: the outputs "
            f"explained are those of the runtime, to {ROUNDING:g} of the largest output or {AMPLIFIED:g} times what "
            "rounding the input changes, on inputs that nothing was exported or captured on. *Refused*: one line says "
            "why. *Caught*: the outputs differ and heatcli's own comparison says so; users get a refusal. *Silently "
            "wrong*: they differ and it does not say so. What was not exported, or what its own runtime does not run, "
            "or whose output is the same for all inputs, is not counted: heatcli has nothing to be compared with."
        ), "",
        f"## Random networks: {seeds:,}", "", *_wrapped(
            "`tests/support/random_graphs.py` draws 3 to 9 steps from a grammar of layers, norms, activations, pools, pads, "
            "resizes, views, products, attention, recurrences and writes in place. Two images of 3 × 9 × 9. "
            f"{', '.join(SLOW_FORMATS)}: of every {SLOW}th network."
        ), "",
        *_table("format", found, lambda row: [row["format"]], list(FORMATS)), "",
        "### By sort of step", "", "An artifact counts for every sort of step that it has.", "",
        *_table("step", found, lambda row: sorted(set(row["steps"]))), "",
        "### Why refused", "", *_reasons(found, ("refused", "internal")), "",
        "### Silently wrong or caught", "", *_faults(found), "",
        "### Why not compared", "", *_reasons(found, ("not exported", "not run"), most=12), "",
        "### Gradients", "", *_wrapped(
            "The map of method `gradient` against autograd of the eager module in float64, or, where autograd cannot "
            f"tell, against differences of its score: to {MAP:g} of the largest."
        ), "",
        *_counts(Counter((row["map"], row["format"]) for row in found if "map" in row)), "",
        *[f"- seed {row['seed']}, {row['format']}: wrong" for row in found if row.get("map") == "wrong"], "",
        "### Graph passes", "", *_wrapped(
            f"Each pass alone, and all together, on the graphs as captured of one image and of two: "
            f"{' and '.join(PASSES_OF)}. `centre-logits` is compared with its closed form."
        ), "",
        *_pass_table(found), "",
        "## Architectures", "", "Random weights, at the sizes of the coverage table.", "",
        *(_table("format", known, lambda row: [row["format"]], list(FORMATS)) if known else ["Not measured."]), "",
        *[f"- {row['architecture']}, {row['format']}: {row['outcome']}{': ' + row['why'] if 'why' in row else ''}"
          for row in known if row["outcome"] != "right"], "",
        "## The standard's operator tests", "", *_standard(), "",
    ])  # fmt: skip


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120)


def _table(
    title: str, found: Sequence[Row], of: Callable[[Row], list[str]], order: Sequence[str] | None = None
) -> list[str]:  # fmt: skip
    """Outcomes by what `of` says of a row, and in all."""
    counts = Counter((key, row["outcome"]) for row in found for key in of(row))
    keys = [key for key in order or sorted({key for key, _ in counts}) if any((key, o) in counts for o in OUTCOMES)]
    lines = [
        f"| {title} | tried | " + " | ".join(TITLES[o] for o in OUTCOMES) + " | right of all that run |",
        "|---|" + "---:|" * (len(OUTCOMES) + 2),
    ]
    total = Counter(row["outcome"] for row in found)
    for key, count in [*((key, {o: counts[key, o] for o in OUTCOMES}) for key in keys), ("**all**", total)]:
        ran = sum(count[o] for o in OUTCOMES[:5])
        share = f"{count['right'] / ran:.1%}" if ran else ""
        cells = [f"{sum(count[o] for o in OUTCOMES):,}", *(f"{count[o]:,}" for o in OUTCOMES), share]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return lines


def _reasons(found: Sequence[Row], outcomes: Sequence[str], most: int | None = None) -> list[str]:
    counts = Counter((row["outcome"], _reason(row["why"])) for row in found if row["outcome"] in outcomes)
    if not counts:
        return ["None was."]
    lines = ["| outcome | why | artifacts |", "|---|---|---:|"]
    lines += [f"| {o} | {why.replace('|', chr(92) + '|')} | {n} |" for (o, why), n in counts.most_common(most)]
    rest = counts.total() - sum(n for _, n in counts.most_common(most))
    return [*lines, *([f"| | others | {rest} |"] if rest else [])]


def _reason(text: str) -> str:
    """A refusal without the file and the numbers of its operators."""
    text = re.sub(r"\x1b\[\d*m", "", text.removeprefix("FILE: "))
    text = re.sub(r"(_\d+)+\b", "", re.sub(r'node "[^"]*"', "a node", text))
    return re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "#", text)


def _faults(found: Sequence[Row]) -> list[str]:
    wrong = [row for row in found if row["outcome"] in ("wrong", "caught")]
    lines = [f"- seed {r['seed']}, {r['format']}: {r['outcome']}, {r['error']:.2g} off" for r in wrong]
    return lines or ["None is."]


def _counts(counts: Counter[tuple[str, str]]) -> list[str]:
    keys = sorted({key for key, _ in counts})
    lines = ["| gradient | " + " | ".join(FORMATS) + " |", "|---|" + "---:|" * len(FORMATS)]
    return lines + [f"| {key} | " + " | ".join(f"{counts[key, form]:,}" for form in FORMATS) + " |" for key in keys]


def _pass_table(found: Sequence[Row]) -> list[str]:
    rows = [row["passes"] for row in found if "passes" in row]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| pass | graphs | output unchanged to rounding |", "|---|---:|---:|"]
    having = {name: [row[name] for row in rows if name in row] for name in names}
    return lines + [f"| {name} | {len(offs):,} | {sum(off <= 1 for off in offs):,} |" for name, offs in having.items()]


def _standard() -> list[str]:
    """The summary of the page on ONNX: what it says before its first section."""
    onnx = HERE / "ONNX.md"
    if not onnx.exists():
        return ["Not measured."]
    text = onnx.read_text(encoding="utf-8").split("\n## ")[0].splitlines()
    return [*(line for line in text if not line.startswith("# ")), "", "All of it: [ONNX.md](ONNX.md)."]


# --- looking closer -----------------------------------------------------------------------------------------------


def shrink(seed: int, form: str) -> str:
    """The network of that seed less all steps that its outcome does not need."""
    from random_graphs import Network, compiled, inputs, network, without

    def outcome(net: Network) -> tuple[str, str, str, bool]:
        plain = net.source.replace(".detach()", "")
        batches = [inputs(seed, 0), inputs(seed, 1), 1.5 * inputs(seed, 2)]
        row = measured(net.module(), form, batches, lambda: compiled(plain, seed))
        off = any(value > 1 for value in row.get("passes", {}).values())
        return row["outcome"], _reason(row.get("why", "")), row.get("map", ""), off

    net = network(seed)
    wanted = outcome(net)
    index = 0
    while index < len(net.steps) - 1:
        less = without(net, index)
        if less is not None and outcome(less) == wanted:
            net = less
        else:
            index += 1
    return f"{net.source}\n# {wanted}\n"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "heatcli-truth")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("graphs", help="random networks in all formats")
    command.add_argument("--seeds", type=int, default=2000)
    command.add_argument("--first", type=int, default=0)
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument("--formats", default=",".join(FORMATS))
    command = commands.add_parser("architectures", help="known architectures")
    command.add_argument("--all", action="store_true", help="all of the coverage table, not a dozen")
    commands.add_parser("page", help="write TRUTH.md from what was measured")
    command = commands.add_parser("show", help="the source of a network")
    command.add_argument("seed", type=int)
    command = commands.add_parser("shrink", help="the smallest part of a network with the same outcome")
    command.add_argument("seed", type=int)
    command.add_argument("format", choices=FORMATS)
    command = commands.add_parser("these")
    command.add_argument("pairs")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, write the page, or show one network."""
    options = parsed()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.command == "these":
        these(json.loads(options.pairs))
    elif options.command == "graphs":
        seeds = range(options.first, options.first + options.seeds)
        graphs(options.results, seeds, options.formats.split(","), options.jobs)
    elif options.command == "architectures":
        from architectures import all_architectures

        architectures(options.results, list(all_architectures()) if options.all else DOZEN)
    elif options.command == "page":
        PAGE.write_text(page(options.results), encoding="utf-8")
    elif options.command == "show":
        from random_graphs import network

        print(network(options.seed).source)
    else:
        warnings.simplefilter("ignore")
        print(shrink(options.seed, options.format))


if __name__ == "__main__":
    main()
