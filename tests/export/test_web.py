"""Explained models in JavaScript: the page of `heatcli export --web` in a real browser, the sample under node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import MODELS, SAMPLES
from PIL import Image

from heatcli.errors import UsageError
from heatcli.explanation import explain
from heatcli.export.job import ExportRequest, export
from heatcli.export.web import ABOUT, PACKAGE, PAGE, RUNTIME, export_page
from heatcli.methods.table import method
from heatcli.model.model import Model, load

CLOSE = 1e-3


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package, installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    options = ["--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run([npm, "install", *options, PACKAGE], cwd=folder, check=True, capture_output=True)
    return folder / "node_modules" / PACKAGE


def assert_page_says(model: Model, folder: Path, pictures: list[Path], name: str, target: int | None = None) -> None:
    """Every picture given to the page gets the label, score, map and ledger that `explain` gives."""
    from browser import Page, served

    with served(folder) as address, Page(1100, 760, offline=False) as page:
        page.page.goto(address)
        page.wait("document.body.dataset.state === 'ready'")
        for picture in pictures:
            page.run("document.body.dataset.state = 'asked'")
            page.page.set_input_files("#file", str(picture))
            page.wait("['done', 'failed'].includes(document.body.dataset.state)")
            if target is not None:
                page.run("document.body.dataset.state = 'asked'")
                page.page.select_option("#class", str(target))
                page.wait("document.body.dataset.state === 'done'")
            said = page.run("window.result")
            batch = model.preprocess([model.pictures.reader.picture(picture)])
            expected = explain(model, batch, name, target)
            assert said["index"] == int(expected.target.index[0])
            assert said["label"] == (model.label(said["index"]) or f"class {said['index']}")
            heatmap = expected.relevance.sum(1).flatten().numpy()
            assert np.abs(np.array(said["heatmap"]) - heatmap).max() < CLOSE * np.abs(heatmap).max()
            for key in ("output", "pixels", "biases"):
                value = float(getattr(expected.ledger, key)[0])
                assert abs(said["ledger"][key] - value) < CLOSE * abs(float(expected.ledger.output[0]))
            assert page.run("document.getElementById('time').textContent").endswith(" ms")
        assert page.errors == []
        assert all(url.startswith((address, "blob:", "data:")) for url in page.requests)


@pytest.mark.browser
def test_the_embedded_models_page(runtime: Path, tmp_path: Path) -> None:
    model = load()
    export_page(model, ExportRequest(path=tmp_path / "page", method=method("lrp-epsilon-plus")), runtime)
    pictures = sorted(SAMPLES.glob("*.png"))[:3]
    assert_page_says(model, tmp_path / "page", pictures, "lrp-epsilon-plus")


@pytest.mark.browser
def test_a_page_where_the_class_is_chosen(runtime: Path, tmp_path: Path) -> None:
    model = load(MODELS / "digits.onnx")
    export_page(model, ExportRequest(path=tmp_path / "page", method=method("lrp-eps"), target="input"), runtime)
    assert_page_says(model, tmp_path / "page", [SAMPLES / "digits" / "3-a.png"], "lrp-eps", 7)


# --- under node -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("name", ["digits.onnx", "animals.pt"])
def test_node_draws_what_explain_says(runtime: Path, tmp_path: Path, name: str) -> None:
    model = load(MODELS / name)
    export(model, ExportRequest(path=tmp_path / "explained.onnx", method=method("lrp-epsilon-plus"), preprocess=True))
    channels, height, width = model.shape
    picture = Image.open(SAMPLES / ("digits/3-a.png" if channels == 1 else "cat-at-temple.png"))
    picture.resize((width, height)).save(tmp_path / "picture.png", optimize=True)
    (tmp_path / "node_modules").symlink_to(runtime.parent)
    shutil.copy(SAMPLES / "explained" / "heatmap.mjs", tmp_path)
    done = subprocess.run(
        ["node", "heatmap.mjs", "explained.onnx", "picture.png", "heatmap.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    batch = model.preprocess([tmp_path / "picture.png"])
    expected = explain(model, batch, "lrp-epsilon-plus")
    assert said["class"] == int(expected.target.index[0])
    for key, value in said["ledger"].items():
        found = float(getattr(expected.ledger, key)[0])
        assert abs(value - found) < 1e-4 * abs(float(expected.ledger.output[0]))
    heatmap = expected.relevance.sum(1)[0].numpy()
    share = heatmap / np.abs(heatmap).max()
    rest = 255 * (1 - np.abs(share))
    colours = np.stack([np.where(share > 0, 255, rest), rest, np.where(share > 0, rest, 255)], -1)
    drawn = np.asarray(Image.open(tmp_path / "heatmap.png"), dtype=np.float64)
    assert np.abs(drawn - colours).max() <= 1


# --- without a browser --------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files named as the package's."""
    folder = tmp_path / "runtime" / "dist"
    folder.mkdir(parents=True)
    for name in RUNTIME:
        (folder / name).write_bytes(name.encode())
    return folder.parent


def test_a_page_holds_all_it_needs(files: Path, tmp_path: Path) -> None:
    model = load(MODELS / "digits.onnx")
    for _ in range(2):  # the second replaces the first
        export_page(model, ExportRequest(path=tmp_path / "page", method=method("gradient"), target="3"), files)
    there = {file.name for file in (tmp_path / "page").iterdir()}
    assert there == {*RUNTIME, "explained.onnx", ABOUT, *(file.name for file in PAGE.iterdir())}
    about = json.loads((tmp_path / "page" / ABOUT).read_text())
    assert about["fit"] == {"channels": 1, "height": 28, "width": 28, "shorter": None, "interpolation": "bilinear"}
    assert (about["index"], about["minus"], about["inputs"]) == (3, None, ["pixels"])


def test_a_page_without_the_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    request = ExportRequest(path=tmp_path / "page", method=method("gradient"))
    with pytest.raises(UsageError, match="npm install onnxruntime-web"):
        export_page(load(MODELS / "digits.onnx"), request, None)
    with pytest.raises(UsageError, match="not in"):
        export_page(load(MODELS / "digits.onnx"), request, tmp_path)
    assert not (tmp_path / "page").exists()


def test_a_folder_of_other_files_is_left_alone(files: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    for path, says in ((tmp_path / "work", "other files"), (tmp_path / "work" / "thesis.txt", "is a file")):
        with pytest.raises(UsageError, match=says):
            export_page(load(MODELS / "digits.onnx"), ExportRequest(path=path, method=method("gradient")), files)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "mine"
