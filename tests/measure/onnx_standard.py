"""The ONNX standard's own operator tests through heatcli: the importer, and the graph captured from it.

`python tests/measure/onnx_standard.py` runs all of them and writes ONNX.md beside this file. `--only NAME` runs those
whose name holds NAME and prints what went wrong.
"""

from __future__ import annotations

import argparse
import collections
import functools
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor

from heatcli.artifact.onnx.load import load_onnx
from heatcli.artifact.onnx.tensors import tensor_of
from heatcli.artifact.onnx.value import NodeError, RefusedError
from heatcli.engine.values import output_of
from heatcli.errors import ModelError
from heatcli.graph.capture import record
from heatcli.graph.passes import apply

RIGHT, RUNTIME, REFUSED, WRONG = "right", "runtime", "refused", "wrong"


@dataclass(frozen=True)
class Outcome:
    """How one of the standard's tests went. `captured`: whether the graph captured for a float input was tried, too."""

    case: str
    operator: str
    verdict: str
    why: str = ""
    floats: bool = False
    captured: bool = False


@functools.cache
def _all() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(sorted(collect_testcases(None), key=lambda case: case.name))


def cases(only: str = "") -> Iterator[Any]:
    """The standard's tests, in order of name."""
    return (case for case in _all() if only in case.name)


def outcome(case: Any, folder: Path) -> Outcome:
    """Run one test through heatcli."""
    path = folder / "m.onnx"
    operator = _operator(case)
    verdict, why, floats, captured = WRONG, "", False, False
    for given, expected in case.data_sets:
        floats = _all_floats([*given, *expected])
        try:
            onnx.save(case.model, path)
            artifact = load_onnx(path)
            program = artifact.module_for({})
            values = [_value(v) for v in given]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = program(*values)
        except (ModelError, NodeError, RefusedError) as error:
            return Outcome(case.name, operator, REFUSED, str(error).replace(f"{path}: ", ""), floats)
        problem = _difference(found, expected, case)
        if problem and not _difference_to_runtime(artifact, values, found, case):
            return Outcome(case.name, operator, RUNTIME, problem, floats)
        verdict, why = (WRONG, problem) if problem else (RIGHT, "")
        if not problem:
            captured, problem = _captured(program, artifact, values, found)
            verdict, why = (WRONG, f"captured: {problem}") if problem else (RIGHT, "")
    return Outcome(case.name, operator, verdict, why, floats, captured)


def _operator(case: Any) -> str:
    """What is tested; `_expanded` tests are of functions."""
    nodes = case.model.graph.node
    return str(nodes[-1].op_type if len(nodes) < 3 else case.name.removeprefix("test_").split("_")[0])


def _all_floats(values: Sequence[Any]) -> bool:
    """Whether the first input and all outputs are floating-point tensors."""
    return all(
        isinstance(v, np.ndarray) and v.dtype in (np.float32, np.float64, np.float16) for v in (values[0], values[-1])
    )


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(v) for v in value]
    if isinstance(value, onnx.TensorProto):
        return tensor_of(value)
    if value is None:
        return None
    return tensor_of(onnx.numpy_helper.from_array(np.asarray(value)))


def _difference(found: Sequence[Any], expected: Sequence[Any], case: Any) -> str:
    """What is wrong with the outputs, or ""."""
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if isinstance(theirs, list) or theirs is None:
            if (ours is None) != (theirs is None):
                return f"output {i} is {ours!r}"
            inner = _difference(ours, theirs, case) if theirs is not None else ""
            if inner:
                return inner
            continue
        wanted = _value(theirs)
        if tuple(ours.shape) != tuple(wanted.shape):
            return f"output {i} has shape {tuple(ours.shape)}, not {tuple(wanted.shape)}"
        if ours.dtype != wanted.dtype:
            return f"output {i} is of {ours.dtype}, not {wanted.dtype}"
        a, b = (x.to(torch.complex128) if x.is_complex() else x.double() for x in (ours, wanted))
        step = 1 if case.name.startswith(("test_quantize", "test_dynamicquantize", "test_qlinear")) else 0
        rough = ours.dtype.is_floating_point and ours.dtype.itemsize < 4
        rtol, atol = max(case.rtol, 1e-2 if rough else 0), max(case.atol, 1e-3 if rough else 1e-6, step)
        if not torch.allclose(a, b, rtol=rtol, atol=0 if ours.dtype == torch.bool else atol, equal_nan=True):
            return f"output {i} is off by {float((a - b).abs().nan_to_num(torch.inf).max()):.2g}"
    return ""


