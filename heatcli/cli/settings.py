"""Settings: `heatcli.toml` or `[tool.heatcli]` of pyproject.toml, then `HEATCLI_*` variables, then flags.

A later source overrides an earlier one. All three set the parameters of a command before it runs, so a command does not
see where a value comes from. Keys are the long names of options; a table holds the settings of one command.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from heatcli.errors import UsageError, boundary, unknown_name

PREFIX = "HEATCLI_"
FILE = PREFIX + "CONFIG"  # the variable with the path of the file; `none`: no file is read
OTHERS = (FILE, PREFIX + "CACHE")  # variables that do not set an option
NAMES = ("heatcli.toml", "pyproject.toml")
NONE = "none"
PROTECTS = ("sandbox", "unverified")  # a file that comes with a model must not set these
# Pairs of options that exclude each other. The one with the higher rank counts; at equal rank the command sees both.
RIVALS = (
    ("output_file", "out"), ("json", "show"), ("quiet", "verbose"), ("patch", "size"), *(
        ("preset", name) for name in ("size", "channels", "mean", "std", "resize")
    ),
)  # fmt: skip
# An option of this name and type has another meaning than in other commands: only a command's own table, or its own
# variable, sets the option.
OWN = {"output": Path, "top": int, "clip": bool}
# options whose text may name a file, by what stands before it; a path of a file that exists begins at the settings
NAMING = {
    "baseline": ":", "start": ":", "prior": ":", "input": "=", "method": "@", "methods": "@", "expected": None,
    "region": None,
}  # fmt: skip
RANK = {"COMMANDLINE": 3, "ENVIRONMENT": 2, "DEFAULT_MAP": 1}  # names of click's ParameterSource


@dataclass(frozen=True)
class File:
    """A file of settings: its path, and heatcli's table in it."""

    path: Path
    table: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The path relative to the working directory, if the file is below or beside it."""
        return _seen_from_here(self.path)


@dataclass(frozen=True)
class Key:
    """An option, or an optional argument, as a setting.

    `name`: of the parameter. `key`: of the setting. `kind`: bool, int, float, str or Path. `many`: whether the
    parameter takes a list. `parameter`: click's parameter.
    """

    name: str
    key: str
    kind: type
    many: bool
    parameter: Any = field(repr=False)

    @property
    def common(self) -> bool:
        """Whether a key outside the tables of commands sets the option."""
        return OWN.get(self.key) is not self.kind

    def variables(self, command: str) -> list[str]:
        """The environment variables that set the option for a command; the command's own variable comes first."""
        upper = [text.replace("-", "_").upper() for text in (command, self.key)]
        return [PREFIX + "_".join(upper), *([PREFIX + upper[1]] if self.common else [])]


def keys(command: Any) -> dict[str, Key]:
    """The settings of a click command, by key: its options with a long name, and its optional arguments."""
    annotations = {p.name: p.annotation for p in signature(command.callback).parameters.values()}
    found = {}
    for parameter in command.params:
        long = next((name[2:] for name in parameter.opts if name.startswith("--")), None)
        if parameter.param_type_name == "argument" and not parameter.required:
            long = parameter.name
        if long is None or parameter.name not in annotations or long == "topic":
            continue
        kind, many = _kind(annotations[parameter.name])
        found[long] = Key(parameter.name, long, kind, many, parameter)
    return found


def _kind(annotation: Any) -> tuple[type, bool]:
    """The type of a parameter's value, and whether the parameter takes a list."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    return annotation, False


def find(start: Path | None = None) -> File | None:
    """The file of settings: `HEATCLI_CONFIG`, else the nearest file in the working directory or a folder above.

    `start`: another folder instead of the working directory. None if there is no file. Raises `UsageError`.
    """
    named = os.environ.get(FILE, "")
    if named == NONE:
        return None
    if named:
        with boundary(named, UsageError, f"{FILE} cannot be read"):
            return _read(Path(named).absolute()) or File(Path(named).absolute(), {})
    here = start or Path.cwd()
    for folder in (here, *here.parents):
        for name in NAMES:
            path = folder / name
            if path.is_file() and (found := _read(path)) is not None:
                return found
    return None


def _read(path: Path) -> File | None:
    """The settings in a file; None for a pyproject.toml without settings. Raises `UsageError`."""
    with boundary(path, UsageError):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    if path.name == "pyproject.toml":
        tools = table.get("tool", {})
        own = tools.get("heatcli") if isinstance(tools, dict) else None
        if own is None:
            return None
        if not isinstance(own, dict):
            raise UsageError(f"{path}: tool.heatcli is a table, such as [tool.heatcli]")
        table = own
    return File(path, table)


def values(file: File, commands: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The file's values for a command, by parameter. The whole file is checked. Raises `UsageError`."""
    known = {name: keys(one) for name, one in commands.items()}
    common, own = dict[str, Any](), dict[str, Any]()
    for text, value in file.table.items():
        if isinstance(value, dict):
            if text not in known:
                raise _within(file, unknown_name("command", text, known))
            for inner, one in value.items():
                key = _key(file, inner, known[text], f" of [{text}]")
                taken = _taken(file, f"[{text}] {inner}", key, one)
                if text == command:
                    own[key.name] = taken
            continue
        every = {name: key for one in known.values() for name, key in one.items() if key.common}
        named = _key(file, text, every, "").key
        takers = {name: one[named] for name, one in known.items() if named in one and one[named].common}
        if isinstance(value, list) and any(key.many for key in takers.values()):
            takers = {name: key for name, key in takers.items() if key.many}  # the others take a single value
        for name, key in takers.items():
            if name == command:
                common[key.name] = _taken(file, text, key, value)
        if command not in takers:
            _taken(file, text, next(iter(takers.values())), value)
    return {**common, **own}


