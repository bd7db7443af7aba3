"""The README and the pages of `heatcli help`: what they link to is there, their commands parse, their examples run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MODELS, ROOT, SAMPLES
from typer.main import get_command

from heatcli.cli.app import app
from heatcli.errors import UsageError

README = ROOT / "README.md"
HELP = sorted((ROOT / "heatcli" / "help").glob("*.md"))
MANUAL = [README, *HELP]
LINKED = [*MANUAL, ROOT / "heatcli" / "README.md", *MODELS.glob("*.md"), *(ROOT / "tests" / "measure").rglob("*.md")]
ROOT_COMMAND: Any = get_command(app)
COMMANDS: dict[str, Any] = ROOT_COMMAND.commands
ENDS = {"|", "||", "&", "&&", ";", ">", ">&", ">>", "<"}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def by_name(path: Path) -> str:
    """A page's name, for the name of its test."""
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, "" for none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in fences if name == language]


def prose(text: str) -> str:
    """The page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(line: str) -> Iterator[list[str]]:
    """The arguments of each `heatcli` in a line of a shell script."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = [*lexer, ";"]
    while "heatcli" in words:
        rest = words[words.index("heatcli") + 1 :]
        end = next(i for i, word in enumerate(rest) if word in ENDS)
        yield rest[:end]
        words = rest[end:]


def parsed(arguments: list[str]) -> None:
    """Raise where the command line would refuse these arguments."""
    name, *rest = arguments
    COMMANDS[name].make_context(name, rest)


def options(command: Any) -> set[str]:
    """The options of a command."""
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", LINKED, ids=by_name)
def test_every_link_and_every_path_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in link]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []
    if page in MANUAL:  # a name in capitals stands for one to choose
        paths = re.findall(r"`(?:python )?((?:tests|models|heatcli)/[\w./-]+\.\w+)`", text)
        assert [path for path in paths if not ((ROOT / path).exists() or path.endswith("FORMAT.py"))] == []


@pytest.mark.parametrize("page", MANUAL, ids=by_name)
def test_every_command_in_a_script_parses(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "sh"):
        for line in block.splitlines():
            for arguments in commands(line):
                parsed(arguments)


@pytest.mark.parametrize("page", MANUAL, ids=by_name)
def test_every_command_and_option_that_is_named_exists(page: Path) -> None:
    known = set().union(*map(options, (ROOT_COMMAND, *COMMANDS.values())))
    for code in re.findall(r"`([^`\n]+)`", prose(page.read_text(encoding="utf-8"))):
        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)
        if found := re.match(r"heatcli ([a-z][a-z-]*)", code):
            assert set(named) <= options(COMMANDS[found[1]]), code
        elif not code.startswith(("pytest", "python")):
            assert set(named) <= known, code


def test_a_wrong_command_does_not_parse() -> None:
    assert list(commands("find a | heatcli explain - --out 'b c'  # heatcli mean")) == [
        ["explain", "-", "--out", "b c"]
    ]
    with pytest.raises(Exception, match="No such option"):
        parsed(["explain", "a.png", "--colour", "red"])
    with pytest.raises(UsageError, match="takes one value"):
        parsed(["explain", "a.png", "--out", "a", "--out", "b"])
    with pytest.raises(KeyError):
        parsed(["explane", "a.png"])


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert [page.name for page in HELP if f"(heatcli/help/{page.name})" not in text] == []
    table = text.partition("## Commands")[2].partition("## ")[0]
    assert [name for name in COMMANDS if not re.search(rf"`(heatcli )?{name}\b", table)] == []