def _difference_to_runtime(artifact: Any, values: list[Any], found: Sequence[Any], case: Any) -> str:
    try:
        return _difference(found, [x.numpy() for x in artifact.runtime(values)], case)
    except ModelError as error:
        return str(error)


def _captured(program: Any, artifact: Any, values: list[Any], found: Sequence[Any]) -> tuple[bool, str]:
    """Whether the graph for the first input, where it is of floats, could be captured, and what is wrong with it."""
    if not values or not isinstance(values[0], Tensor) or not values[0].dtype.is_floating_point:
        return False, ""
    if values[0].dtype.itemsize < 4 or not isinstance(found[0], Tensor) or not found[0].dtype.is_floating_point:
        return False, ""
    if not values[0].numel() or not found[0].numel():
        return False, ""
    names = artifact.names(program)
    try:
        graph = apply(record(lambda x: program(x, *values[1:]), values[0], names, "m"), ())
    except ModelError as error:
        return False, "" if re.search(
            "does not depend|only by way of|complex numbers|shape of its operator", str(error)
        ) else str(error)
    with torch.no_grad():
        again = output_of(graph, values[0])
    if again.shape != found[0].shape:
        return True, f"shape {tuple(again.shape)}"
    off = (again.double() - found[0].double()).abs().nan_to_num(0)
    return True, "" if float(off.max()) <= 1e-5 * max(
        1.0, float(found[0].double().abs().nan_to_num(0, 0, 0).max())
    ) else f"off by {float(off.max()):.2g}"


def tabled(outcomes: Sequence[Outcome]) -> str:
    """The page: a line for each operator, and what was refused and why."""
    floats = [o for o in outcomes if o.floats]
    right = sum(o.verdict == RIGHT for o in floats)
    lines = [
        "# The ONNX standard's own operator tests, through heatcli",
        "",
        "Written by `python tests/measure/onnx_standard.py`: every test of `onnx.backend.test.case.node` of onnx "
        f"{onnx.__version__} (opset {onnx.defs.onnx_opset_version()}), by the importer, and where the first input is "
        "of floats by the graph captured from it as well. *Right*: the standard's outputs, to the test's own tolerance "
        "(whole numbers of quantising operators to one step). *Runtime*: the standard's data are of another "
        "opinion than ONNX Runtime, and heatcli agrees with ONNX Runtime. *Refused*: an error that names the node.",
        "",
        f"{len(outcomes)} tests: {_count(outcomes)}. With float input and output: {len(floats)}, of which {right} "
        f"right ({100 * right / max(len(floats), 1):.1f} %). {sum(o.captured for o in outcomes)} were captured, too.",
        "",
        "| operator | tried | right | runtime | refused | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({o.operator for o in outcomes}, key=str.lower):
        own = [o for o in outcomes if o.operator == name]
        numbers = [sum(o.verdict == verdict for o in own) for verdict in (RIGHT, RUNTIME, REFUSED, WRONG)]
        lines.append(f"| {name} | {len(own)} | " + " | ".join(str(n or "") for n in numbers) + " |")
    lines += ["", "## Refused, and why", ""]
    why: dict[str, list[str]] = collections.defaultdict(list)
    for o in outcomes:
        if o.verdict == REFUSED:
            why[(o.why.partition(": ")[2] if o.why.startswith("node") else o.why).split("; ")[0]].append(
                o.case.removeprefix("test_")
            )
    lines += [f"- {reason} ({len(names)}): {', '.join(names)}" for reason, names in sorted(why.items())]
    return "\n".join(lines) + "\n"


def _count(outcomes: Sequence[Outcome]) -> str:
    counts = collections.Counter(o.verdict for o in outcomes)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in (RIGHT, RUNTIME, REFUSED, WRONG))


def main() -> None:
    """Run the tests; write the page, or print what is not right of some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run tests whose name holds this, and write no page")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [outcome(case, Path(folder)) for case in cases(only)]
    for o in outcomes:
        if o.verdict != RIGHT and (only or o.verdict != REFUSED):
            print(o.verdict, o.case, o.why, sep=" | ")
    print(_count(outcomes))
    if not only:
        (Path(__file__).parent / "ONNX.md").write_text(tabled(outcomes))


if __name__ == "__main__":
    main()
