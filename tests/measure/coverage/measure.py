"""Which architectures, in which formats, heatcli explains, and how exactly: writes COVERAGE.md beside this file.

    python tests/measure/coverage/measure.py [--only WORD] [--formats A,B] [--seconds 1800] [--jobs 2]
    python tests/measure/coverage/measure.py --again

`--again`: rows whose map differs from the scripted artifact's by more than 1e-4, once more in float64, where what is
left is no rounding.

Needs torchvision, timm, onnx, onnxruntime and onnxscript. Each architecture runs in a process of its own; rows that
are already in COVERAGE.jsonl are kept (delete it to start anew).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
from architectures import all_architectures, build  # noqa: E402 - from the folder of this script

HERE = Path(__file__).parent
ROWS = HERE / "COVERAGE.jsonl"
IMAGES = 2
LEDGER = 1e-4  # a row is exact below this
METHODS = ("lrp-eps", "deeplift-rescale")
SAME = 0.9999  # a cosine from which two maps are the same
EXPLAINED = {  # rows that are not exact, in a word
    "timm:legacy_senet154": "multipliers grow 1e17-fold over 154 random layers: rounding, in float64 too",
    "timm:fbnetv3_b": "rounding grows in this random network (6e-13 in float64); ONNX Runtime drifts as far",
}


def _scripted(module: Any, _: Any, path: Path) -> None:
    import torch

    torch.jit.script(module).save(str(path))


def _traced(module: Any, x: Any, path: Path) -> None:
    import torch

    torch.jit.trace(module, x, check_trace=False).save(str(path))


def _pt2(module: Any, x: Any, path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.export.save(torch.export.export(module, (x,)), file)


def _onnx(opset: int, dynamo: bool) -> Callable[[Any, Any, Path], None]:
    def save(module: Any, x: Any, path: Path) -> None:
        import torch

        more: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {
            "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}},
        }  # fmt: skip
        torch.onnx.export(module, (x,), str(path), opset_version=opset, dynamo=dynamo, **more)

    return save


FORMATS: dict[str, Callable[[Any, Any, Path], None]] = {
    "scripted": _scripted,
    "traced": _traced,
    "pt2": _pt2,
    "onnx 11": _onnx(11, dynamo=False),
    "onnx 17": _onnx(17, dynamo=False),
    "onnx 18 new": _onnx(18, dynamo=True),
    "onnx 20 new": _onnx(20, dynamo=True),
}


def _network(architecture: str, size: int) -> tuple[Any, Any]:
    """The eager module with random weights, and images [N, 3, size, size] that it never saw."""
    import torch
    from networks import calibrated, randomised

    module = calibrated(randomised(build(architecture, size), 1), size)
    return module, torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(2))


def one(architecture: str, size: int, formats: list[str]) -> None:
    """Measure one architecture in all formats; one JSON row a line on stdout."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    module, x = _network(architecture, size)
    expected = module(x)
    expected = expected[0] if isinstance(expected, tuple | list) else expected
    original: dict[str, Any] = {}  # the maps of the scripted artifact, or else of the first format
    for name in formats:
        with tempfile.TemporaryDirectory() as folder:
            row = {"architecture": architecture, "format": name, "size": size}
            path = Path(folder) / "model"
            try:
                FORMATS[name](module, x, path)
            except Exception as error:
                row["export"] = (
                    f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error) else ''}"
                )
            else:
                row.update(_measure(path, x, expected, name.startswith("onnx")))
                maps = {} if "error" in row else _maps(path, x)
                if original and maps:
                    row["map"], row["of"] = min((_cosine(maps[m], original[m]), m) for m in maps if m in original)
                original = original or maps
        print(json.dumps(row), flush=True)


def _measure(path: Path, x: Any, expected: Any, onnx: bool) -> dict[str, Any]:
    import heatcli

    found: dict[str, Any] = {}
    try:
        model = heatcli.load(path, size=tuple(x.shape[-2:]))
        for method in METHODS:
            result = heatcli.explain(model, x, method)
            found[method] = float(result.ledger.relative_error.max())
            if result.unexplained:
                found["fallback"] = sorted({name.rpartition("_")[0] for name in result.unexplained})
        found["forward"] = _relative(result.outputs, expected.reshape(result.outputs.shape))
        if onnx and found["forward"] > 1e-4:
            found["against onnxruntime"] = _relative(
                result.outputs, _onnxruntime(path, x).reshape(result.outputs.shape)
            )
    except Exception as error:
        found["error"] = _first_line(error)
    return found


def again(row: dict[str, Any]) -> float:
    """The cosine of a row's map and that of the scripted (else the traced) artifact, both exported in float64."""
    module, x = (one.double() for one in _network(row["architecture"], row["size"]))
    maps = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scripted", row["format"]):
            path = Path(folder) / name
            try:
                FORMATS[name](module, x, path)
            except RuntimeError:  # torch cannot script it
                FORMATS["traced"](module, x, path)
            maps.append(_maps(path, x, [row["of"]])[row["of"]])
    return _cosine(*maps)


