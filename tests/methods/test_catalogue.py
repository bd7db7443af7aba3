"""The catalogue: what `heatcli methods` says, and that the manual's table says the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import ROOT, Cli

from heatcli.methods.method import Method
from heatcli.methods.table import METHODS

PAGE = ROOT / "heatcli" / "help" / "methods.md"
HEADER = "| method | what it is | source | takes as a baseline | conserves | parameters |\n|---|---|---|---|---|---|\n"


def row(m: Method) -> str:
    """A method's row of the manual's table."""
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in m.parameters.items()}
    parameters = ", ".join(f"`{k}={v}`" for k, v in shown.items())
    default = {None: "", "given": ""}.get(m.baseline, f"; {m.baseline}")
    cells = f"`{m.name}`", m.summary, m.source, m.takes + default, "yes" if m.conserves else "no", parameters
    return "| " + " | ".join(cells) + " |"


def tables() -> str:
    """The manual's tables, one a kind."""
    titles = {
        "backward": "**Backward**, one walk each:", "cam": "**Class activation maps** of one layer (`--layer`):",
        "path": "**Along paths and around the image**, many walks:",
        "perturbation": "**Perturbation**, forwards only, whatever the operators:",
    }  # fmt: skip
    parts = []
    for kind, title in titles.items():
        rows = "\n".join(row(m) for m in METHODS.values() if m.kind == kind)
        parts.append(f"{title}\n\n{HEADER}{rows}\n")
    return "\n".join(parts)


def test_the_manual_has_every_method_as_its_record_says(request: pytest.FixtureRequest) -> None:
    """Written anew by pytest tests/methods/test_catalogue.py --update-golden"""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("**Backward**, one walk each:")
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text[:start] + tables(), encoding="utf-8")
    else:
        assert text[start:] == tables()


def test_every_method_says_what_it_is(cli: Cli) -> None:
    rows = json.loads(cli("methods", "--json").out)
    assert [r["name"] for r in rows] == list(METHODS)
    for r in rows:
        assert r["kind"] in ("backward", "cam", "path", "perturbation")
        assert any(year in r["source"] for year in map(str, range(2013, 2026))), r["name"]
        assert "forward" in r["cost"]
        assert r["ranges"].keys() == r["parameters"].keys()
        assert all(r["ranges"].values())
        assert isinstance(r["conserves"], bool)
        assert (r["baseline"] is None) == (r["takes"] == "nothing")


def test_every_default_is_in_its_range() -> None:
    for m in METHODS.values():
        assert m.configured(m.parameters).parameters == m.parameters


def test_plain_text_where_nobody_looks(cli: Cli) -> None:
    said = cli("methods").out
    assert "kernel-shap (perturbation)" in said
    assert "  steps=50: a whole number ≥ 1" in said
    assert "\x1b" not in said


def test_a_table_in_a_terminal(terminal: Callable[..., bytes]) -> None:
    said = terminal("methods", columns=160)
    assert "│".encode() in said
    assert b"integrated-gradients" in said
