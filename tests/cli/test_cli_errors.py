"""Bad input: one clear line on stderr, the documented exit status, nothing half-written."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli

WOLF = str(SAMPLES / "wolf-on-snow.png")


def _png_of(width: int, height: int) -> bytes:
    """A valid PNG header that promises more pixels than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of files that are not what they should be."""
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(Path(WOLF).read_bytes()[:20_000])
    (tmp_path / "huge.png").write_bytes(_png_of(60_000, 60_000))
    (tmp_path / "folder.png").mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "junk.pt").write_bytes(b"junk, not a model")
    (tmp_path / "cut.pt").write_bytes((MODELS / "animals.pt").read_bytes()[:400_000])
    (tmp_path / "cut.onnx").write_bytes((MODELS / "digits.onnx").read_bytes()[:900])
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}')
    (tmp_path / "file").write_text("a file where a folder should be")
    (tmp_path / "bare.pt").write_bytes((MODELS / "animals.pt").read_bytes())
    return tmp_path


CASES = [
    # images: status 1
    (["missing.png"], 1, "missing.png: no such image file"),
    (["zero.png"], 1, "zero.png: the image file is empty"),
    (["text.png"], 1, "text.png: is not an image that Pillow can read"),
    (["cut.png"], 1, "cut.png: is damaged or truncated"),
    (["huge.png"], 1, "huge.png: is too large"),
    # usage: status 2
    (["folder.png"], 2, "folder.png: no images in this folder"),
    ([WOLF, "--method", "lrp-ep"], 2, "unknown method 'lrp-ep'; did you mean 'lrp-eps'?"),
    ([WOLF, "--param", "epsilom=1"], 2, "unknown parameter of lrp-eps 'epsilom'; did you mean 'epsilon'?"),
    ([WOLF, "--param", "epsilon=-1"], 2, "epsilon=-1 is not allowed; it must be a number ≥ 0"),
    ([WOLF, "--param", "epsilon=much"], 2, "epsilon='much' is not a number"),
    ([WOLF, "--param", "epsilon"], 2, "--param epsilon is not of the form name=value"),
    ([WOLF, "--method", "gradient", "--param", "epsilon=1"], 2, "method gradient takes no parameters"),
    ([WOLF, "--method", "gradient", "--baseline", "zero"], 2, "method gradient compares with nothing"),
    ([WOLF, "--baseline", "blak"], 2, "unknown baseline 'blak'; did you mean 'black'?"),
    ([WOLF, "--baseline", "blur:wide"], 2, "blur:wide is not allowed"),
    ([WOLF, "--baseline", "folder.png"], 2, "baseline folder.png: is a directory"),
    ([WOLF, "--baseline", "missing.png"], 2, "baseline missing.png: no such image file"),
    ([WOLF, "--baseline", "mean:zero.png"], 2, "zero.png: is no mean image"),
    ([WOLF, "--target", "wulf"], 2, "unknown label 'wulf'; did you mean 'wolf'?"),
    ([WOLF, "--target", "99"], 2, "target '99' is out of range: the model has classes 0 to 15"),
    ([WOLF, "--target", "wolf-99"], 2, "unknown label 'wolf-99'"),
    ([WOLF, "--cmap", "vidris"], 2, "unknown diverging colour map 'vidris'"),
    ([WOLF, "--opacity", "2"], 2, "--opacity 2 is not allowed"),
    ([WOLF, "--pixels", "jsn"], 2, "--pixels jsn is not known; use json, npz, none"),
    ([WOLF, "--batch-size", "0"], 2, "--batch-size 0 is not allowed"),
    ([WOLF, "--size", "big"], 2, "--size big is not a size"),
    ([WOLF, "--mean", "a,b"], 2, "--mean a,b is not a list of numbers"),
    ([WOLF, "--resize", "squash"], 2, "resize 'squash' is not known"),
    ([WOLF, "--device", "gpu"], 2, "device 'gpu' is not known"),
    ([WOLF, "--out", "file"], 2, "file: is a file, not a folder to write to"),
    ([WOLF, "--out", "/proc/nowhere"], 2, "/proc/nowhere: cannot be written to"),
    ([WOLF, "--model", "bare.pt", "--resize", "crop"], 2, "nor bare.toml says its input size; give --size"),
    # models: status 3
    ([WOLF, "--model", "missing.pt"], 3, "missing.pt: no such model file"),
    ([WOLF, "--model", "folder.png"], 3, "folder.png: is a directory, not a model file"),
    ([WOLF, "--model", "state.pt"], 3, "never unpickles; export it where its code is"),
    ([WOLF, "--model", "module.pt"], 3, "is a pickled module or a state dict"),
    ([WOLF, "--model", "pickle.pt"], 3, "pickle.pt: is a pickle; heatcli never unpickles"),
    ([WOLF, "--model", "empty.pt"], 3, "empty.pt: the model file is empty"),
    ([WOLF, "--model", "junk.pt"], 3, "junk.pt: is neither TorchScript nor ONNX"),
    ([WOLF, "--model", "cut.pt"], 3, "cut.pt: is a damaged or truncated zip archive"),
    ([WOLF, "--model", "cut.onnx"], 3, "cut.onnx: is no valid ONNX model"),
    ([WOLF, "--model", "weights.safetensors"], 3, "holds weights only (safetensors)"),
    ([WOLF, "--model", WOLF], 3, "is a PNG image, not a model"),
    ([WOLF, "--channels", "1", "--mean", "0", "--std", "1"], 3, "cannot be run on an input of shape (1, 1, 96, 96)"),
    ([WOLF, "--model", str(MODELS / "digits.onnx"), "--size", "20"], 2, "digits.onnx: takes pictures of 28×28 alone"),
    ([WOLF, "--mean", "0.1,0.2"], 3, "mean has 2 values for an input of 3 channels"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), CASES, ids=[" ".join(c[0])[-50:] for c in CASES])
def test_one_line_and_the_documented_status(
    cli: Cli, bad: Path, arguments: list[str], status: int, message: str
) -> None:
    before = {p.name for p in bad.iterdir()}
    ran = cli("explain", *arguments)
    assert message in ran.err
    assert ran.status == status
    assert ran.err.count("\n") == 1, ran.err
    assert ran.out == ""
    left = [p for p in bad.rglob("*") if p.is_file() and p.parent.name == "heatmaps"]
    assert not left
    assert {p.name for p in bad.iterdir()} <= before | {"heatmaps"}


def test_a_traceback_only_with_debug(cli: Cli, bad: Path) -> None:  # noqa: ARG001
    plain = cli("explain", WOLF, "--method", "nope")
    debugged = cli("explain", WOLF, "--method", "nope", "--debug")
    assert "Traceback" not in plain.err
    assert "Traceback" in debugged.err
    assert debugged.err.endswith(plain.err)
    assert plain.status == debugged.status == 2


def test_wrong_flags_end_with_2(cli: Cli) -> None:
    ran = cli("explain", WOLF, "--metod", "lrp-0")
    assert ran.status == 2
    assert "No such option: --metod" in ran.err
    assert cli("explain").status == 2
    assert cli("mean", "nowhere", "-o", "m.npz").status == 2
    assert "is not a folder" in cli("mean", "nowhere", "-o", "m.npz").err
    assert "name it so" in cli("mean", SAMPLES, "-o", "m.png").err


@pytest.mark.parametrize("command", [("evaluate", MODELS / "animals.pt"), ("compare", "gradient", "lrp-0")])
def test_a_command_without_a_picture_it_can_read_says_one_line(command: tuple[str | Path, ...], cli: Cli) -> None:
    Path("bad.png").write_bytes(b"not a picture")
    ran = cli(*command, "bad.png")
    lines = [line for line in ran.err.splitlines() if line.startswith("heatcli: ")]
    assert (ran.status, len(lines)) == (1, 1)
    assert "bad.png: " in lines[0]
