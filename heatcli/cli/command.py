"""The class of every command: options in panels, examples below the help, settings as defaults of flags."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from heatcli.cli import say, settings
from heatcli.cli.examples import EXAMPLES
from heatcli.cli.panels import PANELS, panel_of
from heatcli.errors import UsageError


class Command(TyperCommand):
    """A command whose options are shown in panels, and take their values from settings if no flag is given."""

    def __init__(self, name: str | None, **given: Any) -> None:
        examples = ["Examples:", *map(_escaped, EXAMPLES.get(name or "", ()))]
        super().__init__(name, **{**given, "epilog": "\n\n".join(examples)})
        self.help = _escaped(self.help or "")
        for parameter in self.params:
            parameter.help = _escaped(parameter.help or "")  # type: ignore[attr-defined]
            if parameter.param_type_name == "option":
                parameter.rich_help_panel = panel_of(parameter.name or "", parameter.opts)  # type: ignore[attr-defined]
        self.params.sort(key=_rank)
        for key in settings.keys(self).values():
            key.parameter.envvar = key.variables(name or "")
            key.parameter.show_envvar = False
        self._file: settings.File | None = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse flags and settings; flags count more. Raises `UsageError` for repeated options and wrong settings."""
        if not ctx.resilient_parsing:
            self._refuse_repeated(ctx, args)
        if not any(name in args for name in ctx.help_option_names):
            self.set(ctx)
        rest = super().parse_args(ctx, args)
        settings.settle(ctx)
        return rest

    def set(self, ctx: Any) -> None:
        """Set the context's defaults from the file of settings. For shell completion, errors are ignored."""
        try:
            self._file = settings.find()
            ctx.default_map = {} if self._file is None else settings.values(self._file, self._all(ctx), self.name or "")
        except Exception:
            if not ctx.resilient_parsing:
                raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command. If an error is about a setting, its message also names the file or variable."""
        say.choose(ctx.params["quiet"], ctx.params["verbose"])
        if self.name != "config":
            for text in settings.unknown_variables(self._all(ctx)):
                say.note(text)
        if self._file is not None:
            say.detail(f"settings: {self._file.name}")
        try:
            found = super().invoke(ctx)
            say.detail("done")
            return found
        except UsageError as error:
            blamed = settings.blamed(ctx, self._file, error)
            if blamed is error:
                raise
            raise blamed from error

    def _all(self, ctx: Any) -> dict[str, Any]:
        """All commands by name; this one alone where it is not run as one of several."""
        return {self.name or "": self} if ctx.parent is None else ctx.parent.command.commands

    def _refuse_repeated(self, ctx: Any, args: list[str]) -> None:
        """Raise `UsageError` for an option given twice that takes one value: click would ignore the first."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for name, count in Counter(p.opts[0] for p in order if p.param_type_name == "option").items():
            if count > 1 and not any(p.multiple or p.is_flag for p in self.params if name in p.opts):  # type: ignore[attr-defined]
                raise UsageError(f"{name} is given {count} times and takes one value; give it once")


def _rank(parameter: Any) -> int:
    """A key that sorts parameters: arguments first, then the panels in their order."""
    return -1 if parameter.param_type_name == "argument" else PANELS.index(parameter.rich_help_panel)


def _escaped(text: str) -> str:
    """Text that rich shows as it is: brackets are not read as markup."""
    return text.replace("[", "\\[")
