"""Settings: a file, then variables, then flags; where each comes from; what is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import MODELS, SAMPLES, Cli

from heatcli.cli import settings
from heatcli.cli.app import app

WOLF = SAMPLES / "wolf-on-snow.png"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


pytestmark = pytest.mark.usefixtures("default_figure")


@pytest.fixture(autouse=True)
def searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are searched, as outside of tests."""
    monkeypatch.delenv("HEATCLI_CONFIG")


def write(folder: Path, text: str, name: str = "heatcli.toml") -> None:
    (folder / name).write_text(text)


def in_force(ran: Any) -> dict[str, tuple[Any, str]]:
    return {row["setting"]: (row["value"], row["from"]) for row in json.loads(ran.out)["settings"]}


def test_each_overrides_the_one_before(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, common variable, the command's variable, flag: shown by `config`, and by what is explained."""
    write(
        tmp_path, 'method = "gradient"\nbaseline = "blur"\n[explain]\npixels = "none"\nbiases = "none"\nquiet = true\n'
    )
    found = in_force(cli("config", "explain", "--json"))
    assert found["method"] == (["gradient"], "heatcli.toml")
    assert found["pixels"] == ("none", "heatcli.toml")
    assert found["batch-size"] == (8, "default")
    monkeypatch.setenv("HEATCLI_METHOD", "lrp-0")
    assert in_force(cli("config", "explain", "--json"))["method"] == (["lrp-0"], "HEATCLI_METHOD")
    monkeypatch.setenv("HEATCLI_EXPLAIN_METHOD", "lrp-eps")
    assert in_force(cli("config", "explain", "--json"))["method"] == (["lrp-eps"], "HEATCLI_EXPLAIN_METHOD")
    ran = cli("explain", WOLF, "--json", "--method", "lrp-gamma")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert (report["method"]["name"], report["baseline"]["name"]) == ("lrp-gamma", "blur")
    assert "values" not in report["pixels"]


def test_a_report_cannot_tell_a_setting_from_a_flag(cli: Cli, tmp_path: Path) -> None:
    given = ("--baseline", "black", "--param", "epsilon=0.01", "--mean", "0.5,0.4,0.3", "--biases", "totals")
    flags = json.loads(cli("explain", WOLF, "--json", "--out", "a", *given).out)
    write(
        tmp_path, 'baseline = "black"\nmean = [0.5, 0.4, 0.3]\n[explain]\nparam = "epsilon=0.01"\nbiases = "totals"\n'
    )  # fmt: skip
    settled = json.loads(cli("explain", WOLF, "--json", "--out", "a").out)
    for report in (flags, settled):
        report.pop("seconds")
    assert settled == flags
    assert settled["method"]["parameters"]["epsilon"] == 0.01


def test_pyproject_is_read_from_below_and_paths_begin_at_the_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, '[tool.heatcli]\nmodel = "nets/a.onnx"\nout = "maps"\n', "pyproject.toml")
    below = tmp_path / "one" / "two"
    below.mkdir(parents=True)
    write(tmp_path / "one", "[tool.other]\nx = 1\n", "pyproject.toml")  # which says nothing
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "a.onnx").write_bytes((MODELS / "digits.onnx").read_bytes())
    (tmp_path / "nets" / "a.toml").write_bytes((MODELS / "digits.toml").read_bytes())
    monkeypatch.chdir(below)
    found = in_force(cli("config", "explain", "--json"))
    assert found["model"] == ("../../nets/a.onnx", "../../pyproject.toml")
    assert cli("explain", SAMPLES / "digits" / "8-a.png").status == 0
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {"8-a.lrp-eps.png", "8-a.lrp-eps.json"}
    assert "a.onnx: onnx, " in cli("inspect").out


