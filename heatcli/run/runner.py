"""One run: its plan, what an earlier one has done already, and its index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from heatcli.artifact.model import Model
from heatcli.errors import UsageError
from heatcli.files import is_url, make_folder, scratch, size
from heatcli.run.index import INDEX, Index, Row
from heatcli.run.inputs import is_many
from heatcli.run.pipeline import Outcome, Pipeline
from heatcli.run.plan import plan, same_folder
from heatcli.run.record import RECORD, Record, agree, claim, record_of
from heatcli.run.request import Request, joined


class Run:
    """Explains everything that a request names; iterate over it once.

    `total`: how many images are left to do; `before`: how many an earlier run has done. Raises `UsageError` before any
    work if the request makes no sense, or if `out` holds a run with other parameters.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float = 0.0) -> None:
        request.validate()
        self.model, self.request, self._load_seconds = model, request, load_seconds
        self.plan = plan(request)
        self.before = 0
        self.index: RunIndex | None = None
        for given in request.inputs:
            if is_many(given) and same_folder(given, request.out):
                raise UsageError(f"{given}: is both the input and --out; give another --out folder")
        if not is_url(request.out):
            make_folder(Path(request.out))
        if request.index or request.resume or request.shard or any(map(is_many, request.inputs)):
            self.index = RunIndex(Path(request.out), record_of(model, request))
            self.before = self._take_over(self.index)
        self.total = len(self.plan)

    @property
    def index_path(self) -> str:
        """Where its index is."""
        return joined(str(self.request.out), INDEX)

    def _take_over(self, index: RunIndex) -> int:
        """Take off the plan what the index has, with `resume`; else, and for images that failed, drop those lines."""
        count = 0

        def wanted(rows: list[Row]) -> bool:
            nonlocal count
            i = self.plan.find(rows[0].stem)
            if i is None:
                return True
            if not self.request.resume or rows[0].error is not None or not self._is_there(rows):
                return False
            if rows[0].image != self.plan.job(i).path:
                raise UsageError(
                    f"{self.plan.job(i).stem}.png was written for {rows[0].image}, not for {self.plan.job(i).path}; "
                    "give another --out folder"
                )
            self.plan.take_off(i)
            count += 1
            return True

        index.keep(wanted)
        return count

    def _is_there(self, rows: list[Row]) -> bool:
        files = [file for row in rows for file in row.files.values()]
        return all(size(joined(str(self.request.out), file.name)) == file.bytes for file in files)

    def __iter__(self) -> Iterator[Outcome]:
        with ExitStack() as stack:
            half = None if is_url(self.request.out) else stack.enter_context(scratch(Path(self.request.out)))
            pipeline = Pipeline(self.model, self.request, self._load_seconds, half)
            if self.index is not None:
                stack.callback(self.index.close)
                stack.callback(lambda: self.index and [self.index.enter(outcome) for outcome in pipeline.left])
            for outcome in stack.enter_context(closing(pipeline.run(self.plan))):
                if self.index is not None:
                    self.index.enter(outcome)
                yield outcome


class RunIndex(Index):
    """A folder's index, and the record of the parameters that all its lines were made with."""

    def __init__(self, folder: Path, record: Record) -> None:
        path = folder / RECORD
        super().__init__(folder, path)
        self._folder, self._record, self._claimed = folder, record, path.exists()
        self._open: dict[str, list[Row]] = {}
        if self._claimed:
            agree(record, path.read_bytes(), str(path))

    def enter(self, outcome: Outcome) -> None:
        """Write an image's lines once its last outcome is here."""
        rows = self._open.setdefault(outcome.row.stem, [])
        rows.append(outcome.row)
        if outcome.last:
            if not self._claimed:
                claim(self._folder, self._record)
                self._claimed = True
            self.append(self._open.pop(outcome.row.stem))

    def keep(self, wanted) -> None:  # type: ignore[no-untyped-def]
        if self._claimed:
            super().keep(wanted)
