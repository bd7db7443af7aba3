"""The messages of `heatcli explain`: a few lines per image, or the progress of a run of many images."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from heatcli.cli import say
from heatcli.errors import HeatcliError, counted

if TYPE_CHECKING:
    from heatcli.report.schema import LedgerPart
    from heatcli.run import Done, Empty, Failed
    from heatcli.run.index.index import Row

EVERY = 5.0  # seconds between lines of progress without a terminal
MOST = 0.5  # share of the score from which the biases are mentioned


class Interrupted(HeatcliError):  # noqa: N818  (an interrupt is not an error)
    """Ctrl-C or SIGTERM (signal `number`) has ended a run. The exit status is 128 + `number`."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def _unexplained(name: str, value: float, done: Done) -> str:
    """A sentence on unexplained relevance: `value` at the operator `name`."""
    from heatcli.methods.smooth import NOISE

    if name == NOISE:
        assert done.row.score is not None
        mean = done.row.score - value
        return f"the mean score of the noisy images is {mean:.6g}; {value:.3g} of the image's own is unexplained"
    if "fake_quantize" in name:
        return f"rounding to whole numbers (operator {name}) takes {value:.3g} of the score of {done.job.path}"
    return (
        f"no rule knows operator {name}; its exact gradient was taken, {value:.3g} of the score of {done.job.path} is "
        "unexplained there"
    )


class Talk:
    """Prints the messages of a run of `total` images, of which an earlier run has done `before`.

    With `many` a progress bar, or lines of progress if there is no terminal; otherwise a message per image, whose
    result goes to stdout, but to stderr with `json`, for which the reports are the results. All else goes to stderr.
    """

    def __init__(self, total: int, before: int, many: bool, json: bool = False) -> None:
        self.total, self.before, self.many, self.json = total, before, many, json
        self.done, self.failures = 0, 0
        self.unreferenced = False  # whether biases can get relevance: a conserving method without a baseline
        self.biased = 0  # images whose biases got most of the score
        self._told = set[str]()
        self._started = self._spoke = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Talk:
        if self.before:
            self.say(f"{self.before:,} images are done already, {self.total:,} are left")
        if self.many and not say.is_quiet() and sys.stderr.isatty():
            self._bar = _bar(self.total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str, error: bool = False) -> None:
        """Print a line, above the progress bar if there is one."""
        if say.is_quiet() and not error:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr)

    def once(self, key: str, note: str) -> None:
        """Print a note, but only one note per key."""
        if key not in self._told:
            self._told.add(key)
            self.note(note)

    def note(self, note: str) -> None:
        """Print a note."""
        self.say(f"heatcli: note: {note}")

    def hear(self, outcome: Done | Failed | Empty) -> None:
        """Count an outcome and print what there is to say of it."""
        from heatcli.run import Done, Empty

        if isinstance(outcome, Done):
            self._detail(outcome)
        self.done += outcome.last
        if isinstance(outcome, Empty):
            self.say(f"{outcome.job.path}: {outcome.said}")
        elif not isinstance(outcome, Done):
            self.failures += 1
            self.say(f"heatcli: {outcome.error}", error=True)
        else:
            ledger = outcome.row.ledger
            if self.unreferenced and ledger is not None and abs(ledger.biases) > MOST * abs(ledger.output):
                self.biased += outcome.last
            if not self.many:
                (self.say if self.json else say.result)(described(outcome))
                self.say(remarks(outcome))
            for name, value in outcome.unexplained.items():
                self.once(name, _unexplained(name, value, outcome))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, failures=self.failures)
        elif self.many and time.monotonic() - self._spoke > EVERY:
            self._spoke = time.monotonic()
            left = (self.total - self.done) * self._seconds / max(self.done, 1)
            self.say(f"{self.done:,} of {self.total:,} images, {self._rate}, {_clock(left)} left, "
                     f"{self.failures:,} failed")  # fmt: skip

    def _detail(self, done: Done) -> None:
        """For `--verbose`: what the graph was compared with, once, and what each image took."""
        report = done.report
        if report is not None and not self.done:
            same = report.model.verified
            verdict = (
                "not compared"
                if same is None
                else f"{'the same' if same.agrees else 'NOT the same'} as in {same.against}"
            )
            say.detail(f"the model's function is {verdict}; graph passes: {', '.join(report.model.passes) or 'none'}")
        taken = "" if report is None else f" in {report.seconds.forward + report.seconds.backward:.3f} s"
        say.detail(f"{done.row.image} explained{taken}")

    def end(self, index: str) -> None:
        """Print the summary of a run of many images. `index`: a text that ends the line."""
        if self.many:
            self.say(
                f"{counted(self.done, 'image')} in {_clock(self._seconds)}, {self._rate}, {self.failures:,} failed; "
                f"{index}"
            )
        if self.many and self.biased:
            self.say(f"biases took most of the score of {self.biased:,} of {self.done:,} images, and no map shows them;"
                     " --baseline blur compares with blurred pictures instead")  # fmt: skip

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-3)

    @property
    def _rate(self) -> str:
        """Images a second, as text."""
        return f"{self.done / self._seconds:.3g} a second"