def test_a_file_named_within_a_text_begins_at_the_settings(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A baseline's picture, an input's array, a list of expected labels; what names no file stays as it is."""
    (tmp_path / "grey.png").write_bytes(WOLF.read_bytes())
    (tmp_path / "m.npz").write_bytes(b"")
    (tmp_path / "a.npy").write_bytes(b"")
    (tmp_path / "blur").mkdir()
    write(
        tmp_path,
        'baseline = "grey.png"\nexpected = "wolf"\ninput = ["meta=a.npy", "x=b.npy"]\n'
        '[evaluate]\nmethods = ["lrp-eps@grey.png", "gradient"]\n[prototype]\nstart = "mean:m.npz"\n',
    )
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    found = in_force(cli("config", "explain", "--json"))
    assert found["baseline"][0] == "../grey.png"
    assert found["expected"][0] == "wolf"
    assert found["input"][0] == ["meta=../a.npy", "x=b.npy"]
    assert in_force(cli("config", "evaluate", "--json"))["methods"][0] == "lrp-eps@../grey.png,gradient"
    assert in_force(cli("config", "prototype", "--json"))["start"][0] == "mean:../m.npz"
    assert cli("explain", WOLF, "--input", "meta=../a.npy").status == 2  # no setting: a path on the command line
    write(tmp_path, 'expected = "wolf"\nbaseline = "grey.png"\n')
    report = json.loads(cli("explain", WOLF, "--json").out)
    assert report["baseline"]["name"] == "image"
    assert report["ledger"]["output"] == pytest.approx(report["ledger"]["output_baseline"]), "the same picture"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metod = 'x'", "heatcli.toml: unknown setting 'metod'; did you mean 'method'?"),
        ("[explian]\nout = 'x'", "heatcli.toml: unknown command 'explian'; did you mean 'explain'?"),
        ("[explain]\nfigur = 'x'", "heatcli.toml: unknown setting of [explain] 'figur'; did you mean 'figure'?"),
        ("[check]\nfigure = 'x'", "heatcli.toml: unknown setting of [check] 'figure'"),
        ("batch-size = '8'", 'heatcli.toml: batch-size = "8": it is a whole number, such as batch-size = 8'),
        ("[explain]\nquiet = 1", "heatcli.toml: [explain] quiet = 1: it is true or false, such as quiet = true"),
        ("model = 3", 'heatcli.toml: model = 3: it is a path, such as model = "…"'),
        ("sandbox = false", "heatcli.toml: sandbox protects from what lies in a folder, so no file in a folder sets "),
        ("method = ", "heatcli.toml: cannot be read: "),
        ("figure = 'pannel'", "unknown figure 'pannel'; did you mean 'panel'? Known: "),
        ("figure = 'pannel'", "(figure is from heatcli.toml)"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_file(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    ran = cli("explain", WOLF)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert cli("explain", "--help").status == 0


def test_an_unknown_variable_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEATCLI_METOD", "gradient")
    assert "note: unknown variable 'HEATCLI_METOD'; did you mean 'HEATCLI_METHOD'?" in cli("help").err


def test_a_flag_beats_what_would_exclude_it(cli: Cli, tmp_path: Path) -> None:
    """`-o` with `out` in the file; `--preset` with the file's mean, which the preset would else not change."""
    write(tmp_path, 'out = "maps"\nmean = 0.25\nstd = 0.25\n')
    ran = cli("explain", WOLF, "-o", "one.png", "--preset", "none", "--size", "96")
    assert ran.status == 0
    assert (tmp_path / "one.png").is_file()
    shown = json.loads(cli("inspect", MODELS / "animals.pt", "--preset", "none", "--json").out)["input"]
    assert (shown["mean"], shown["std"]) == (0.0, 1.0)
    shown = json.loads(cli("inspect", MODELS / "animals.pt", "--json").out)["input"]
    assert (shown["mean"], shown["std"]) == ([0.25], [0.25])


def test_a_file_can_be_named_or_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'method = "gradient"')
    write(tmp_path, 'method = "lrp-0"', "other.toml")
    monkeypatch.setenv("HEATCLI_CONFIG", "other.toml")
    assert in_force(cli("config", "explain", "--json"))["method"] == (["lrp-0"], "other.toml")
    monkeypatch.setenv("HEATCLI_CONFIG", "none")
    assert "nothing is set" in cli("config").out
    monkeypatch.setenv("HEATCLI_CONFIG", "missing.toml")
    ran = cli("config")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "missing.toml: " in ran.err


def test_config_lists_all_that_is_set_where_no_command_is_named(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, 'target = "dog"\n[gallery]\nmax-mb = 5\n')
    ran = cli("config", "--json")
    rows = {(row["command"], row["setting"]): row["value"] for row in json.loads(ran.out)["settings"]}
    assert rows["gallery", "max-mb"] == 5
    assert rows["explain", "target"] == rows["compare", "target"] == "dog"
    assert "heatcli.toml" in cli("config").out


def test_a_key_without_table_means_the_same_in_all_commands() -> None:
    kinds: dict[str, set[type]] = {}
    for command in COMMANDS.values():
        for key in settings.keys(command).values():
            if key.common and key.key not in ("model", "out"):  # of which some are names besides paths
                kinds.setdefault(key.key, set()).add(key.kind)
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


def test_config_needs_no_torch(tmp_path: Path) -> None:
    write(tmp_path, 'method = "gradient"')
    code = (
        "import sys; sys.argv = ['heatcli', 'config']\n"
        "from heatcli.cli.app import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=path)
    assert "gradient" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
