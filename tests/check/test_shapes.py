"""`check`, `compare` and `evaluate` on signals, volumes, tables and tokens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from kinds import AXES, WORDS, checked, module_of
from torch import nn

import heatcli
from heatcli.artifact.layout import Layout
from heatcli.check.maps import moved, shifts_of
from heatcli.evaluate import perturbation, robustness
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.similarity import ssim
from heatcli.evaluate.subject import Subject, subject
from heatcli.images.dataset import Sample, read

COUNT = 6
SHAPES = {"signal": (2, 48), "last": (48, 2), "volume": (1, 6, 7, 8), "table": (5,), "tokens": (12,)}
KINDS = {**{kind: kind for kind in SHAPES}, "last": "signal"}
SKIPPED = {
    "signal": {"inside-mask", "background", "unexpected-clusters", "golden", "prediction", "found", "stability"},
}
SKIPPED["table"] = {*SKIPPED["signal"], "randomisation"}


def artifact(kind: str, folder: Path, form: str = "onnx") -> Path:
    """The network of that kind, as ONNX, traced or exported by torch; a traced one says no size."""
    module, shape = module_of(kind), SHAPES[kind]
    example = torch.randint(0, WORDS, (1, *shape)) if kind == "tokens" else torch.rand(1, *shape)
    path = folder / f"{kind}.{form}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "onnx":
            axes = {"x": {0: "n"}, "y": {0: "n"}}
            names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
            torch.onnx.export(module, (example,), path, dynamo=False, verbose=False, **names)
        elif form == "pt2":
            torch.export.save(torch.export.export(module, (example,)), path)
        else:
            torch.jit.trace(module, example).save(str(path))
    return path


def inputs(kind: str, folder: Path, count: int = COUNT) -> Path:
    """A folder of inputs: arrays, and for tables CSV files with names."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(count):
        if kind == "tokens":
            np.save(folder / f"{i}.npy", rng.integers(0, WORDS, SHAPES[kind]))
        elif kind == "table":
            row = rng.normal(size=SHAPES[kind])
            (folder / f"{i}.csv").write_text("a,b,c,d,e\n" + ",".join(map(str, row)) + "\n")
        else:
            np.save(folder / f"{i}.npy", rng.normal(size=SHAPES[kind]).astype(np.float32))
    return folder


def subject_of(kind: str, folder: Path, count: int = COUNT) -> Subject:
    model = heatcli.load(artifact(kind, folder))
    found = read([inputs(kind, folder / "in", count)], model.labels, model.pictures.fit, None, model.pictures.reader)
    return subject(model, [sample for sample in found if isinstance(sample, Sample)])


@pytest.mark.parametrize("kind", SHAPES)
def test_all_checks_run_and_say_what_they_leave_out(tmp_path: Path, cli: Cli, kind: str) -> None:
    status, results, err = checked(cli, artifact(kind, tmp_path), inputs(kind, tmp_path / "in"))
    assert status in (0, 1), err
    by_check = {r["check"]: {o["status"] for o in results if o["check"] == r["check"]} for r in results}
    skipped = {r["check"]: r["measured"] for r in results if r["status"] == "skipped"}
    assert set(skipped) == SKIPPED.get(kind, SKIPPED["signal"]), results
    assert skipped["inside-mask"].startswith("masks are of pictures")
    assert by_check["finite"] == by_check["ledger"] == {"passed"}
    assert sum(r["check"] == "ledger" and r["status"] == "passed" for r in results) == 2 * COUNT
    assert by_check["faithfulness"] <= {"passed", "failed"}
    assert {"passed", "failed"} & by_check["randomisation"]
    changes = {r["quantity"].rsplit(" ", 1)[1] for r in results if r["check"] == "stability" and r["image"]}
    assert changes == {"table": {"noise"}, "tokens": {"shift"}}.get(kind, {"noise", "shift"})


@pytest.mark.parametrize("kind", SHAPES)
def test_golden_reports_are_stored_and_found_again(tmp_path: Path, cli: Cli, kind: str) -> None:
    path, folder = artifact(kind, tmp_path), inputs(kind, tmp_path / "in", 2)
    (tmp_path / "spec.toml").write_text("[golden]\n")
    assert checked(cli, path, folder, "--spec", tmp_path / "spec.toml", "--update-golden")[0] == 0
    stored = json.loads(next((tmp_path / "golden").glob("0.*.json")).read_text())
    assert stored["image"]["kind"] == KINDS[kind]
    status, results, err = checked(cli, path, folder, "--spec", tmp_path / "spec.toml")
    assert (status, {r["status"] for r in results}) == (0, {"passed"}), err
    (tmp_path / "in" / "0.csv").unlink(missing_ok=True)
    (tmp_path / "in" / "0.npy").unlink(missing_ok=True)
    other = (np.arange(np.prod(SHAPES[kind])) % 7).reshape(SHAPES[kind])
    np.save(tmp_path / "in" / "0.npy", other)
    assert checked(cli, path, folder, "--spec", tmp_path / "spec.toml")[0] == 1


