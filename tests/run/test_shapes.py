"""Signals, volumes and tables from the command line: read, explained by every method, reported, drawn again."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from networks import save
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.figures.page import entries
from heatcli.figures.reading import view_of
from heatcli.methods.table import METHODS
from heatcli.report.schema import json_schema

pytestmark = pytest.mark.usefixtures("default_figure")

SIDES = {"signal": (2, 64), "volume": (1, 8, 10, 12)}
PLANTED = {"signal": (1, slice(40, 46)), "volume": (0, slice(2, 4), slice(6, 8), slice(3, 6))}
# Few runs, so that every method takes a second; one that draws from a folder of pictures is for pictures alone.
FEW = {"masks": 400, "samples": 60, "steps": 8, "superpixels": 12, "window": 2, "stride": 1}
BOUNDED = {"deep-taylor", "lrp-zb", "lrp-epsilon-gamma-box"}  # rules of pixels between black and white
SPREAD = {"deconvnet", "taylor", "vargrad"}  # the same at each position, since the network's weights are
NAMES = [name for name, method in METHODS.items() if method.procedure.takes != "folder" and method.baseline != "given"]


class Bright(nn.Module):
    """Two scores: how much of the input is above a half, and a constant. Nothing but the planted part is."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](channels, 2, 1)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.fill_(-0.5)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(2).sum(2))


def artifact(kind: str, folder: Path, form: str = "scripted") -> Path:
    """The network for that kind, saved."""
    sides = SIDES[kind]
    return save(Bright(len(sides) - 1, sides[0]).eval(), folder, form, sides)


def planted(kind: str) -> np.ndarray[Any, Any]:
    """An input of small numbers with a bright part."""
    values = 0.05 * np.random.default_rng(0).random(SIDES[kind]).astype(np.float32)
    values[PLANTED[kind]] += 3
    return values


def reported(cli: Cli, *arguments: object) -> dict[str, Any]:
    """The report that a command prints, valid by its schema."""
    ran = cli("explain", *arguments, "--json")
    assert ran.status == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    jsonschema.validate(report, json_schema())
    return report


@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
@pytest.mark.parametrize("kind", SIDES)
def test_the_map_is_the_python_interfaces(tmp_path: Path, cli: Cli, kind: str, form: str) -> None:
    path, values = artifact(kind, tmp_path, form), planted(kind)
    np.save(tmp_path / "x.npy", values)
    report = reported(cli, "x.npy", "-m", path, "--method", "lrp-eps")
    found = heatcli.explain(heatcli.load(path), torch.from_numpy(values[None]), "lrp-eps").relevance[0].numpy()
    expected = found if kind == "signal" else found.sum(0)
    assert report["image"]["kind"] == kind
    assert report["pixels"]["shape"] == list(expected.shape)
    assert np.allclose(report["pixels"]["values"], expected, atol=1e-7)
    assert abs(report["ledger"]["relative_error"]) < 1e-5


