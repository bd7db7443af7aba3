"""`heatcli help`: pages of the manual."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT, Cli

from heatcli.cli.help import complete, topics

PAGES = ROOT / "heatcli" / "help"


def test_topics_are_the_pages(cli: Cli) -> None:
    assert list(topics()) == sorted(page.stem for page in PAGES.glob("*.md"))
    said = cli("help")
    assert said.status == 0
    for name, title in topics().items():
        assert f"  {name} " in said.out
        assert title in said.out


@pytest.mark.parametrize("topic", topics())
def test_a_page_in_a_pipe_is_its_text(cli: Cli, topic: str) -> None:
    said = cli("help", topic)
    assert (said.status, said.err) == (0, "")
    assert said.out == (PAGES / f"{topic}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("ledgr", "unknown topic 'ledgr'; did you mean 'ledger'? Known: attention, baselines, "),
        ("../README", "unknown topic '../README'"),
        ("explain", "`heatcli COMMAND --help` for a command's options"),
    ],
)
def test_an_unknown_topic_is_one_line(cli: Cli, topic: str, message: str) -> None:
    said = cli("help", topic)
    assert (said.status, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_topics_complete() -> None:
    assert complete("le") == [("ledger", "The ledger: where the score goes")]
    assert len(complete("")) == len(topics())


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['heatcli', 'help', 'ledger']\n"
        "from heatcli.cli.app import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_page_in_a_terminal_is_laid_out(terminal: Callable[..., bytes]) -> None:
    said = terminal("help", "glossary", columns=80)
    assert b"\x1b[" in said
    assert b"| word | meaning |" not in said
    assert max(len(line) for line in said.decode().replace("\x1b", "").splitlines()) < 200
