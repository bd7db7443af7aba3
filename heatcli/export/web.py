"""`heatcli export --web`: a page that runs an explained model in the browser with onnxruntime-web."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from heatcli.artifact.explained import INPUT, Note
from heatcli.errors import UsageError, boundary
from heatcli.export.job import ExportRequest, recording
from heatcli.export.write import onnx_of
from heatcli.methods.targets import TOP, parse
from heatcli.model.model import Model
from heatcli.system.files import make_folder, read_regular, scratch, write_atomically

PAGE = Path(__file__).parent / "page"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = "onnxruntime-web"
MODEL, ABOUT = "explained.onnx", "explained.json"


def export_page(model: Model, request: ExportRequest, runtime: Path | None) -> Note:
    """Write a page into the folder `request.path`, and return the note in its model.

    `runtime`: the folder of the npm package onnxruntime-web; None looks where npm installs it. Raises `UsageError`,
    `ModelError`, and then writes nothing.
    """
    folder = request.path
    _check_folder(folder)
    files = {name: read_regular(_runtime(runtime) / name) for name in RUNTIME}
    asked = replace(
        request, path=folder / MODEL, outputs=("logits", "heatmap", "ledger"), preprocess=True, u8=False
    )  # fmt: skip
    found = recording(model, asked)
    files[MODEL] = found.content(onnx_of)
    files[ABOUT] = msgspec.json.encode(_about(model, found.note))
    files |= {file.name: file.read_bytes() for file in sorted(PAGE.iterdir())}
    make_folder(folder)
    with scratch(folder) as place:
        for name, content in files.items():
            write_atomically(place / name, content)
        for name in files:
            (place / name).replace(folder / name)
    return found.note


def _about(model: Model, note: Note) -> dict[str, Any]:
    """The data of the page: the note, how pictures become the input, and the class."""
    fit = model.pictures.picture_fit
    index = minus = None
    if note.target not in (TOP, INPUT):
        classes = model.graph((2, *model.pictures.only_shape)).output_shape[1]
        index, minus = parse(note.target, classes, model.labels)
    size = {"channels": fit.channels, "height": fit.height, "width": fit.width, "shorter": fit.shorter,
            "interpolation": fit.interpolation}  # fmt: skip
    return {**msgspec.to_builtins(note), "fit": size, "index": index, "minus": minus}


def _check_folder(folder: Path) -> None:
    """Raise `UsageError` if the path is a file, or a folder with other files than those of such a page."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; a page is a folder, so give -o another name")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).exists():
        raise UsageError(f"{folder}: holds other files; give -o a new or an empty folder")


def _runtime(given: Path | None) -> Path:
    """The folder with the files of onnxruntime-web. Raises `UsageError` if there is none."""
    for folder in [given] if given is not None else _installed():
        for place in (folder, folder / "dist"):
            if all((place / name).is_file() for name in RUNTIME):
                return place
    where = "here, in no folder above and not by npm -g" if given is None else f"in {given}"
    raise UsageError(
        f"the page needs the npm package {PACKAGE}, which is not {where}; run npm install {PACKAGE}, or give its "
        "folder with --web-runtime"
    )


def _installed() -> Iterator[Path]:
    """The folders in which npm may have installed the package."""
    here = Path.cwd()
    yield from (folder / "node_modules" / PACKAGE for folder in (here, *here.parents))
    npm = shutil.which("npm")
    if npm is not None:
        with boundary("npm root -g", UsageError, "cannot be run; give --web-runtime"):
            said = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=30, check=False)
        yield Path(said.stdout.strip()) / PACKAGE