def _maps(path: Path, x: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """The relevance by those methods, by default every backward method, of one score."""
    import heatcli
    from heatcli.methods.table import METHODS as CATALOGUE

    model = heatcli.load(path, size=tuple(x.shape[-2:]))
    found = {}
    for name in names or [name for name, method in CATALOGUE.items() if method.kind == "backward"]:
        with contextlib.suppress(heatcli.UsageError):  # a method that says nothing of such a network
            found[name] = heatcli.explain(model, x, name, target=0).relevance
    return found


def _cosine(a: Any, b: Any) -> float:
    """The smallest over images, in float64; 1 where both maps are 0."""
    from torch.nn import functional

    if not a.any() and not b.any():
        return 1.0
    return float(functional.cosine_similarity(a.double().flatten(1), b.double().flatten(1)).min())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def _relative(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _onnxruntime(path: Path, x: Any) -> Any:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    exported = [r for r in rows if "export" not in r]
    exact = [r for r in exported if "error" not in r and all(r[m] <= LEDGER for m in METHODS)]
    crashed = [r for r in exported if "error" in r]
    lines = [
        "# Coverage", "",
        "Written by `python tests/measure/coverage/measure.py`. Random weights and biases, BatchNorm statistics near "
        "the data's, "
        f"{IMAGES} images, float32. *forward*: largest difference from the eager module over its largest output "
        "(against ONNX Runtime where that itself drifts further). "
        "*lrp-eps*, *deeplift-rescale*: largest relative error of the "
        "ledger. *map*: the smallest cosine, over all backward methods, of the map and that of the scripted artifact, "
        "with *same* from 0.9999; below it, that of the same method with both exported in float64. "
        "*fallback*: operators without a rule, walked by their exact gradient and booked as unexplained.", "",
        f"{len(exported)} rows, {len(exact)} exact to {LEDGER:g} ({len(exact) / max(1, len(exported)):.1%}), "
        f"{len(crashed)} that cannot be explained; {len(rows) - len(exported)} that the exporter could not write.", "",
        "| architecture | format | forward | lrp-eps | deeplift-rescale | map | fallback or error |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in sorted(rows, key=lambda r: (r["architecture"], list(FORMATS).index(r["format"]))):
        forward = r.get("against onnxruntime", r.get("forward"))
        cells = [f"{v:.0e}" if isinstance(v, float) else "" for v in (forward, r.get(METHODS[0]), r.get(METHODS[1]))]
        exact_map = f"; {r['map64']:.6f} in float64" if "map64" in r else ""
        cells.append(
            f"{r['map']:.6f} ({r['of']}{exact_map})" if r.get("map", 1) < SAME else "same" if "map" in r else ""
        )
        exporter = f"not exported: {r['export']}" if "export" in r else ""
        note = (r.get("error") or exporter or ", ".join(r.get("fallback", []))).replace("|", "\\|")
        drifts = isinstance(forward, float) and forward > 1e-4
        if r in exported and (r not in exact or drifts) and r["architecture"] in EXPLAINED:
            note = "; ".join(part for part in (note, EXPLAINED[r["architecture"]]) if part)
        lines.append(f"| {r['architecture']} | {r['format']} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines) + "\n"


def _outcome(row: dict[str, Any]) -> object:
    return row.get("error") or row.get("export") or row[METHODS[0]]


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--seconds", type=float, default=1800, help="limit for one architecture")
    parser.add_argument("--jobs", type=int, default=1, help="architectures at the same time")
    parser.add_argument("--again", action="store_true", help="maps that differ, in float64")
    parser.add_argument("--one", nargs=2, metavar=("ARCHITECTURE", "SIZE"))
    options = parser.parse_args()
    formats = options.formats.split(",")
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if options.again:
        warnings.simplefilter("ignore")
        for row in rows:
            if row.get("map", 1) < SAME and "map64" not in row and options.only in row["architecture"]:
                row["map64"] = again(row)
                print(row["architecture"], row["format"], row["map"], row["map64"], flush=True)
                _write(rows)
        return
    if options.one:
        one(options.one[0], int(options.one[1]), formats)
        return

    def measured(item: tuple[str, int]) -> list[dict[str, Any]]:
        architecture, size = item
        known = {r["format"] for r in rows if r["architecture"] == architecture}
        wanted = [f for f in formats if f not in known]
        return _in_a_process(architecture, size, wanted, options.seconds) if wanted else []

    asked = [item for item in all_architectures().items() if options.only in item[0]]
    with ThreadPoolExecutor(options.jobs) as pool:
        for waited in as_completed([pool.submit(measured, item) for item in asked]):
            new = waited.result()
            rows += new
            _write(rows)
            for r in new:
                print(r["architecture"], r["format"], _outcome(r), r.get("map"), flush=True)


def _write(rows: list[dict[str, Any]]) -> None:
    """The rows, and the table of them."""
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (HERE / "COVERAGE.md").write_text(table(rows), encoding="utf-8")


def _in_a_process(architecture: str, size: int, wanted: list[str], seconds: float) -> list[dict[str, Any]]:
    """The rows of one architecture; formats that its process did not reach say why."""
    command = [sys.executable, __file__, "--one", architecture, str(size), "--formats", ",".join(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        out, error = done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        out, error = (expired.stdout or b"").decode(), f"took longer than {seconds:g} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    why = error.strip().splitlines()[-1][:200] if error.strip() else "the process died"
    missing = wanted[len(found) :]
    return found + [{"architecture": architecture, "format": f, "size": size, "export": why} for f in missing]


if __name__ == "__main__":
    main()