@pytest.mark.parametrize("kind", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_finds_what_is_planted(tmp_path: Path, kind: str, name: str) -> None:
    """The strongest relevance lies in the planted part, and the ledger is closed."""
    model = heatcli.load(artifact(kind, tmp_path))
    method = METHODS[name]
    parameters = {key: value for key, value in FEW.items() if key in method.fields}
    baseline = None if method.baseline is None else "zero" if method.baseline != "none" else None
    batch = torch.from_numpy(planted(kind)[None])
    if name in BOUNDED:
        with pytest.raises(heatcli.UsageError, match="needs the range of pixels, which only pictures"):
            heatcli.explain(model, batch, name, 0, baseline, **parameters)
        return
    found = heatcli.explain(model, batch, name, 0, baseline, **parameters)
    assert found.relevance.shape == batch.shape
    mass = found.relevance[0].abs().sum(0)
    if name not in SPREAD:
        assert float(mass[PLANTED[kind][1:]].max()) >= float(mass.max()) * (1 - 1e-5), name
    if method.conserves:
        assert float(found.ledger.relative_error.max()) < 1e-4


def test_a_size_that_nothing_says_is_tried(tmp_path: Path, cli: Cli) -> None:
    path = artifact("signal", tmp_path)
    np.save("x.npy", planted("signal"))
    ran = cli("explain", "x.npy", "-m", path)
    assert ran.status == 0, ran.err
    assert "tried with the input's own shape 1×2×64" in ran.err
    shown = cli("inspect", path)
    assert "signal" in shown.out, shown.out + shown.err


class Stacked(nn.Module):
    """A network for pictures whose first convolution is one of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.unsqueeze(1)).relu().mean((2, 3, 4)))


def test_a_first_convolution_is_a_guess_that_a_size_overrules(tmp_path: Path, cli: Cli) -> None:
    torch.jit.trace(Stacked().eval(), torch.rand(1, 3, 16, 16)).save(str(tmp_path / "m.pt"))
    assert heatcli.load("m.pt", size=(16, 16)).settings.input.layout.kind == "picture"
    ran = cli("explain", SAMPLES / "wolf-on-snow.png", "-m", "m.pt", "--size", "16x16")
    assert ran.status == 0, ran.err
    ran = cli("explain", SAMPLES / "wolf-on-snow.png", "-m", "m.pt", "--size", "16")
    assert "is no volume" in ran.err
    assert "if the model takes pictures, add --axes NCHW" in ran.err


def test_a_folder_of_signals_of_different_lengths(tmp_path: Path, cli: Cli) -> None:
    path = artifact("signal", tmp_path)
    (tmp_path / "in").mkdir()
    values = planted("signal")
    np.save("in/a.npy", values)
    np.savetxt("in/b.csv", values[:, :50].T, delimiter=",", header="left,right", comments="")
    with wave.open("in/c.wav", "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(100)
        file.writeframes((np.clip(values.T / 4, -1, 1) * 32767).astype("<i2").tobytes())
    ran = cli("explain", "in", "-m", path, "--out", "out", "--method", "lrp-eps")
    assert ran.status == 0, ran.err
    shapes = [json.loads(Path(f"out/{name}.lrp-eps.json").read_text())["pixels"]["shape"] for name in "abc"]
    assert shapes == [[2, 64], [2, 50], [2, 64]]


@pytest.mark.parametrize(("kind", "word"), [("signal", "samples"), ("volume", "voxels")])
def test_the_ledger_has_the_inputs_own_word(tmp_path: Path, cli: Cli, kind: str, word: str) -> None:
    path = artifact(kind, tmp_path)
    np.save("x.npy", planted(kind))
    ran = cli("explain", "x.npy", "-m", path, "--method", "lrp-eps", "--figure", "none", "--out", "out")
    assert f" {word} + " in ran.err
    assert "pixels" not in ran.err
    assert [name for name, _ in entries(view_of("out/x.lrp-eps.json"))][:2] == [word, "biases"]
    cli("gallery", "out")
    assert f"goes to the {word}, and a map" in Path("out/report.html").read_text()


@pytest.mark.parametrize("kind", SIDES)
def test_figures_are_drawn_again(tmp_path: Path, cli: Cli, kind: str) -> None:
    path = artifact(kind, tmp_path)
    np.save("x.npy", planted(kind))
    assert cli("explain", "x.npy", "-m", path, "--method", "lrp-eps", "--out", "out").status == 0
    ran = cli("show", "out/x.lrp-eps.json", "-o", "again.png")
    assert ran.status == 0, ran.err
    one, two = (np.asarray(Image.open(name).convert("RGB")) for name in ("out/x.lrp-eps.png", "again.png"))
    assert one.shape == two.shape
    assert np.array_equal(one, two)
    assert (one.astype(int).max(2) - one.astype(int).min(2) > 100).any(), "colours"


def test_a_table(tmp_path: Path, cli: Cli) -> None:
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
        module.bias.zero_()
    path = save(module.eval(), tmp_path, "onnx-old", (3,))
    Path("t.csv").write_text("age;dose;weight\n2;0.5;1\n")
    report = reported(cli, "t.csv", "-m", path, "--target", "0", "--baseline", "zero")
    assert np.allclose(report["pixels"]["values"], [[2.0, -1.0, 0.5]], atol=1e-4)
    for name in ("occlusion", "kernel-shap"):
        report = reported(cli, "t.csv", "-m", path, "--target", "0", "--method", name)
        assert np.allclose(report["pixels"]["values"], [[2.0, -1.0, 0.5]], atol=1e-4), name
    Path("two.csv").write_text("1,2,3\n4,5,6\n")
    assert "two.csv: holds 2 rows" in cli("explain", "two.csv", "-m", path).err


def test_channels_last(tmp_path: Path, cli: Cli) -> None:
    class Last(Bright):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(1, 2))

    path = save(Last(1, 2).eval(), tmp_path, "onnx-old", (64, 2))
    values = planted("signal")
    np.save("x.npy", values)
    report = reported(cli, "x.npy", "-m", path, "--method", "occlusion", "--param", "window=2")
    assert report["model"]["input"]["axes"] == "NLC"
    found = np.array(report["pixels"]["values"])
    assert found.shape == (2, 64)
    assert 38 <= int(np.abs(found).sum(0).argmax()) < 48


BAD = {
    "channels.npy": (np.zeros((3, 64)), "channels.npy: has the shape (3, 64); the model takes a signal of 2 channels"),
    "rank.npy": (np.zeros((2, 3, 4, 5)), "rank.npy: has the shape (2, 3, 4, 5); the model takes a signal"),
    "nan.npy": (np.full((2, 64), np.nan), "nan.npy: holds values that are not finite numbers"),
    "long.npy": (np.zeros((2, 65)), "long.npy: has 65 samples, and the model takes 64"),
}


@pytest.mark.parametrize("name", [*BAD, "empty.csv", "words.csv", "bad.wav", "wolf"])
def test_bad_input_is_one_line(tmp_path: Path, cli: Cli, name: str) -> None:
    path = artifact("signal", tmp_path, "onnx-old")
    told = "is no signal"
    if name in BAD:
        values, told = BAD[name]
        np.save(name, values)
    elif name == "wolf":
        name = str(SAMPLES / "wolf-on-snow.png")
    elif name == "empty.csv":
        Path(name).write_text("")
        told = "is empty"
    else:
        Path(name).write_text("a,b\nc,d\n")
    ran = cli("explain", name, "-m", path)
    assert ran.status == 1, ran.err
    assert told in ran.err
    assert ran.err.count("\n") == 1


def test_nifti_is_written_in_its_own_voxels(tmp_path: Path, cli: Cli) -> None:
    nibabel = pytest.importorskip("nibabel")
    path, affine = artifact("volume", tmp_path, "onnx-old"), np.diag([2.0, 2.0, 3.0, 1.0])
    values = planted("volume")[0].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    nibabel.save(nibabel.Nifti1Image(values, affine), "v.nii.gz")
    report = reported(cli, "v.nii.gz", "-m", path, "--method", "lrp-eps", "--arrays", "nii.gz", "--out", "out")
    found = nibabel.load(Path("out", report["files"]["arrays"]))
    assert np.array_equal(found.affine, affine)
    assert found.shape == values.shape
    relevance = found.get_fdata()
    assert relevance.sum() == pytest.approx(report["pixels"]["total"], rel=0.05)
    place = np.unravel_index(int(relevance.argmax()), relevance.shape)
    assert all(2 * part.start <= at < 2 * part.stop for at, part in zip(place, PLANTED["volume"][1:], strict=True))


class Moving(nn.Module):
    """How bright the red of a clip [N, 3, T, H, W] is in its third frame; and nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 2].sum((1, 2)), 0 * x.sum((1, 2, 3, 4))], 1)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_clip_from_an_animated_picture(tmp_path: Path, cli: Cli, suffix: str) -> None:
    """Its frames are the depth: read as an array of them is; the map lies in the frame that counts."""
    path = save(Moving().eval(), tmp_path, "onnx-old", (3, 4, 8, 10))
    frames = np.zeros((4, 8, 10, 3), np.uint8)
    frames[2, 2:5, 3:6] = (255, 0, 0)
    frames[1, :4] = frames[3, 4:] = (0, 0, 255)
    first, *rest = (Image.fromarray(frame) for frame in frames)
    more = {"lossless": True} if suffix == "webp" else {}
    first.save(f"clip.{suffix}", save_all=True, append_images=rest, duration=40, **more)
    np.save("clip.npy", frames.transpose(3, 0, 1, 2).astype(np.float32) / 255)
    given = ["-m", path, "--target", "0", "--method", "lrp-0", "--baseline", "zero"]
    one, other = (reported(cli, name, *given, "--out", "out")["pixels"] for name in (f"clip.{suffix}", "clip.npy"))
    assert one["shape"] == [4, 8, 10]
    assert np.allclose(one["values"], other["values"], atol=1e-3)
    values = np.array(one["values"])
    assert values[2].sum() == pytest.approx(9, rel=1e-3)
    assert np.abs(values[[0, 1, 3]]).max() == 0
    assert Path("out/clip.lrp-0.png").is_file()


def test_a_still_picture_is_no_clip(tmp_path: Path, cli: Cli) -> None:
    path = save(Moving().eval(), tmp_path, "onnx-old", (3, 4, 8, 10))
    Image.new("RGB", (10, 8)).save("still.gif")
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(20)]
    frames[0].save("long.gif", save_all=True, append_images=frames[1:])
    Path("bad.webp").write_bytes(b"RIFF....WEBP")
    told = {"still.gif": "holds one frame, and a clip has several", "bad.webp": "is no volume"}
    for name, words in told.items():
        ran = cli("explain", name, "-m", path)
        assert (ran.status, ran.err.count("\n")) == (1, 1), ran.err
        assert f"{name}: {words}" in ran.err
    ran = cli("explain", "long.gif", "-m", path, "--max-pixels", "20000")
    assert "long.gif: is too large; at most 60,000 numbers are read (--max-pixels)" in ran.err
