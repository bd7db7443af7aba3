"""Explained models in four runtimes: how far off `explain`, how large, how slow.

`python tests/measure/export.py numbers random operators speed page` measures every backward method on every network,
then `--seeds` random networks, each by one method, then networks of one operator, then what explanations cost, and
writes EXPORT.md beside this file. Rows are kept in `export.jsonl` beside it, or in the file of `--rows`, one a network
and method as soon as it is measured; a later run goes on where it stopped. `--only NAME`: networks whose name holds
NAME; `--methods A,B`: these methods alone.
torchvision's networks have random weights; all are exported on noise and asked about pictures, on one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.fx import GraphModule

sys.path.append(str(Path(__file__).parents[1] / "support"))
import one_operator as one
import random_graphs

from heatcli.errors import HeatcliError, first_line
from heatcli.explanation import explain
from heatcli.export.job import ExportRequest, recording
from heatcli.export.run import opened
from heatcli.export.verify import verify
from heatcli.export.write import OPSET, WRITERS, quiet
from heatcli.methods.method import Method
from heatcli.methods.table import METHODS, method
from heatcli.model.model import Model, load
from heatcli.model.verification import rounded

ROOT = Path(__file__).parents[2]
EMBEDDED = ("digits.onnx", "motifs.onnx", "animals.pt")
TORCHVISION = ("resnet18", "vgg11", "mobilenet_v3_small", "efficientnet_b0", "densenet121")
SPEED = ("digits.onnx", "animals.pt", "resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121")
WALKS = tuple(name for name, one in METHODS.items() if one.kind == "backward")
OTHERS = ("grad-cam", "grad-cam-plus-plus", "layer-cam", "guided-grad-cam", "integrated-gradients")
KINDS = (
    "gradient",
    "guided-backprop",
    "lrp-gamma",
    "lrp-alpha2-beta1",
    "lrp-epsilon-gamma-box",
    "deeplift-reveal-cancel",
    "grad-cam",
)  # what differs most, first
FAST = ("lrp-eps", "lrp-epsilon-plus", "deeplift-rescale")
RANDOM = (
    "gradient", "lrp-eps", "lrp-alpha2-beta1", "lrp-gamma", "deeplift-rescale", "deeplift-reveal-cancel",
    "lrp-epsilon-plus",
)  # fmt: skip
OPERATORS = ("gradient", "lrp-eps")
OUTCOMES = ("right", "refused", "caught", "wrong", "not explained")
RUNTIMES = ("ONNX Runtime", "torch.export", "TorchScript", "OpenVINO")
COUNTS = (1, 8)
FAR = 10  # times as far from float64 as `explain`
RUNS = 15
SMALL, LARGE = 64, 224  # sides of torchvision's inputs, for numbers and for speed


def network(name: str, size: int, folder: Path) -> Model:
    """An embedded model, or one of torchvision's with random weights.

    Batch norms take their statistics from noise. Without them signals fade from layer to layer, so that ε, rounding and
    the slow arithmetic of denormal numbers would be measured.
    """
    if name in EMBEDDED:
        return load(ROOT / "models" / name)
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.get_model(name).train()
    for norm in (layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(4, 3, size, size))
    net.eval()
    file = folder / f"{name}.pt2"
    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.export.export(net, (torch.randn(2, 3, size, size),), dynamic_shapes=({0: batch},))
    torch.export.save(program, file)
    return load(file, size=(size, size), preset="imagenet")


def inputs(model: Model, count: int) -> Tensor:
    """Sample pictures as the model takes them; sequences are drawn."""
    if model.pictures.alphabet:
        return model.capture.noise((count, *model.pictures.input_shape), 100 + count)
    folder = ROOT / "samples" / ("digits" if model.shape[0] == 1 else "")
    return model.preprocess([model.pictures.reader.picture(file) for file in sorted(folder.glob("*.png"))[:count]])


def in_openvino(path: Path, names: tuple[str, ...]) -> Callable[[Tensor], dict[str, Any]]:
    """The ONNX file in OpenVINO, in float32 on the CPU."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: dict(zip(names, compiled([batch.numpy()]).values(), strict=True))