@pytest.mark.parametrize("page", HELP, ids=by_name)
def test_a_page_has_a_title_and_fits_a_few_screens(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 150


def test_the_version_has_its_place_in_the_changelog() -> None:
    from heatcli.version import __version__

    assert f"\n## {__version__}\n" in (ROOT / "heatcli" / "help" / "changelog.md").read_text(encoding="utf-8")
    assert f"version = {{{__version__}}}" in README.read_text(encoding="utf-8")


def shown(expected: str, printed: str) -> bool:
    """Whether each line of `expected` is printed, in this order; numbers may differ by rounding."""
    lines = iter(printed.splitlines())
    return all(any(_alike(line, other) for other in lines) for line in expected.splitlines())


def _alike(a: str, b: str) -> bool:
    numbers = [[float(n) for n in NUMBER.findall(line)] for line in (a, b)]
    return NUMBER.sub("#", a) == NUMBER.sub("#", b) and numbers[0] == pytest.approx(numbers[1], rel=2e-3, abs=1e-4)


def test_a_transcript_that_is_not_what_is_printed_is_noticed() -> None:
    assert shown("b 1.0001\nc 2", "a 0\nb 1.0002\nx\nc 2\n")
    assert not shown("b 1.01", "b 1.02")
    assert not shown("c 2\nb 1", "b 1\nc 2")
    assert not shown("b 1", "b")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that holds what the README's commands name."""
    shutil.copytree(MODELS, tmp_path / "checkout" / "models", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copytree(SAMPLES, tmp_path / "checkout" / "samples")
    return tmp_path / "checkout"


def run(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A script of the manual, as bash runs it; stdout and stderr together."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
    )  # fmt: skip


TASKS = README.read_text(encoding="utf-8").partition("## What it is")[0]
SECTIONS = re.split(r"^### \d\. ", TASKS, flags=re.MULTILINE)[1:]
STATUS = {"Find a shortcut": 1}  # as the README says
MAKES = {
    "Explain one image": ["heatmaps/wolf-on-snow.lrp-eps.png"],
    "Explain a folder, in a shell script": ["maps/index.jsonl", "maps/report.html"],
    "Check a model in CI": ["heatcheck.xml"],
    "Compare two exports": ["models/animals.onnx"],
    "Find a shortcut": [],
    "Ask the report": ["heatmaps/wolf-on-snow.lrp-eps.json"],
}
SLOW = "Check a model in CI", "Compare two exports", "Find a shortcut"
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq")


@needs_jq
@pytest.mark.parametrize(
    ("title", "section"),
    [
        pytest.param(title, section, id=title, marks=[pytest.mark.slow] if title in SLOW else [])
        for title, section in ((section.partition("\n")[0], section) for section in SECTIONS)
    ],
)
def test_each_of_the_six_tasks_works_as_the_readme_has_it(
    title: str, section: str, checkout: Path, on_path: dict[str, str]
) -> None:
    (script,) = blocks(section, "sh")
    ran = run(script, checkout, on_path)
    assert ran.returncode == STATUS.get(title, 0), ran.stdout
    assert all(shown(expected, ran.stdout) for expected in blocks(section, "")), ran.stdout
    assert [name for name in MAKES[title] if not (checkout / name).stat().st_size] == []


def test_there_are_six_tasks() -> None:
    assert [section.partition("\n")[0] for section in SECTIONS] == list(MAKES)


@needs_jq
def test_the_worked_example_of_the_ledger_is_what_heatcli_prints(checkout: Path, on_path: dict[str, str]) -> None:
    text = (ROOT / "heatcli" / "help" / "ledger.md").read_text(encoding="utf-8")
    printed = blocks(text, "")
    scripts = blocks(text, "sh")
    assert len(printed) == len(scripts) == 3
    for script, expected in zip(scripts, printed, strict=True):
        ran = run(script, checkout, on_path)
        assert ran.returncode == 0, ran.stdout
        assert shown(expected, ran.stdout), ran.stdout


@needs_jq
def test_the_recipes_for_reports_run(checkout: Path, on_path: dict[str, str]) -> None:
    text = (ROOT / "heatcli" / "help" / "reports.md").read_text(encoding="utf-8")
    for script in blocks(text, "sh"):
        ran = run(script, checkout, on_path)
        assert ran.returncode == 0, ran.stdout
