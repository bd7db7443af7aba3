"""`heatcli check`: what must hold of a model and its heatmaps; for CI."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options, results, say

if TYPE_CHECKING:
    from heatcli.check.result import Result


@options.loads(*options.INPUT)
def command(
    model: Annotated[Path, typer.Argument(help="TorchScript, ONNX or .pt2 artifact.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The spec, heatcheck.toml. Default: every check with its defaults."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "--method",
            metavar="A,B,…",
            help="Methods instead of the spec's: NAME[:PARAMETER=VALUE,…][@BASELINE].",
        ),
    ] = None,
    masks: options.Masks = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a JUnit XML file, too.")] = None,
    html: options.Html = None,
    json: Annotated[bool, typer.Option("--json", help="Print each result as a line of JSON on stdout.")] = False,
    github: Annotated[bool, typer.Option("--github", help="Print failures as GitHub annotations.")] = False,
    update_golden: Annotated[
        bool, typer.Option("--update-golden", help="Store the reports of the golden check again, and check nothing.")
    ] = False,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:
    """Check a model on images. The exit status is 0 if all checks pass, else 1, and each failure is printed."""
    started = time.perf_counter()
    from heatcli.check import result as writers
    from heatcli.check.run import CheckRequest, run
    from heatcli.gallery import sheet
    from heatcli.rules.parameters import listed
    from heatcli.system.files import make_folder, write_atomically

    chosen = tuple(listed(methods or ""))
    request = CheckRequest(tuple(images), spec, masks, chosen, update_golden, batch_size)
    outcomes: list[Result] = []
    if junit is not None:
        make_folder(junit.parent)  # before the work
    sheet.checked_name(html)
    loaded = load(model)
    for found in run(loaded, request, lambda name: say.line(f"  {name} …")):
        outcomes.append(found)
        if json:
            results.print_json(found)
        elif found.status == "failed" or say.is_verbose() or _is_of_a_part(found):
            _print(found)
    if github:
        sys.stdout.write(writers.github(outcomes))
    if junit is not None:
        write_atomically(junit, writers.junit(outcomes, time.perf_counter() - started))
    if html is not None:
        sheet.of_checks(html, model, outcomes)
    failed = writers.failures(outcomes)
    counts = (f"{sum(r.status == s for r in outcomes)} {s}" for s in ("passed", "failed", "skipped", "reported"))
    say.line(f"{model}: " + ", ".join(counts))
    asserted = any(found.status in ("passed", "failed") for found in outcomes)
    if not asserted and not update_golden:
        say.error("nothing was checked: all was skipped or only reported; ask for checks that apply in --spec, "
                  "or give what they need (labels.csv, --masks)")  # fmt: skip
    if failed or not (asserted or update_golden):
        raise typer.Exit(1)


def _is_of_a_part(found: Result) -> bool:
    """Whether the result says that not all pictures were measured."""
    return found.check == "found" and found.image is None and found.measured != 1


def _print(found: Result) -> None:
    """Print a result as one line."""
    print(f"{found.status.upper()} {found.line}")