def _within(file: File, error: UsageError) -> UsageError:
    return UsageError(f"{file.name}: {error}")


def _key(file: File, text: str, known: Mapping[str, Key], where: str) -> Key:
    """The setting of that name. Raises `UsageError` for an unknown one, and for one that no file may set."""
    key = known.get(text.replace("_", "-"))
    if key is None:
        raise _within(file, unknown_name(f"setting{where}", text, known))
    if key.key in PROTECTS:
        raise UsageError(
            f"{file.name}: {text} protects from what lies in a folder, so no file in a folder sets it; "
            f"give --{key.key} or {PREFIX}{key.key.upper()}"
        )
    return key


def _taken(file: File, text: str, key: Key, value: Any) -> Any:
    """A value as the option takes it: a list for a single text is joined by commas, paths are relative to the file."""
    if key.many:
        each = value if isinstance(value, list) else [value]
        return [_one(file, text, key, one) for one in each]
    if isinstance(value, list) and key.kind is str and value:
        return ",".join(str(_one(file, text, key, one)) for one in value)
    return _one(file, text, key, value)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text or a number", Path: "a path"}
_TAKEN = {bool: bool, int: int, float: (int, float), str: (str, int, float), Path: str}


def _one(file: File, text: str, key: Key, value: Any) -> Any:
    """A value of the type of its setting; paths are relative to the file. Raises `UsageError`."""
    wrong = not isinstance(value, _TAKEN[key.kind]) or (isinstance(value, bool) and key.kind is not bool)  # type: ignore[arg-type]
    if wrong:
        such = f", such as {text.split()[-1]} = {_example(key)}"
        raise UsageError(f"{file.name}: {text} = {_toml(value)}: it is {_WORDS[key.kind]}{such}")
    if (key.kind is Path or key.key in ("out", "model")) and "://" not in str(value) and ":" not in str(value)[2:]:
        return _seen_from_here(file.path.parent / Path(value).expanduser())
    if key.key in NAMING:
        return _with_path(file, str(value), NAMING[key.key])
    return str(value) if key.kind is str else value


def _with_path(file: File, text: str, mark: str | None) -> str:
    """The text with the path in it, if what it names lies beside the file of settings; else the text as it is."""
    before, mark, name = text.rpartition(mark) if mark else ("", "", text)
    path = file.path.parent / Path(name).expanduser()
    return f"{before}{mark}{_seen_from_here(path)}" if name and path.exists() else text


def _seen_from_here(path: Path) -> str:
    """The path relative to the working directory, unless that is a long way up."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join(*[os.pardir] * 4)) else relative  # noqa: PTH118


def _example(key: Key) -> str:
    """An example of a setting's value, as TOML."""
    default = key.parameter.default
    if key.kind is bool:
        return "true"
    if isinstance(default, int | float) and not callable(default):
        return str(default)
    return {int: "8", float: "0.5"}.get(key.kind, '"…"')


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def unknown_variables(commands: Mapping[str, Any]) -> list[str]:
    """A sentence for each environment variable that begins with `HEATCLI_` and is not known."""
    known = {*OTHERS, *(v for name, one in commands.items() for key in keys(one).values() for v in key.variables(name))}
    given = [name for name in os.environ if name.startswith(PREFIX) and name not in known]
    return [str(unknown_name("variable", name, known)).partition(" Known:")[0].partition("; known:")[0]
            for name in sorted(given)]  # fmt: skip


def source(context: Any, name: str) -> str:
    """Where a parameter's value comes from: the name of click's `ParameterSource`."""
    found = context.get_parameter_source(name)
    return "DEFAULT" if found is None else str(found.name)


def settle(context: Any) -> None:
    """If options exclude each other, set the option of the lower rank back to its default."""
    parameters = {parameter.name: parameter for parameter in context.command.params}
    for pair in RIVALS:
        if not all(name in parameters for name in pair):
            continue
        ranks = [RANK.get(source(context, name), 0) for name in pair]
        if min(ranks) and ranks[0] != ranks[1]:
            lower = pair[ranks.index(min(ranks))]
            if pair[0] == "preset" and lower == "preset":
                continue  # a size of higher rank overrides one value of a preset, and keeps the others
            context.params[lower] = parameters[lower].default


def origin(context: Any, key: Key, file: File | None) -> str:
    """Where a value comes from: the name of a flag, a variable or a file; empty for the default."""
    where = source(context, key.name)
    if where == "DEFAULT_MAP" and file is not None:
        return file.name
    if where == "ENVIRONMENT":
        return next(name for name in key.variables(context.info_name) if os.environ.get(name))
    return f"--{key.key}" if where == "COMMANDLINE" else ""


def blamed(context: Any, file: File | None, error: UsageError) -> UsageError:
    """The error, with the file or variable that set the value in question; unchanged if a flag set it."""
    for key in keys(context.command).values():
        where = origin(context, key, file)
        if not where or where.startswith("--"):
            continue
        value = context.params.get(key.name)
        said = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
        if f"--{key.key} " in str(error) or any(f"{one!r}" in str(error) or one == str(error) for one in said):
            return type(error)(f"{error} ({key.key} is from {where})")
    return error