def in_float64(record: GraphModule) -> GraphModule:
    """A copy of a record that computes in float64, from the same weights."""
    double = copy.deepcopy(record).double()
    for node in double.graph.nodes:
        if node.kwargs.get("dtype") == torch.float32:
            node.kwargs = {**node.kwargs, "dtype": torch.float64}
    double.recompile()
    return double


def numbers(model: Model, asked: str, folder: Path) -> dict[str, Any]:
    """What every runtime says, beside `explain`."""
    chosen = method(asked)
    try:
        found = recording(model, ExportRequest(path=folder / "e.onnx", method=chosen))
    except HeatcliError as error:
        return {"refused": str(error)}
    row: dict[str, Any] = {}
    runs: dict[str, Callable[[Tensor], dict[str, Any]]] = {}
    for runtime, suffix in zip(RUNTIMES, (".onnx", ".pt2", ".pt", ""), strict=True):
        if suffix in (".pt2", ".pt") and model.path.name not in EMBEDDED[:2] and asked not in FAST:
            continue  # the same ATen operators as `explain` runs, so a few of them do
        path = folder / f"e{suffix or '.onnx'}"
        try:
            if suffix:
                path.write_bytes(found.content(WRITERS[suffix]))
                one = opened(path)
                runs[runtime] = lambda batch, one=one: one.run({"input": batch})  # type: ignore[misc]
            else:
                runs[runtime] = in_openvino(path, found.note.outputs)
        except Exception as error:  # a runtime's own
            row[runtime] = {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    proto = onnx.load(folder / "e.onnx")
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    row["domains"] = sorted({node.domain for node in proto.graph.node})
    row["MB"] = (folder / "e.onnx").stat().st_size / 1e6
    batches = [inputs(model, count) for count in COUNTS]
    expected = [explain(model, batch, chosen).relevance.numpy() for batch in batches]
    place, double = found.note.outputs.index("relevance"), in_float64(found.record)
    with torch.no_grad():
        truth = [double(batch.double())[place].numpy() for batch in batches]
    row["explain"] = _apart(expected, truth)
    for runtime, run in runs.items():
        said = [run(batch) for batch in batches]
        left = 0.0
        for one in said:
            output, output0, *parts = one["ledger"].T.astype(np.float64)
            rest = np.abs(output - output0 - sum(parts)) / np.maximum(np.abs(output), np.abs(output0))
            left = max(left, float(rest.max()))
        maps = [one["relevance"] for one in said]
        row[runtime] = {**_apart(maps, expected), "left": left, "truth": _apart(maps, truth)}
    return row


def random(seed: int, folder: Path) -> dict[str, Any]:
    """What ONNX Runtime says of the random network of that seed, beside `explain`: an outcome, and why."""
    net, x = random_graphs.network(seed), random_graphs.inputs(seed, 0)
    chosen = method(RANDOM[seed % len(RANDOM)])
    try:
        torch.jit.script(net.module()).save(str(folder / "net.pt"))
        model = load(folder / "net.pt", size=(x.shape[2], x.shape[3]), channels=x.shape[1])
    except Exception as error:  # what torch cannot export, or `explain` refuses, is measured by truth.py
        return {"method": chosen.name, "outcome": "not explained", "why": first_line(error, 160)}
    return outcome(model, chosen, [random_graphs.inputs(seed, number) for number in (1, 2)], folder)


def one_operator(case: one.Case, methods: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """What ONNX Runtime says of the network of one operator, beside `explain`, by each of the methods."""
    try:
        model = one.model(case, folder)
        size = model.network.fixed_batch((2, *model.pictures.input_shape))
    except Exception as error:
        yield from ({"method": name, "outcome": "not explained", "why": first_line(error, 160)} for name in methods)
        return
    batches = [one.inputs(count, count) for count in ((size,) if size else COUNTS)]
    for name in methods:
        yield {**outcome(model, method(name), batches, folder), "images": size or "any"}


def outcome(model: Model, chosen: Method, batches: list[Tensor], folder: Path) -> dict[str, Any]:
    """What ONNX Runtime says of the model on batches that the export never saw, beside `explain`: right or else why."""
    try:
        expected = [explain(model, batch, chosen) for batch in batches]
    except Exception as error:
        return {"method": chosen.name, "outcome": "not explained", "why": first_line(error, 160)}
    try:
        found = recording(model, ExportRequest(path=folder / "e.onnx", method=chosen))
        content = found.content(WRITERS[".onnx"])
        (folder / "e.onnx").write_bytes(content)
    except HeatcliError as error:
        return {"method": chosen.name, "outcome": "refused", "why": first_line(error, 160)}
    row: dict[str, Any] = {"method": chosen.name}
    try:
        verify(content, found.record, found.note, found.unseen, folder / "e.onnx")
    except HeatcliError as error:  # users are refused
        return {**row, "outcome": "caught", "why": first_line(error, 160)}
    artifact = opened(folder / "e.onnx")
    said = [artifact.run({"input": part}) for batch in batches for part in batch.split(found.size or len(batch))]
    with quiet(), torch.backends.mkldnn.flags(enabled=False):
        others = [explain(model, batch, chosen) for batch in batches]
    others += [explain(model, rounded(batch), chosen) for batch in batches]
    truth = np.concatenate([each.relevance.numpy() for each in expected])
    size = max(float(np.abs(truth).max()), 1e-6 * max(float(each.outputs.abs().max()) for each in expected))
    off = float(np.abs(np.concatenate([each["relevance"] for each in said]) - truth).max()) / size
    again = np.concatenate([each.relevance.numpy() for each in others]).reshape(2, *truth.shape)
    rounding = float(np.abs(again - truth).max()) / size
    return {
        **row,
        "outcome": "right" if off <= max(1e-4, 100 * rounding) else "wrong",
        "error": off,
        "rounding": rounding,
    }


def _apart(said: list[Any], expected: list[Any]) -> dict[str, float]:
    """|said − expected| as a share of the largest of its picture: the largest and the median."""
    errors = []
    for found, other in zip(said, expected, strict=True):
        most = np.abs(other).max(axis=tuple(range(1, other.ndim)), keepdims=True)
        errors.append(np.abs(found - other) / np.where(most == 0, 1, most))  # a map of zeros has no size
    every = np.concatenate([error.ravel() for error in errors])
    return {"largest": float(every.max()), "median": float(np.median(every))}


def speed(model: Model, asked: str, folder: Path) -> dict[str, Any]:
    """Processor seconds and memory of one picture: explained and plain in ONNX Runtime, and `explain`, in turns."""
    chosen = method(asked)
    found = recording(model, ExportRequest(path=folder / "e.onnx", method=chosen))
    (folder / "e.onnx").write_bytes(found.content(WRITERS[".onnx"]))
    (folder / "plain.onnx").write_bytes(_plain(folder / "e.onnx", *found.note.inputs, found.note.outputs[0]))
    batch = inputs(model, 1)
    bare = recording(model, ExportRequest(path=folder / "map.onnx", method=chosen, outputs=("heatmap",)))
    (folder / "map.onnx").write_bytes(bare.content(WRITERS[".onnx"]))
    explained, plain = opened(folder / "e.onnx"), opened(folder / "e.onnx", only=found.note.outputs[0])
    map_alone = opened(folder / "map.onnx")
    runs: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.run({"input": batch}), "explained": lambda: explained.run({"input": batch}),
        "map": lambda: map_alone.run({"input": batch}), "explain": lambda: explain(model, batch, chosen),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS + 2):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append(time.process_time() - started)
    kept = {name: values[2:] for name, values in times.items()}

    def ratio(a: str, b: str) -> float:
        return median(x / y for x, y in zip(kept[a], kept[b], strict=True))

    memory = {name: _memory(folder / name, batch) for name in ("e.onnx", "plain.onnx")}
    return {
        **{name: median(values) for name, values in kept.items()},
        "by_plain": ratio("explained", "plain"), "map_by_plain": ratio("map", "plain"),
        "by_explain": ratio("explained", "explain"),
        "memory": memory["e.onnx"] / 1e6, "memory_by_plain": memory["e.onnx"] / memory["plain.onnx"],
        "MB": (folder / "e.onnx").stat().st_size / 1e6,
    }  # fmt: skip


def _plain(path: Path, taken: str, returned: str) -> bytes:
    return bytes(onnx.utils.Extractor(onnx.load(path)).extract_model([taken], [returned]).SerializeToString())


_CHILD = """
import pathlib, re, sys, numpy, onnxruntime
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
batch = numpy.load(sys.argv[2])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = kilobytes("VmRSS")
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], settings, providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(None, {session.get_inputs()[0].name: batch})
print((kilobytes("VmHWM") - before) * 1024)
"""


def _memory(path: Path, batch: Tensor) -> int:
    """The peak that loading and running adds to a process, bytes."""
    file = path.with_suffix(".npy")
    np.save(file, batch.numpy())
    done = subprocess.run([sys.executable, "-c", _CHILD, path, file], capture_output=True, text=True, check=True)
    return int(done.stdout)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(what: str, path: Path, only: str, asked: tuple[str, ...]) -> None:
    """Append to the file the rows of networks whose name holds `only`, by the methods `asked` (none: all)."""
    known = {(row["what"], row["network"], row["method"]) for row in rows_of(path)}
    names = (*EMBEDDED, *TORCHVISION) if what == "numbers" else SPEED
    names = tuple(name for name in names if only in name)
    methods = tuple(dict.fromkeys((*FAST, *KINDS, *WALKS, *OTHERS))) if what == "numbers" else FAST
    models: dict[str, Model] = {}
    methods = asked or methods
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for chosen, name in ((chosen, name) for chosen in methods for name in names):
            if (what, name, chosen) in known:
                continue
            started = time.perf_counter()
            if name not in models:
                models[name] = network(name, SMALL if what == "numbers" else LARGE, folder)
            found = (numbers if what == "numbers" else speed)(models[name], chosen, folder)
            row = {"what": what, "network": name, "method": chosen, "seconds": time.perf_counter() - started, **found}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measure_random(path: Path, seeds: int) -> None:
    """Append to the file the rows of random networks."""
    known = {row["network"] for row in rows_of(path) if row["what"] == "random"}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in (seed for seed in range(seeds) if f"seed {seed}" not in known):
            row = {"what": "random", "network": f"seed {seed}", **random(seed, Path(scratch))}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measure_operators(path: Path, only: str, methods: Sequence[str], calls: int) -> None:
    """Append to the file the rows of networks of one operator whose name holds `only`, each with so many calls."""
    known = {(row["network"], row["method"]) for row in rows_of(path) if row["what"] == "operators"}
    with tempfile.TemporaryDirectory() as scratch:
        for case in (case for name in one.NAMES if only in name for case in one.cases(name, calls)):
            asked = [name for name in methods or OPERATORS if (case.name, name) not in known]
            for found in one_operator(case, asked, Path(scratch)) if asked else ():
                row = {"what": "operators", "network": case.name, **found}
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def _operators_page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What became of the networks of one operator: the latest row of each call and method."""
    latest = list({(row["network"], row["method"]): row for row in rows}.values())
    methods = list(dict.fromkeys(row["method"] for row in latest))
    yield "\n## One operator each\n"
    operators = len({_operator(row) for row in latest})
    yield (
        f"{len({row['network'] for row in latest})} calls of {operators} operators, those of the table of facts and "
        "others, each between two dense layers (`tests/support/one_operator.py`), compared as above. Operators that "
        "read or write across images are exported for a single one. Not all were measured by both methods.\n"
    )
    yield f"| method | {' | '.join(OUTCOMES)} |\n|---|{'--:|' * len(OUTCOMES)}"
    for name in methods:
        counts = Counter(row["outcome"] for row in latest if row["method"] == name)
        yield f"| {name} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |"
    yield "\n| refused, caught, wrong or not explained | operators |\n|---|---|"
    reasons: dict[str, dict[str, None]] = {}
    for row in latest:
        if row["outcome"] != "right":
            reasons.setdefault(f"{row['outcome']}: {_reason(row)}", {})[_operator(row)] = None
    yield from (f"| {reason} | {', '.join(names)} |" for reason, names in sorted(reasons.items()))


def _operator(row: dict[str, Any]) -> str:
    """The operator that a row is of."""
    return str(row["network"].partition("(")[0])


def _random_page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What became of the random networks."""
    counts = Counter(row["outcome"] for row in rows)
    asked = len(rows) - counts["not explained"]
    yield "\n## Random networks\n"
    yield (
        f"{len(rows)} networks of `tests/support/random_graphs.py`, each by one of {len(RANDOM)} methods; `explain` "
        f"takes {asked}. ONNX Runtime's map of pictures that the export never saw: {counts['right']} right (to 1e-4 of "
        "the largest pixel, or within a hundred times what rounding changes), "
        f"{counts['refused']} refused, {counts['caught']} caught by the comparison that `export` makes before it "
        f"writes, {counts['wrong']} wrong.\n"
    )
    reasons = Counter(_reason(row) for row in rows if row["outcome"] in ("refused", "caught", "wrong"))
    if reasons:
        yield "| refused, caught or wrong | networks |\n|---|--:|"
    yield from (f"| {reason} | {count} |" for reason, count in reasons.most_common())


def _reason(row: dict[str, Any]) -> str:
    """Why, without names and numbers of one network."""
    text = re.sub(r"^/.*?: ", "", row.get("why", f"{row['network']}, {row['method']}: {row.get('error', 0):.1e} off"))
    text = re.sub(
        r"No ONNX function found for <OpOverload\(op='([\w.]+)'.*", r"torch's exporter does not know \1", text
    )
    return re.sub(r"_tensor_constant\d+", "…", re.sub(r"%\w+", "…", text)).replace("|", "/")


def _beyond(measured: list[dict[str, Any]]) -> Iterator[str]:
    """What misses a figure, beside how far `explain` itself is off float64."""
    pairs = [(row, name) for row in measured for name in RUNTIMES if "truth" in row.get(name, {})]
    misses = [(row, name) for row, name in pairs if not _meets(row[name], row[name]["left"])]
    nearer = sum(row[name]["truth"]["largest"] <= row["explain"]["largest"] for row, name in misses)
    far = [
        (row, name) for row, name in pairs
        if row[name]["truth"]["largest"] > max(1e-4, FAR * row["explain"]["largest"])
    ]  # fmt: skip
    yield (
        f"Of {len(pairs)} runs {len(misses)} miss a figure: beyond 1e-4 (median 1e-6) of `explain`, or a ledger left "
        "open by more than 1e-4. *Off float64*: the record of the same explanation computed in float64, from the same "
        f"weights, which is nearer to the truth than both. In {nearer} of the {len(misses)} the runtime is at least as "
        f"near to float64 as `explain`; in {len(far)} of all runs it is more than {FAR} times as far, and beyond "
        "1e-4. What differs is rounding, where a denominator, or the value of a ReLU, is close to zero: ε = 1e-6 "
        "allows it, and one such unit moves the maps of all methods. CAM methods book up to 5,000 times the score on "
        "pixels and as much, negative, as unexplained; float32 columns round such sums to 1e-4 of the score.\n"
    )
    yield (
        "| network | method | runtime | off `explain` (median) | runtime off float64 | `explain` off float64 | ledger |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row, name in misses:
        one = row[name]
        yield (
            f"| {row['network']} | {row['method']} | {name} | {_both(one)} "
            f"| {_both(one['truth'])} | {_both(row['explain'])} | {one['left']:.0e} |"
        )
    refused = [(row, "all", row["refused"]) for row in measured if "refused" in row]
    refused += [
        (row, name, row[name]["refused"]) for row in measured for name in RUNTIMES if "refused" in row.get(name, {})
    ]
    if refused:
        yield "\n| network | method | runtime | refused |\n|---|---|---|---|"
        yield from (f"| {row['network']} | {row['method']} | {name} | {why} |" for row, name, why in refused)


def _meets(one: dict[str, float], left: float) -> bool:
    return one["largest"] <= 1e-4 and one["median"] <= 1e-6 and left <= 1e-4


def _both(one: dict[str, float]) -> str:
    return f"{one['largest']:.1e} ({one['median']:.1e})"


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of EXPORT.md."""
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "onnxruntime", "openvino"))
    measured = [row for row in rows if row["what"] == "numbers"]
    yield "# Explained models, measured\n"
    yield f"Written by `python tests/measure/export.py` with {versions}, opset {OPSET}, on one thread.\n"
    yield "## The same numbers everywhere\n"
    yield (
        "Every artifact is exported on noise and asked about pictures that it never saw, 1 and 8 at once. *Error*: "
        "|relevance − `explain`'s| as a share of the largest of its picture: the largest (the median) pixel. "
        "*Ledger*: what its columns leave inside the runtime, as a share of the score. torchvision's networks have "
        f"random weights, batch norms with statistics of noise, and take {SMALL} × {SMALL}. All ONNX files pass "
        "`onnx.checker` with shape inference and hold operators of the standard domain alone. The two runtimes of "
        "torch run the same ATen operators as `explain`: all methods on the two smallest networks, three methods "
        "elsewhere. The table counts the methods that were measured.\n"
    )
    yield f"| network | methods | {' | '.join(f'{name}: error (median), ledger' for name in RUNTIMES)} |"
    yield "|---|---|" + "---|" * len(RUNTIMES)
    for name in dict.fromkeys(row["network"] for row in measured):
        own = [row for row in measured if row["network"] == name and "refused" not in row]
        cells = []
        for runtime in RUNTIMES:
            done = [row[runtime] for row in own if "refused" not in row.get(runtime, {"refused": ""})]
            worst = [max((one[key] for one in done), default=float("nan")) for key in ("largest", "median", "left")]
            cells.append(f"{worst[0]:.0e} ({worst[1]:.0e}), {worst[2]:.0e}; {len(done)}")
        yield f"| {name} | {len(own)} | {' | '.join(cells)} |"
    yield "\nEach cell: the worst method, then how many methods ran.\n"
    yield from _beyond(measured)
    drawn = [row for row in rows if row["what"] == "random"]
    if drawn:
        yield from _random_page(drawn)
    single = [row for row in rows if row["what"] == "operators"]
    if single:
        yield from _operators_page(single)
    yield "\n## What it costs\n"
    yield (
        "One picture, one thread, processor time; plain, explained and `heatcli.explain` in turns, the median of the "
        "ratios. *Map alone*: `--outputs heatmap`, which leaves the books out. "
        f"torchvision's networks take {LARGE} × {LARGE}. *Memory*: what loading and running add to a process.\n"
    )
    yield (
        "| network | method | plain ms | explained ms | ÷ plain | map alone ÷ plain | ÷ `explain` | MB on disk "
        "| memory MB | ÷ plain |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in (row for row in rows if row["what"] == "speed"):
        yield (
            f"| {row['network']} | {row['method']} | {row['plain'] * 1e3:.3g} | {row['explained'] * 1e3:.3g} "
            f"| {row['by_plain']:.1f} | {row['map_by_plain']:.1f} | {row['by_explain']:.2f} | {row['MB']:.3g} "
            f"| {row['memory']:.0f} | {row['memory_by_plain']:.1f} |"
        )
    yield ENGINE


ENGINE = """
## As an engine of `explain`

On small networks (`digits.onnx`, `animals.pt`) ONNX Runtime needs a fraction of the time of `explain`, whose
operators cost some microseconds each in Python. On larger ones both spend their time in convolutions. The file holds
the faster equivalents of rules that `explain` runs, but their elementwise steps are not fused, and ONNX Runtime
brings what a convolution returns into another layout for them. As an engine for folders of small networks it would
take: one export a model and method (seconds), kept in the cache beside the graph; targets as an input; and the check
that `explain` makes of a graph, made of the export once. The report is built from an artifact's outputs already:
`heatcli explain FOLDER --model explained.onnx`.
"""


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["numbers", "random", "operators", "speed", "page"])
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"), help="the file of the rows")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--methods", default="", help="names of methods, with commas between")
    parser.add_argument("--seeds", type=int, default=200, help="how many random networks")
    parser.add_argument("--calls", type=int, default=2, help="how many different calls of each operator")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for what in given.what:
        if what == "page":
            Path(__file__).with_name("EXPORT.md").write_text("\n".join(page(rows_of(given.rows))) + "\n")
        elif what == "operators":
            measure_operators(given.rows, given.only, tuple(filter(None, given.methods.split(","))), given.calls)
        elif what == "random":
            measure_random(given.rows, given.seeds)
        else:
            measure(what, given.rows, given.only, tuple(filter(None, given.methods.split(","))))


if __name__ == "__main__":
    main()
