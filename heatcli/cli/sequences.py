"""`heatcli explain` for models that read sequences: logos and reports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from heatcli.cli import say

if TYPE_CHECKING:
    from heatcli.model.model import Model
    from heatcli.sequences.job import SequencesRequest


def explain(model: Model, request: SequencesRequest, load_seconds: float, json: bool) -> None:
    """Explain every sequence. Prints a line per sequence and, with `json`, its report on stdout, the line on stderr.

    `load_seconds`: the time that loading the model took, for the reports. Ends with status 1 if a sequence failed.
    """
    from heatcli.sequences.job import Done, run

    failures = 0
    for outcome in run(model, request, load_seconds):
        if not isinstance(outcome, Done):
            failures += 1
            say.error(outcome)
            continue
        report = outcome.report
        target, ledger, one = report.target, report.ledger, report.image.sequence
        (say.line if json else say.result)(
            f"{report.image.path} {one.name if one else ''}: "
            f"{target.label if target.label is not None else f'class {target.index}'}, "
            f"{target.quantity} {target.score:.6g}"
            + ("" if target.probability is None else f", probability {target.probability:.4g}")
            + (f", ledger's relative error {ledger.relative_error:.1e}" if request.method.conserves else "")
        )
        say.line(f"  wrote {outcome.logo_path} and {outcome.report_path}")
        if json:
            sys.stdout.buffer.write(outcome.report_path.read_bytes())
    if failures:
        raise typer.Exit(1)