@pytest.mark.parametrize("kind", SHAPES)
def test_two_exports_of_one_network_agree(tmp_path: Path, cli: Cli, kind: str) -> None:
    one, other = (artifact(kind, tmp_path, form) for form in ("onnx", "pt2"))
    asked = ["--axes", AXES[kind], "--most-difference", "1e-4", "--json"]
    ran = cli("compare", one, other, inputs(kind, tmp_path / "in", 3), *asked)
    assert ran.status == 0, ran.err
    pairs = json.loads(ran.out)["pairs"]
    assert len(pairs) == 3
    assert all(pair["rank_correlation"] > 0.999 and pair["ssim"] > 0.999 for pair in pairs)


def test_networks_of_other_kinds_are_not_compared(tmp_path: Path, cli: Cli) -> None:
    one, other = artifact("signal", tmp_path), artifact("table", tmp_path)
    ran = cli("compare", one, other, inputs("signal", tmp_path / "in"))
    assert ran.status == 2
    assert "takes a signal, " in ran.err
    assert "a table; if that is wrong, say what the axes are with --axes" in ran.err


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("last", "volume") else []) for kind in SHAPES]
)
def test_evaluate(tmp_path: Path, cli: Cli, kind: str) -> None:
    """Every metric that is of such inputs gives finite numbers; a random map is beside the methods."""
    metrics = ["pixel-flipping:steps=4", "complexity", "infidelity:draws=4", "randomisation", "deletion:steps=4"]
    metrics += [] if kind == "tokens" else ["max-sensitivity:draws=2"]
    metrics += [] if kind in ("tokens", "table") else ["insertion:steps=4"]
    asked = [word for name in metrics for word in ("--metric", name)]
    ran = cli("evaluate", artifact(kind, tmp_path), inputs(kind, tmp_path / "in", 3), *asked, "--json", "--out", "e")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    methods = {row["method"] for row in found["rows"]}
    assert ("edges" in methods) == (kind not in ("tokens", "table"))
    assert ("gradient" in methods) == (kind != "tokens")
    assert {"random", "lrp-eps"} <= methods
    assert found["metrics"]["pixel-flipping"]["region"] == (1 if kind in ("tokens", "table") else 9)
    assert all(np.isfinite(row["values"]).all() for row in found["rows"])


@pytest.mark.parametrize("kind", ["signal", "tokens", "table"])
def test_recommend(tmp_path: Path, cli: Cli, kind: str) -> None:
    asked = ["--methods", "lrp-eps@zero,input-x-gradient@zero"]
    ran = cli("evaluate", artifact(kind, tmp_path), inputs(kind, tmp_path / "in", 3), "--recommend", *asked, "--json",
              "--out", "e")  # fmt: skip
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert {"random", "lrp-eps@zero"} <= {row["method"] for row in found["rows"]}
    assert ("lrp-eps@blur" in found["skipped"]) == (kind != "signal")


@pytest.mark.parametrize("kind", SHAPES)
def test_what_replaces_comes_from_the_same_channel(tmp_path: Path, kind: str) -> None:
    """A value that is drawn is one of the inputs', of the same channel, or of the same feature of a table."""
    own = subject_of(kind, tmp_path)
    fill = perturbation.noise(own)
    assert fill.shape == own.batch.shape
    planes, drawn = own.layout.first(own.batch), own.layout.first(fill)
    for channel in range(planes.shape[1]):
        if kind == "table":
            for feature in range(planes.shape[2]):
                assert set(drawn[:, 0, feature].tolist()) <= set(planes[:, 0, feature].tolist())
        else:
            assert set(drawn[:, channel].flatten().tolist()) <= set(planes[:, channel].flatten().tolist())
    assert not torch.equal(fill, own.batch)


def test_flipping_a_linear_table_is_known(tmp_path: Path) -> None:
    """score = w·x: after k features are gone the fall is the sum of w·(x − fill) over the k most relevant ones."""
    torch.manual_seed(0)
    net = nn.Linear(5, 2, bias=False)
    torch.jit.trace(net, torch.rand(1, 5)).save(str(tmp_path / "l.pt"))
    model = heatcli.load(tmp_path / "l.pt", size=5, axes="NF")
    found = read([inputs("table", tmp_path / "in")], model.labels, model.pictures.fit, None, model.pictures.reader)
    own = subject(model, [sample for sample in found if isinstance(sample, Sample)], 1)
    heatmaps = own.heatmaps(Explainer.parse("lrp-0@zero"))
    gain = (own.batch - perturbation.noise(own)) * net.weight[1]
    order = heatmaps.argsort(dim=1, descending=True)
    expected = own.scores()[:, None] - gain.gather(1, order).cumsum(1).double()
    assert torch.allclose(perturbation.pixel_flipping(own, heatmaps)[:, 1:], expected, atol=1e-5)


