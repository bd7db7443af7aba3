"""Running a request of `heatcli explain`, with its progress on stderr."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

from heatcli.cli import say

if TYPE_CHECKING:
    from heatcli.model.model import Model
    from heatcli.run import Request


def explained(
    loaded: Model, request: Request, seconds: float, json: bool, keep: bool
) -> tuple[list[tuple[str, str]], int]:
    """Run a request and print its progress. Returns the (report, picture) paths if `keep`, and the number of failures.

    Raises `Interrupted` if the run was interrupted and can be resumed.
    """
    from heatcli.cli.signals import came
    from heatcli.cli.talk import Interrupted, Talk
    from heatcli.errors import counted
    from heatcli.run import Done, Run
    from heatcli.system.files import read

    run, reports = Run(loaded, request, seconds), list[tuple[str, str]]()
    against = request.baseline or request.method.baseline
    say.detail(
        f"method {request.method.name}, baseline {against}, images: {run.total:,}, {request.batch_size} at a time"
    )
    with Talk(run.total, run.before, run.index is not None, json) as talk:
        talk.unreferenced = request.method.conserves and (request.baseline or request.method.baseline) == "none"
        if loaded.network.compiler is not None:
            loaded.network.compiler.say = talk.note
        loaded.notes.tell(talk.note)
        if "dequantise" in loaded.artifact.rewrites:
            talk.once(
                "dequantise",
                f"{loaded.path} is quantised: it is explained in real numbers; where it cuts values off is a clamp of "
                "its own, and what it rounds is booked as unexplained",
            )
        try:
            with closing(run.outcomes()) as outcomes:
                for outcome in outcomes:
                    if loaded.batch_size and request.batch_size > loaded.batch_size:
                        talk.once("batch", f"{loaded.path} takes {counted(loaded.batch_size, 'image')} at a time")
                    if run.lost:
                        talk.once("lost", "a worker process died; its images are explained again")
                    talk.hear(outcome)
                    if isinstance(outcome, Done):
                        reports += [(outcome.report_path, outcome.row.image)] if keep else []
                        if json:
                            sys.stdout.buffer.write(read(outcome.report_path))
        except KeyboardInterrupt:
            if run.index is None:
                raise
            message = f"interrupted after {talk.done:,} of {run.total:,} images; the same with --resume goes on"
            raise Interrupted(message, came[0] if came else 2) from None
        talk.end(f"index: {run.index_path}")
    return reports, talk.failures