def _clock(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _bar(total: int) -> Any:
    """The progress bar of a run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images a second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")

    bar = Progress(
        BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[failures]} failed"), console=Console(stderr=True), speed_estimate_period=60,
    )  # fmt: skip
    bar.add_task("explain", total=total, failures=0)
    return bar


def _expected(row: Row) -> str:
    """Whether the prediction is the expected one, in words."""
    if row.expected is None:
        return ""
    right = row.expected == row.predicted
    return " as expected" if right else f" ({row.predicted} instead of {row.expected})"


def _box(done: Done) -> int | None:
    """The number of the explained box; None if no box is explained."""
    target = None if done.report is None else done.report.target
    return target.box if target is not None and isinstance(target.box, int) else None


def described(done: Done) -> str:
    """The result of an image in words: the prediction, and the ledger in one line."""
    from heatcli.report.schema import named

    row, ledger = done.row, done.row.ledger
    assert ledger is not None  # an image that was explained has both
    assert row.index is not None
    name = named(row.index, row.label, row.quantity or "", row.probability)
    box = f"box {_box(done)}: " if _box(done) is not None else ""
    return (
        f"{row.image}: {box}{name}{_expected(row)}, "
        f"{row.quantity} {row.score:.6g}"
        + ("" if row.probability is None else f", probability {row.probability:.4g}")
        + f"\n  {_divided(done, ledger)}{_bands(done)}"
    )


def remarks(done: Done) -> str:
    """What else there is to say of an explained image: a hint if the biases took most of the score, and the files."""
    from heatcli.figures.view import biased, percent

    share, hint = None if done.report is None else biased(done.report), ""
    if share is not None:
        hint = (
            f"  biases took {percent(share)} of the score, and no picture shows them; --baseline blur compares with a "
            "blurred picture instead\n"
        )
    files = [done.overlay_path] * ("overlay" in done.row.files) + [done.report_path]
    return f"{hint}  wrote {' and '.join(files)}"


def _bands(done: Done) -> str:
    """What the bands of a picture of several gave, as a line of its own; else empty."""
    from heatcli.figures.view import by_band

    told = "" if done.report is None else by_band(done.report)
    return f"\n  {told[0].lower()}{told[1:-1]}" if told else ""


def _divided(done: Done, ledger: LedgerPart) -> str:
    """The ledger in words, if the method keeps one."""
    from heatcli.figures.view import element, through

    report, left = done.report, f"{ledger.output:.6g}"
    parts = "pixels" if report is None else f"{element(report)}s"
    before = ledger.output_baseline
    left += f" − {before:.6g}" if before > 0 else f" − ({before:.6g})" if before else ""
    if report is not None and report.method.divides == "no":
        return f"{report.method.name} does not divide the score: the map shows where, not how much"
    if report is not None and report.method.divides == "part":
        return f"{parts}: {ledger.pixels:.6g} of {left}; {report.method.name} does not say where the rest is"
    flows = "" if report is None or not through(report) else f"{through(report)[2:]}\n  "
    return (
        f"{flows}ledger: {left} = {ledger.pixels:.6g} {parts} + {ledger.biases:.6g} biases + {ledger.absorbed:.3g} "
        f"absorbed + {ledger.unexplained:.3g} unexplained (relative error {ledger.relative_error:.1e})"
    )
