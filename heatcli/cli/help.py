"""`heatcli help`: the pages of the manual."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Annotated

import typer

PAGES = files("heatcli") / "help"


def topics() -> dict[str, str]:
    """Topic → title of every page. The topic is the file's name without `.md`, the title the file's first line."""
    names = sorted(page.name.removesuffix(".md") for page in PAGES.iterdir() if page.name.endswith(".md"))
    return {name: text(name).partition("\n")[0].removeprefix("# ") for name in names}


def text(topic: str) -> str:
    """The page of a topic, as Markdown. Raises `UsageError` for an unknown topic."""
    page = PAGES / f"{topic}.md"
    if not topic.replace("-", "").isalnum() or not page.is_file():
        from heatcli.errors import unknown_name

        raise unknown_name("topic", topic, topics(), ways="; `heatcli COMMAND --help` for a command's options")
    return page.read_text(encoding="utf-8")


def complete(incomplete: str) -> list[tuple[str, str]]:
    """Shell completion: the topics that begin with `incomplete`, with their titles."""
    return [(name, title) for name, title in topics().items() if name.startswith(incomplete)]


def command(
    topic: Annotated[
        str | None,
        typer.Argument(metavar="[TOPIC]", autocompletion=complete, help="A page; without it, all are listed."),
    ] = None,
) -> None:
    """Print a page of the manual, or list the pages."""
    if topic is None:
        found = topics()
        width = max(map(len, found))
        print("heatcli help TOPIC prints a page; heatcli COMMAND --help lists the options of a command.\n")
        print("\n".join(f"  {name:<{width}}  {title}" for name, title in found.items()))
        print("\nNew here? Read choosing, model and ledger. Something is wrong? Read symptoms.")
        return
    page = text(topic)
    if not sys.stdout.isatty():
        print(page, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(page, code_theme="ansi_dark", hyperlinks=False), width=min(console.width, 120))
