"""What commands say on stderr: nothing but errors with `--quiet`, each decision with `--verbose`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import MODELS, SAMPLES, Cli

from heatcli.cli.app import app

WOLF = str(SAMPLES / "wolf-on-snow.png")
DIGIT = str(SAMPLES / "digits" / "8-a.png")
DIGITS = str(MODELS / "digits.onnx")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TALKATIVE = (  # each says something on stderr where nothing goes wrong
    ("explain", WOLF),
    ("explain", WOLF, "--method", "gradient", "--method", "lrp-0", "--figure", "grid"),
    ("explain", str(SAMPLES / "digits"), "--model", DIGITS, "--method", "gradient"),
    ("check", DIGITS, DIGIT, "--methods", "gradient"),
    ("mean", str(SAMPLES / "digits"), "-o", "mean.npz", "--model", DIGITS),
    ("activations", DIGIT, "--model", DIGITS),
    ("filters", DIGITS),
    ("bench", DIGITS, "--methods", "gradient", "--repeats", "1"),
)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_the_three(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert {"--quiet", "-q", "--verbose", "-v", "--debug"} <= flags


@pytest.mark.parametrize("command", TALKATIVE, ids=" ".join)
def test_quiet_leaves_the_results(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    """The same files, the same status, the same kind of result on stdout, and not a line on stderr."""
    loud = cli(*command)
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    again = ("--overwrite",) if command[0] == "explain" else ()
    quiet = cli(*command, *again, "--quiet")
    assert quiet.status == loud.status
    assert loud.err
    assert quiet.err == ""
    assert bool(quiet.out) == bool(loud.out)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == files


def test_quiet_keeps_errors(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    ran = cli("explain", WOLF, "bad.png", "--quiet")
    assert ran.status == 1
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("heatcli: bad.png: ")


def test_verbose_says_what_is_decided_and_when(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "heatcli.toml").write_text('baseline = "black"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HEATCLI_CONFIG", raising=False)
        ran = cli("explain", WOLF, "--verbose")
    details = re.findall(r"^heatcli: (\d+\.\d\d) s: (.*)$", ran.err, re.MULTILINE)
    said = "\n".join(text for _, text in details)
    for words in ("settings: heatcli.toml", "torchscript, on cpu", "baseline black, images: 1", "the same as in TorchS",
                  "fold-batch-norm", "wolf-on-snow.png explained in", "done"):  # fmt: skip
        assert words in said
    times = [float(seconds) for seconds, _ in details]
    assert times == sorted(times)
    assert " s: " not in cli("explain", WOLF, "--overwrite").err


def test_verbose_checks_print_what_passes(cli: Cli) -> None:
    command = ("check", DIGITS, DIGIT, "--methods", "gradient")
    assert "PASSED" in cli(*command, "-v").out
    assert "PASSED" not in cli(*command).out


def test_both_at_once_are_refused_and_a_flag_beats_a_setting(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli("methods", "-q", "-v")
    assert (ran.status, ran.err) == (2, "heatcli: --quiet and --verbose exclude each other; give one of them\n")
    monkeypatch.setenv("HEATCLI_QUIET", "1")
    assert "s: opened" in cli("inspect", DIGITS, "--verbose").err
