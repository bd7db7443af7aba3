"""Options of `heatcli explain` resolved: methods with their parameters, rules, the baseline, places of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatcli.methods.method import Method

OUT = "heatmaps"


def methods_of(names: Sequence[str], parameters: Mapping[str, str], layer: str | None) -> list[Method]:
    """The named methods, or the default one. Of several methods each takes the parameters that it has.

    Raises `UsageError` for an unknown method, for a parameter that no method has, and for a method named twice.
    """
    from heatcli.errors import UsageError
    from heatcli.methods.table import DEFAULT, METHODS, method

    names = names or [DEFAULT]
    if len(set(names)) < len(names):
        raise UsageError("a method is named twice; name each --method once")
    given = {**parameters, **({} if layer is None else {"layer": layer})}
    cam = layer is not None and not any("layer" in METHODS[name].fields for name in names if name in METHODS)
    if cam and all(name in METHODS for name in names):
        others = ", ".join(name for name, one in METHODS.items() if "layer" in one.fields)
        raise UsageError(f"--layer is for methods that look at one layer ({others}), and {names[0]} looks at all")
    if len(names) == 1:
        return [method(names[0], **given)]
    known = {name: method(name).fields for name in names}
    taken = {key for fields in known.values() for key in fields}
    for key in given:
        if key not in taken:
            method(names[0], **{key: given[key]})  # raises, and lists the parameters of the method
    return [METHODS[name].configured({k: v for k, v in given.items() if k in known[name]}) for name in names]


def rules_of(composite: Path | None, given: Sequence[str] | None) -> list[str]:
    """The rules of the file `--composite`, then those of `--rule`, as text. Raises `UsageError`."""
    from heatcli.methods.composite import read_composite

    return [*([] if composite is None else read_composite(composite)), *(given or [])]


def baseline_of(given: str | None, names: Sequence[str], sequences: bool = False) -> str | None:
    """The baseline: `given`, else heatcli's default if no method is named, else None for the method's own default."""
    from heatcli.methods.table import DEFAULT_BASELINE

    return given if given is not None or names else "background" if sequences else DEFAULT_BASELINE


def place_of(out: str | None, file: Path | None, one: bool) -> tuple[str, str | None]:
    """The folder of the outputs, and the path of the figure if the user names one.

    An `--out` with the suffix of a picture names the figure. `one`: whether the run writes a single figure. Raises
    `UsageError` if several figures would have this path.
    """
    from heatcli.errors import UsageError
    from heatcli.images.drawing import SUFFIXES
    from heatcli.system.files import is_folder, is_url

    if file is not None and out is not None:
        raise UsageError("-o FILE and --out DIR name two places; give one")
    if out is not None and Path(out).suffix.lower() in SUFFIXES and not is_url(out) and not is_folder(out):
        if not one:
            raise UsageError(f"--out {out} is named like one picture, and the run writes several; give a folder")
        file = Path(out)
    if file is None:
        return out or OUT, None
    return str(file.parent), str(file)
