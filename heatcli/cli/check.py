"""`heatcli check`: what must hold of a model and its heatmaps; for CI."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options

if TYPE_CHECKING:
    from heatcli.check.result import Result


@options.loads(*options.INPUT)
def command(
    model: Annotated[Path, typer.Argument(help="TorchScript, ONNX or .pt2 artifact.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    spec: Annotated[
        Path | None, typer.Option(metavar="FILE", help="heatcheck.toml; default: every check with its defaults.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Instead of the spec's: NAME[:PARAMETER=VALUE…][@BASELINE].")
    ] = None,
    masks: options.Masks = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a JUnit XML file, too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a result on stdout.")] = False,
    github: Annotated[bool, typer.Option("--github", help="Print failures as GitHub annotations.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print what holds, too.")] = False,
    update_golden: Annotated[
        bool, typer.Option("--update-golden", help="Store the reports of the golden check anew; check nothing.")
    ] = False,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:
    """Check a model on images: exit status 0 when all holds, 1 when something does not, with what and by how much."""
    started = time.perf_counter()
    from heatcli.check import result as writers
    from heatcli.check.run import Request, run
    from heatcli.files import make_folder, write_atomically

    chosen = tuple(text for text in (methods or "").split(",") if text)
    request = Request(tuple(images), spec, masks, chosen, update_golden, batch_size)
    results = []
    if junit is not None:
        make_folder(junit.parent)  # before the work
    loaded = load(model)
    for found in run(loaded, request, lambda name: print(f"  {name} …", file=sys.stderr)):
        results.append(found)
        if json:
            options.print_json(found)
        elif found.status == "failed" or verbose:
            _print(found)
    if github:
        sys.stdout.write(writers.github(results))
    if junit is not None:
        write_atomically(junit, writers.junit(results, time.perf_counter() - started))
    failed = writers.failures(results)
    counts = (f"{sum(r.status == s for r in results)} {s}" for s in ("passed", "failed", "skipped", "reported"))
    print(f"{model}: " + ", ".join(counts), file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _print(found: Result) -> None:
    print(f"{found.status.upper()} {found.line}")
