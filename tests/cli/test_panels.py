"""`--help`: examples that parse, panels whose every name is an option's."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from heatcli.cli.app import app
from heatcli.cli.examples import EXAMPLES
from heatcli.cli.panels import FIGURE, FILES, PANEL, RARE

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_three_examples_that_parse(name: str) -> None:
    assert len(EXAMPLES[name]) == 3
    for example in EXAMPLES[name]:
        heatcli, command, *arguments = shlex.split(example.partition(" | ")[0])
        assert (heatcli, command) == ("heatcli", name)
        COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_files_to_write_are_no_rare_options(name: str) -> None:
    """`-o`, `--out` and `--figure-size` are found in the same panel in every command, whatever the parameter's name."""
    for option in (p for p in COMMANDS[name].params if p.param_type_name == "option"):
        if {"-o", "--out"} & set(option.opts):
            assert option.rich_help_panel == FILES, option.opts
        if "--figure-size" in option.opts:
            assert option.rich_help_panel == FIGURE


def test_rare_options_of_explain_are_last_and_what_is_in_brackets_is_shown() -> None:
    options = [p for p in COMMANDS["explain"].params if p.param_type_name == "option"]
    panels = [p.rich_help_panel for p in options]
    assert panels[-1] == RARE
    assert len(dict.fromkeys(panels)) == sum(a != b for a, b in zip(panels, [None, *panels], strict=False))
    assert "\\[rules]" in next(p.help for p in options if p.name == "composite")
    assert {name for name in PANEL if not any(name == p.name for c in COMMANDS.values() for p in c.params)} == set()
