"""The report: its schema, its sums, and golden files with numeric tolerance."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import MODELS, SAMPLES, Cli
from networks import CORE

import heatcli
from heatcli.methods.table import METHODS
from heatcli.report import schema as report_schema
from heatcli.system.files import seen_from

SHIPPED = Path(heatcli.__file__).parent / "report" / "report.schema.json"
GOLDEN = Path(__file__).parents[1] / "golden"


def test_shipped_schema_is_current() -> None:
    """Regenerate with: python -m heatcli.report.schema > heatcli/report/report.schema.json"""
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == report_schema.json_schema()


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8")))


def _explain(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    ran = cli("explain", "--json", *arguments)
    assert ran.status == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return report


@pytest.mark.parametrize(
    ("method", "pixels"), [*((name, "json") for name in CORE), ("lrp-eps", "npz"), ("lrp-eps", "none")]
)
def test_reports_validate_and_add_up(
    cli: Cli, validator: jsonschema.Draft202012Validator, method: str, pixels: str
) -> None:
    """Pixels, biases and ledger are the same sums, everything is finite, every bias is there in forward order."""
    report = _explain(cli, SAMPLES / "wolf-on-grass.png", "--method", method, "--pixels", pixels)
    validator.validate(report)
    ledger, biases = report["ledger"], report["biases"]
    assert biases[0]["name"] == "stem.bias"
    assert biases[-1]["name"] == "fc.bias"
    for bias in biases:
        assert len(bias["values"]) == bias["size"]
        assert math.fsum(bias["values"]) == pytest.approx(bias["total"], rel=1e-6, abs=1e-7)
    assert math.fsum(b["total"] for b in biases) == pytest.approx(ledger["biases"], rel=1e-9, abs=1e-9)
    assert report["pixels"]["total"] == pytest.approx(ledger["pixels"], rel=1e-9, abs=1e-9)
    assert report["pixels"]["positive"] + report["pixels"]["negative"] == pytest.approx(ledger["pixels"], abs=1e-6)
    if pixels == "json":
        rows = report["pixels"]["values"]
        assert [len(rows), len(rows[0])] == report["pixels"]["shape"] == [96, 96]
        assert math.fsum(v for row in rows for v in row) == pytest.approx(ledger["pixels"], rel=1e-6, abs=1e-6)
    left = ledger["output"] - ledger["output_baseline"] - ledger["pixels"] - ledger["biases"] - ledger["absorbed"]
    if METHODS[method].conserves:
        assert abs(left) <= 1e-5 * abs(ledger["output"])
        assert ledger["unexplained"] == 0
    else:
        assert left == pytest.approx(ledger["unexplained"])
    assert report["target"]["score"] == ledger["output"]
    assert 0 <= report["target"]["probability"] <= 1


def test_no_field_more_or_less(cli: Cli, validator: jsonschema.Draft202012Validator) -> None:
    """The schema itself refuses what it does not know, so that it cannot rot unseen."""
    report = _explain(cli, SAMPLES / "digits" / "3-a.png", "--model", MODELS / "digits.onnx")
    for broken in (report | {"more": 1}, {k: v for k, v in report.items() if k != "ledger"}):
        assert not validator.is_valid(broken)


CASES = {
    # a coarse ε: at 1e-6 a sum near zero somewhere makes the order of additions show
    "wolf-on-snow.lrp-eps": [SAMPLES / "wolf-on-snow.png", "--method", "lrp-eps", "--param", "epsilon=0.1"],
    "8-a.deeplift-rescale": [
        SAMPLES / "digits" / "8-a.png", "--model", MODELS / "digits.onnx", "--method", "deeplift-rescale",
        "--target", "8-3",
    ],
}  # fmt: skip


@pytest.mark.usefixtures("default_figure")
@pytest.mark.parametrize("name", CASES)
def test_golden(cli: Cli, name: str, request: pytest.FixtureRequest) -> None:
    """A report like the stored one, numbers within 1e-3 of the largest beside them; --update-golden stores anew."""
    report = _explain(cli, *CASES[name])
    for part in ("version", "seconds"):
        del report[part]
    report["image"]["path"], report["model"]["path"] = "", ""
    assert report["model"].pop("verified")["agrees"]
    report["pixels"].pop("values")
    path = GOLDEN / f"{name}.json"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert differences(json.loads(path.read_text(encoding="utf-8")), report) == []


def differences(stored: Any, found: Any, where: str = "report", tolerance: float = 1e-3) -> list[str]:
    """Where two JSON values differ: numbers by more than `tolerance` of the largest in their list or object."""
    if isinstance(stored, dict) and isinstance(found, dict) and stored.keys() == found.keys():
        return [d for key in stored for d in differences(stored[key], found[key], f"{where}.{key}", tolerance)]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        if all(isinstance(v, float | int) for v in stored):
            scale = max((abs(v) for v in stored), default=0)
            gap = max((abs(a - b) for a, b in zip(stored, found, strict=True)), default=0)
            return [f"{where}: differs by {gap:g}"] if gap > tolerance * max(scale, 1e-3) else []
        return [
            d for i, (a, b) in enumerate(zip(stored, found, strict=True))
            for d in differences(a, b, f"{where}[{i}]", tolerance)
        ]  # fmt: skip
    if isinstance(stored, float) and isinstance(found, float | int):
        return [] if abs(stored - found) <= tolerance * max(abs(stored), 1e-2) else [f"{where}: {stored} → {found}"]
    return [] if stored == found else [f"{where}: {stored} → {found}"]


def test_the_comparator_can_fail() -> None:
    stored = {"a": [1.0, 2.0], "b": {"c": "x", "d": 1.5}}
    assert differences(stored, stored) == []
    assert differences(stored, {"a": [1.0, 2.1], "b": {"c": "x", "d": 1.5}}) == ["report.a: differs by 0.1"]
    assert differences(stored, {"a": [1.0, 2.0], "b": {"c": "y", "d": 1.6}}) == [
        "report.b.c: x → y",
        "report.b.d: 1.5 → 1.6",
    ]
    assert differences(stored, {"a": [1.0, 2.0]}) != []


@pytest.mark.parametrize(
    ("folder", "name", "wanted"),
    [
        ("out", "photos/a.png", "../photos/a.png"),
        ("out/deep", "photos/a.png", "../../photos/a.png"),
        ("out/deep/er", "photos/a.png", "a.png"),
        (".", "/far/away/a.png", "a.png"),
        ("out", "out/a.png", "a.png"),
        ("memory://out", "photos/a.png", "a.png"),
        ("out", "memory://in/a.png", "memory://in/a.png"),
    ],
)
def test_what_is_shared_names_no_folder_of_this_machine(folder: str, name: str, wanted: str) -> None:
    assert seen_from(folder, name) == wanted


def test_a_report_tells_nothing_of_this_machine(cli: Cli, tmp_path: Path) -> None:
    """Pictures and models far away, given by absolute names, are told by name and hash; those near by, relative."""
    (tmp_path / "photos").mkdir()
    shutil.copy(SAMPLES / "wolf-on-snow.png", tmp_path / "photos" / "wolf.png")
    for given, wanted in ((tmp_path / "photos" / "wolf.png", "../photos/wolf.png"), (SAMPLES / "wolf-on-snow.png", "")):
        report = json.loads(cli("explain", given, "--json").out)
        assert report["image"]["path"] == (wanted or "wolf-on-snow.png")
        assert report["model"]["path"] == "animals.pt"
        assert str(tmp_path) not in json.dumps(report)
    assert cli("show", "heatmaps/wolf.lrp-eps.json").status == 0  # found from the report
    assert cli("show", "heatmaps/wolf-on-snow.lrp-eps.json", "--pictures", SAMPLES).status == 0
