"""What the shell completes, by the protocol of the completion scripts: a process, its environment, its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODELS, ROOT

from heatcli.cli.completion import METHODS

# heatcli, and on stderr whether torch was loaded
CODE = """
import sys; sys.argv = ["heatcli"]
from heatcli.cli.app import main
try: main()
finally: print(int("torch" in sys.modules), file=sys.stderr)
"""


def completed(line: str, folder: Path) -> tuple[list[str], bool]:
    """What bash is given for the line, whose last word is incomplete, and whether that took torch."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_HEATCLI_COMPLETE": "complete_bash", "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.stderr in ("0\n", "1\n")  # nothing else is said
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else [], done.stderr == "1\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("heatcli explain a.png --method grad-cam", ["grad-cam", "grad-cam-plus-plus"]),
        ("heatcli check m.pt a.png --methods lrp-0,guided-b", ["lrp-0,guided-backprop"]),
        ("heatcli explain a.png --preset ", ["imagenet", "mnist", "none"]),
        ("heatcli explain a.png --baseline b", ["black", "blur"]),
        ("heatcli explain a.png --baseline here/", ["here/inner/", "here/white.png"]),
        ("heatcli show a.json --figure p", ["panel", "parts"]),
        ("heatcli explain a.png --pixels n", ["npz", "none"]),
        ("heatcli explain a.png --cmap RdY", ["RdYlBu", "RdYlGn", "RdYlBu_r", "RdYlGn_r"]),
        ("heatcli explain a.png --target wo", ["wolf"]),
        (
            f"heatcli explain a.png --model {MODELS / 'digits.onnx'} --target ",
            ["top", "path", "detections", *map(str, range(10))],
        ),
        ("heatcli explain a.png --labels mine.txt --expected ", ["red apple", "pear"]),
        ("heatcli config exp", ["explain", "export"]),
        ("heatcli explain a.png --target nothing-so", []),
        ("heatcli explain a.png --model none.pt --target x", []),
    ],
)
def test_names_are_completed_without_torch(line: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "here" / "inner").mkdir(parents=True)
    (tmp_path / "here" / "white.png").touch()
    (tmp_path / "mine.txt").write_text("red apple\npear\n")
    assert completed(line, tmp_path) == (found, False)


def test_words_that_bash_breaks_are_whole(tmp_path: Path) -> None:
    """bash itself, whose words break at `:` and `=`: what stands before the last break is not repeated."""
    script = """
        heatcli() { "$PYTHON" -c 'import sys; sys.argv = ["heatcli"]; from heatcli.cli.app import main; main()'; }
        export -f heatcli
        printf '#!/usr/bin/env bash\\nheatcli\\n' > run; chmod +x run  # sh would drop the exported function
        eval "$(_HEATCLI_COMPLETE=source_bash heatcli)"
        complete_words() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _heatcli_completion ./run; IFS=" "; echo "${COMPREPLY[*]}"
        }
        complete_words heatcli explain --model torchvision : resnet15
        complete_words heatcli explain --model = torchvision : resnet15
        complete_words heatcli explain --figure = p
        complete_words heatcli explain --model torchvision : resnet18 --figure p
        complete_words heatcli check m.pt a.png --methods lrp-0,guided-b
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.splitlines() == ["resnet152", "resnet152", "panel parts", "panel parts", "lrp-0,guided-backprop"]


def test_layers_are_those_of_the_model_that_settings_name(tmp_path: Path) -> None:
    (tmp_path / "heatcli.toml").write_text(f'model = "{MODELS / "digits.onnx"}"\n')
    os.environ.pop("HEATCLI_CONFIG")
    try:
        found, _ = completed("heatcli explain a.png --layer conv", tmp_path)
    finally:
        os.environ["HEATCLI_CONFIG"] = "none"
    assert "convolution_0" in found or "convolution" in found
    assert all(name.startswith("conv") for name in found)


def test_what_fails_completes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged model, and settings that are wrong, which are read: nothing is said of either."""
    monkeypatch.delenv("HEATCLI_CONFIG")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "heatcli.toml").write_text("metod = 1")
    assert completed("heatcli explain a.png --model bad.pt --layer ", tmp_path)[0] == []
    assert completed("heatcli explain a.png --model bad.pt --target x", tmp_path)[0] == []


def test_the_names_are_those_of_the_registries() -> None:
    from heatcli.cli import drawing, options
    from heatcli.figures.draw import KINDS
    from heatcli.images.baselines import BASELINES
    from heatcli.methods.table import METHODS as TABLE
    from heatcli.model.presets import PRESETS

    assert list(TABLE) == METHODS
    figure, baseline = (one.__metadata__[0].metavar for one in (drawing.Kind, options.MethodsBaseline))
    assert tuple(figure.split("|")) == KINDS
    assert set(BASELINES) == {word.partition("[")[0] for word in baseline.split("|")} - {"IMAGE"}
    preset = options.Load.__annotations__["preset"]
    assert all(f"{name}|" in preset for name in PRESETS)
