"""What the shell completes: names of methods, classes, layers, presets, baselines, figures, commands, graph passes.

Whatever an option's metavar lists in small letters, as in `json|npz|none`, is completed from there. The names of
methods are written down here, so that to complete one takes no torch; a test holds them to the table. Nothing is ever
printed but completions: what fails completes nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer

METHODS = """
    gradient sensitivity input-x-gradient deconvnet guided-backprop lrp-0 lrp-eps blame-bias lrp-gamma
    lrp-alpha-beta lrp-alpha1-beta0 lrp-alpha2-beta1 lrp-alpha3-beta2 lrp-z-plus lrp-w2 lrp-flat lrp-zb deep-taylor
    lrp-epsilon-plus lrp-epsilon-plus-flat lrp-epsilon-alpha2-beta1 lrp-epsilon-alpha2-beta1-flat
    lrp-epsilon-gamma-box deeplift-rescale deeplift-reveal-cancel deeplift-genomics grad-cam grad-cam-plus-plus
    layer-cam score-cam guided-grad-cam taylor integrated-gradients expected-gradients deep-shap smoothgrad
    smoothgrad-squared vargrad occlusion rise prediction-difference lime kernel-shap
""".split()
Complete = Callable[[typer.Context, str], list[str]]
_CHOICE = re.compile(r"[a-z][a-z0-9-]*")


def of(name: str, info: Any) -> Any:
    """The function that completes an option or argument `name` of typer's, declared by `info`; None for files."""
    if info.autocompletion is not None:
        return info.autocompletion
    known = [word for word in re.sub(r"\[.*?\]", "", info.metavar or "").split("|") if _CHOICE.fullmatch(word)]
    named = _NAMED.get(name)
    if named is None and not known:
        return None

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        """The names that the metavar lists, and those that only a look at files can tell."""
        words = [*known, *(named(context, incomplete) if named else [])]
        found = [word for word in dict.fromkeys(words) if word.startswith(incomplete)]
        return found or (_files(incomplete) if re.search("IMAGE|FILE|FOLDER|CSV|MASK", info.metavar or "") else [])

    return _quietly(complete)


def commands(context: typer.Context, incomplete: str) -> list[str]:
    """The names of commands."""
    parent: Any = context.parent
    return [name for name in parent.command.commands if name.startswith(incomplete)]


def _methods(context: typer.Context, incomplete: str) -> list[str]:
    """Methods; behind a comma, as in `--methods A,B`, the next one."""
    before = incomplete[: incomplete.rfind(",") + 1]
    return [before + name for name in METHODS]


def _labels(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model, as --labels or its sidecar name them."""
    from heatcli.artifact.sidecar import EMBEDDED, Labels, read_labels, read_sidecar
    from heatcli.model.embedded import default_model

    path = Path(context.params.get("model") or default_model())
    if given := context.params.get("labels"):
        return list(read_labels(path, Labels(file=str(Path(given).absolute()))))
    return list(read_labels(path, read_sidecar(path, _embedded(path, EMBEDDED)).labels))


def _embedded(path: Path, name: str) -> str:
    """The sidecar inside a TorchScript or .pt2 archive."""
    from zipfile import ZipFile, is_zipfile

    if not is_zipfile(path):
        return ""
    with ZipFile(path) as archive:
        inside = [one for one in archive.namelist() if one.endswith(f"/{name}")]
        return archive.read(inside[0]).decode() if inside else ""


def _layers(context: typer.Context, incomplete: str) -> list[str]:
    """The layers of the model: this loads it, and keeps its graph for the next time."""
    from heatcli.artifact.sandbox import AVAILABLE
    from heatcli.model.inspection import layers
    from heatcli.model.model import load

    rows = layers(load(context.params.get("model"), cache=True, sandbox=AVAILABLE))
    return ["last", *(str(row[key]) for key in ("name", "module", "node") for row in rows if row[key])]


def _models(context: typer.Context, incomplete: str) -> list[str]:
    """Files; behind `torchvision:`, the names of its networks, which takes the seconds of its import."""
    prefix = "torchvision:"
    if incomplete.startswith(prefix):
        from heatcli.model.named import names

        return [prefix + name for name in names()]
    return [prefix, *_files(incomplete)]


def _colours(context: typer.Context, incomplete: str) -> list[str]:
    from heatcli.images.overlay import DIVERGING

    return [*DIVERGING, *(f"{name}_r" for name in DIVERGING)]


def _passes(context: typer.Context, incomplete: str) -> list[str]:
    from heatcli.graph.passes import PASSES

    return list(PASSES)


_NAMED: dict[str, Complete] = {
    "method": _methods, "methods": _methods, "target": _labels, "expected": _labels, "layer": _layers,
    "concept": _layers, "cmap": _colours, "model": _models, "with_passes": _passes, "without_passes": _passes,
}  # fmt: skip


def _files(incomplete: str) -> list[str]:
    """Files and folders that begin so."""
    folder, _, begin = incomplete.rpartition("/")
    found: Iterable[os.DirEntry[str]] = os.scandir(folder or ("/" if incomplete.startswith("/") else "."))
    before = f"{folder}/" if "/" in incomplete else ""
    return sorted(before + one.name + ("/" if one.is_dir() else "") for one in found if one.name.startswith(begin))


def _quietly(complete: Complete) -> Complete:
    """The function; where it fails, it completes nothing, and nothing is printed meanwhile."""

    @wraps(complete)
    def run(context: typer.Context, incomplete: str) -> list[str]:
        """The completions."""
        with _silent(), suppress(Exception):
            return complete(context, incomplete)
        return []

    return run


@contextmanager
def _silent() -> Iterator[None]:
    """Lead standard error, that of libraries in C too, to the null device."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr.flush()
        os.dup2(null, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