@pytest.mark.parametrize(("sides", "size"), [((10,), 3), ((5, 6, 7), 2), ((4,), 9)])
def test_regions_are_replaced_by_their_mean_relevance(sides: tuple[int, ...], size: int) -> None:
    """As counted one by one: intervals, cubes, and a region that is larger than the input."""
    heatmaps = torch.rand(2, *sides, generator=torch.Generator().manual_seed(1))
    when, regions = perturbation.by_region(heatmaps, size)
    grid = np.indices(sides) // size
    number = np.ravel_multi_index(tuple(grid), tuple(-(-side // size) for side in sides))
    assert regions == number.max() + 1
    for one, step in zip(heatmaps.numpy(), when.numpy(), strict=True):
        means = [one[number == region].mean() for region in range(regions)]
        place = {region: at for at, region in enumerate(np.argsort(means)[::-1])}
        assert np.array_equal(step, np.vectorize(place.get)(number))


def test_ssim_of_signals_and_volumes() -> None:
    """1 of equal maps; of a picture of one row repeated it is that of the signal."""
    a, b = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(2)).unbind()
    assert torch.allclose(ssim(a, a), torch.ones(3, dtype=torch.float64))
    tall = [x[:, None].expand(-1, 40, -1) for x in (a, b)]
    assert torch.allclose(ssim(*tall), ssim(a, b), atol=1e-9)
    deep = [x[:, None].expand(-1, 40, -1, -1) for x in tall]
    assert torch.allclose(ssim(*deep), ssim(a, b), atol=1e-9)


@pytest.mark.parametrize("axes", ["NCL", "NL", "NCDHW", "NT", "NCHW"])
def test_shifts_undo_each_other_within(axes: str) -> None:
    layout = Layout(axes)
    batch = torch.rand(1, 1, *(6,) * layout.dims)
    steps = shifts_of(layout)
    assert len(steps) == 2 * layout.dims
    inner = (..., *(slice(1, -1),) * layout.dims)
    for by in steps:
        assert torch.equal(moved(moved(batch, *by), *(-step for step in by))[inner], batch[inner])
    assert shifts_of(Layout("NF")) == []


def test_cubes_lie_within_the_volume(tmp_path: Path) -> None:
    own = subject_of("volume", tmp_path, 2)
    removed = robustness.squares(own, 20)
    assert removed.shape == (20, 2, 1, 6, 7, 8)
    for count in removed.flatten(2).sum(2).flatten().tolist():
        assert count in (1, 8)  # a tenth to four tenths of six voxels


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, cli: Cli) -> None:
    path = artifact("table", tmp_path)
    status, results, _ = checked(cli, path, inputs("table", tmp_path / "one", 1))
    why = {r["check"]: r["measured"] for r in results if r["status"] == "skipped"}
    assert "all alike" in why["faithfulness"]
    assert status in (0, 1)
    (tmp_path / "s.toml").write_text("[faithfulness]\n")
    ran = cli("check", path, tmp_path / "one", "--spec", tmp_path / "s.toml")
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith("heatcli: [faithfulness]: ")
    (tmp_path / "s.toml").write_text("[inside-mask]\n")
    ran = cli("check", path, tmp_path / "one", "--spec", tmp_path / "s.toml")
    assert ran.status == 2
    assert "masks are of pictures, and " in ran.err
    (tmp_path / "s.toml").write_text("[stability]\n")
    ran = cli("check", path, tmp_path / "one", "--spec", tmp_path / "s.toml")
    assert ran.status == 1
    assert "nothing was checked" in ran.err
    ran = cli("check", path, tmp_path / "one", "--masks", tmp_path)
    assert ran.status == 2
    assert "masks are of pictures, and the model takes a table" in ran.err


def test_a_token_beyond_the_table_names_its_file(tmp_path: Path, cli: Cli) -> None:
    path = artifact("tokens", tmp_path)
    np.save(tmp_path / "a.npy", np.full(12, WORDS))
    ran = cli("check", path, tmp_path / "a.npy")
    assert ran.status == 1
    assert f"a.npy: holds the token {WORDS}, and the model knows 0 to {WORDS - 1}" in ran.err
