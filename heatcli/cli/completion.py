"""Shell completion: names of methods, classes, layers, presets, baselines, figures, commands, graph passes.

Values that an option's metavar lists in lower case, as in `json|npz|none`, are completed from the metavar. The names of
methods are copied here, so that completing one does not import torch; a test compares them with the table. Completion
prints nothing else: after an error there are no completions.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer

METHODS = """
    gradient sensitivity input-x-gradient deconvnet guided-backprop lrp-0 lrp-eps blame-bias lrp-gamma
    lrp-alpha-beta lrp-alpha1-beta0 lrp-alpha2-beta1 lrp-alpha3-beta2 lrp-z-plus lrp-w2 lrp-flat lrp-zb deep-taylor
    lrp-epsilon-plus lrp-epsilon-plus-flat lrp-epsilon-alpha2-beta1 lrp-epsilon-alpha2-beta1-flat
    lrp-epsilon-gamma-box attnlrp attnlrp-gamma cp-lrp cp-lrp-gamma deeplift-rescale deeplift-reveal-cancel
    deeplift-genomics grad-cam grad-cam-plus-plus layer-cam score-cam guided-grad-cam taylor integrated-gradients
    expected-gradients deep-shap smoothgrad smoothgrad-squared vargrad occlusion rise prediction-difference lime
    kernel-shap
""".split()
Complete = Callable[[typer.Context, str], list[str]]
_CHOICE = re.compile(r"[a-z][a-z0-9-]*")


def of(name: str, info: Any) -> Any:
    """The completion of the option or argument `name`, which typer declares by `info`; None: the shell lists files."""
    if info.autocompletion is not None:
        return info.autocompletion
    known = [word for word in re.sub(r"\[.*?\]", "", info.metavar or "").split("|") if _CHOICE.fullmatch(word)]
    named = _NAMED.get(name)
    if named is None and not known:
        return None

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        """The values that the metavar lists, then those that depend on the model or on files."""
        words = [*known, *(named(context, incomplete) if named else [])]
        found = [word for word in dict.fromkeys(words) if word.startswith(incomplete)]
        return found or (_files(incomplete) if re.search("IMAGE|FILE|FOLDER|CSV|MASK", info.metavar or "") else [])

    return _quietly(complete)


def commands(context: typer.Context, incomplete: str) -> list[str]:
    """The names of commands."""
    parent: Any = context.parent
    return [name for name in parent.command.commands if name.startswith(incomplete)]


def methods(context: typer.Context, incomplete: str) -> list[str]:
    """The names of methods."""
    return [name for name in METHODS if name.startswith(incomplete)]


def _methods(context: typer.Context, incomplete: str) -> list[str]:
    """The methods; after a comma, as in `--methods A,B`, the completion of the last one."""
    before = incomplete[: incomplete.rfind(",") + 1]
    return [before + name for name in METHODS]


def _labels(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the model, from `--labels` or the model's sidecar."""
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
    """The layers of the model. The model is loaded, and its graph cached for the next completion."""
    from heatcli.artifact.sandbox import AVAILABLE
    from heatcli.model.inspection import layers
    from heatcli.model.model import load

    rows = layers(load(context.params.get("model"), cache=True, sandbox=AVAILABLE))
    return ["last", *(str(row[key]) for key in ("name", "module", "node") for row in rows if row[key])]


def _models(context: typer.Context, incomplete: str) -> list[str]:
    """Files; after `torchvision:` the names of its networks, which takes seconds to import."""
    prefix = "torchvision:"
    if incomplete.startswith(prefix):
        from heatcli.model.named import names

        return [prefix + name for name in names()]
    return [prefix, *_files(incomplete)]


def _colours(context: typer.Context, incomplete: str) -> list[str]:
    """The names of colour maps."""
    from heatcli.images.overlay import DIVERGING

    return [*DIVERGING, *(f"{name}_r" for name in DIVERGING)]


def _passes(context: typer.Context, incomplete: str) -> list[str]:
    """The names of graph passes."""
    from heatcli.graph.passes import PASSES

    return list(PASSES)


_NAMED: dict[str, Complete] = {
    "method": _methods, "methods": _methods, "target": _labels, "expected": _labels, "layer": _layers,
    "concept": _layers, "below": _layers, "cmap": _colours, "model": _models,
    "with_passes": _passes, "without_passes": _passes,
}  # fmt: skip


@contextmanager
def whole_words() -> Iterator[None]:
    """A block in which bash's words are whole while it completes, as in `--model torchvision:resnet50`.

    bash breaks words at `:` and `=`, and replaces what stands after the last break. So the parts are joined before
    typer reads them, and what stands before the last break is cut off the completions.
    """
    words, at = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if os.environ.get("_HEATCLI_COMPLETE") != "complete_bash" or not at.isdecimal():
        yield
        return
    joined, position, before = _joined(words, int(at))
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(position))
    found = io.StringIO()
    try:
        with redirect_stdout(found):
            yield
    finally:
        print(*(line.removeprefix(before) for line in found.getvalue().splitlines()), sep="\n")


def _joined(words: list[str], at: int) -> tuple[list[str], int, str]:
    """The words joined where bash broke them, the place of the word number `at`, and what of its value bash keeps.

    A word of breaks alone belongs to the words on both its sides. An option's name and `=` are no part of its value.
    """
    joined, position, glued, before = [words[0]], at, False, ""
    for i, word in enumerate(words[1:], 1):
        breaks = word != "" and not word.strip(":=")
        if glued or breaks:
            joined[-1] += word
        else:
            joined.append(word)
        if i == at and (glued or breaks):
            whole = joined[-1] if breaks else joined[-1].removesuffix(word)
            before = whole.partition("=")[2] if whole.startswith("-") else whole
        if i == at:
            position = len(joined) - 1
        glued = breaks
    return joined, position, before


def _files(incomplete: str) -> list[str]:
    """The files and folders whose path begins with `incomplete`."""
    folder, _, begin = incomplete.rpartition("/")
    found: Iterable[os.DirEntry[str]] = os.scandir(folder or ("/" if incomplete.startswith("/") else "."))
    before = f"{folder}/" if "/" in incomplete else ""
    return sorted(before + one.name + ("/" if one.is_dir() else "") for one in found if one.name.startswith(begin))


def _quietly(complete: Complete) -> Complete:
    """The completion without errors and without output on stderr: after an error there are no completions."""

    @wraps(complete)
    def run(context: typer.Context, incomplete: str) -> list[str]:
        """The completions."""
        with _silent(), suppress(Exception):
            return complete(context, incomplete)
        return []

    return run


@contextmanager
def _silent() -> Iterator[None]:
    """Redirect standard error to the null device, also that of C libraries."""
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
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
