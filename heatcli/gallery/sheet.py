"""Pages for the results of `check`, `compare` and `evaluate`: tables and curves in the style of the gallery."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heatcli.check.result import Result
from heatcli.errors import UsageError, counted
from heatcli.evaluate.compare import Both, Comparison
from heatcli.evaluate.run import Evaluation
from heatcli.gallery.build import template
from heatcli.gallery.columns import shown
from heatcli.system.files import make_folder, write_atomically
from heatcli.version import __version__


@dataclass(frozen=True)
class Line:
    """A row of a table. `bad`: whether the row is highlighted."""

    cells: tuple[str, ...]
    bad: bool = False


@dataclass(frozen=True)
class Table:
    """A table. `numbers`: the indices of columns with numbers. `text`: above the table. `png`: a picture above it."""

    title: str
    columns: tuple[str, ...]
    rows: list[Line]
    numbers: tuple[int, ...] = ()
    text: str = ""
    png: bytes | None = None

    @property
    def picture(self) -> str | None:
        """The PNG as a `data:` URL."""
        return None if self.png is None else "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def names_of(images: Iterable[str | None]) -> dict[str | None, str]:
    """The name of each picture in a page; None stands for all pictures."""
    found = sorted({image for image in images if image})
    return {None: "all"} | dict(zip(found, shown(found), strict=True))


def checked_name(path: Path | None) -> None:
    """Check that a page can be written to `path`, and make its folder. Raises `UsageError`."""
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: is no name of a page; give --html a name that ends in .html")
    make_folder(path.parent)


def write(path: Path, command: str, title: str, lead: str, tables: Iterable[Table]) -> None:
    """Write a page of tables. `command`: the heatcli command. `lead`: the first sentence. Raises `UsageError`."""
    text = template("sheet.html.j2").render(
        version=__version__, command=command, title=title, lead=lead, tables=list(tables)
    )
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def of_checks(path: Path, model: Path, results: Sequence[Result]) -> None:
    """Write the page of a check. Raises `UsageError`."""
    names = names_of(result.image for result in results)
    count = Counter(result.status for result in results)
    failed = [result for result in results if result.status == "failed"]
    lead = ", ".join(f"{count[s]:,} {s}" for s in ("passed", "failed", "skipped", "reported")) + "."
    columns = ("check", "method", "image", "quantity", "measured", "required")
    by_check = [
        Line((name, *(f"{found[s]:,}" for s in ("passed", "failed", "skipped", "reported"))), found["failed"] > 0)
        for name, found in _by_check(results).items()
    ]
    tables = [
        Table("What failed", columns, [_result(r, names) for r in failed], (4,)),
        Table("By check", ("check", "passed", "failed", "skipped", "reported"), by_check, (1, 2, 3, 4)),
        Table("Everything", ("status", *columns), [_result(r, names, r.status) for r in results], (5,)),
    ]
    write(path, "check", model.name, lead, tables if failed else tables[1:])


def _by_check(results: Sequence[Result]) -> Mapping[str, Counter[str]]:
    """The number of results by check and status."""
    found: dict[str, Counter[str]] = {}
    for result in results:
        found.setdefault(result.check, Counter())[result.status] += 1
    return found


def _result(result: Result, names: Mapping[str | None, str], *first: str) -> Line:
    """A result as a row; `first`: cells before its own."""
    measured = f"{result.measured:.4g}" if isinstance(result.measured, float) else result.measured or ""
    cells = (*first, result.check, result.method or "", names[result.image] + result.part, result.quantity, measured,
             result.required)  # fmt: skip
    return Line(cells, result.status == "failed")


def of_comparison(path: Path, found: Comparison) -> None:
    """Write the page of a comparison. Raises `UsageError`."""
    columns = (
        "image",
        "A says",
        "B says",
        "score A",
        "score B",
        "outputs apart",
        "maps apart",
        "rank correlation",
        "SSIM",
    )
    names = names_of(p.image for p in found.pairs)
    pairs = [
        Line(
            (names[p.image], p.label_a, p.label_b, _number(p.score.a), _number(p.score.b), f"{p.output_difference:.2g}",
             f"{p.heatmap_difference:.2g}", f"{p.rank_correlation:.4f}", f"{p.ssim:.4f}"),
            not p.ok,
        )
        for p in found.pairs
    ]  # fmt: skip
    biases = [Line((name, _number(both.a), _number(both.b), _change(both))) for name, both in found.biases.items()]
    beyond = sum(not p.ok for p in found.pairs)
    lead = counted(len(found.pairs), "image") + (f", {beyond:,} beyond what is allowed." if beyond else ".")
    tables = [
        Table(
            "Image by image, worst first",
            columns,
            pairs,
            (3, 4, 5, 6, 7, 8),
            f"A: {Path(found.a).name}. B: {Path(found.b).name}.",
        ),
        Table("What biases get, mean over the images", ("bias", "A", "B", "B − A"), biases, (1, 2, 3)),
    ]
    write(path, "compare", "A beside B", lead, tables)


def of_evaluation(path: Path, found: Evaluation, pictures: Mapping[str, bytes]) -> None:
    """Write the page of an evaluation. `pictures`: its curves, file name → PNG. Raises `UsageError`."""
    marks = {"higher": " ↑", "lower": " ↓", "": ""}
    tables = []
    for metric in found.metrics:
        own = [row for row in found.rows if row.metric == metric]
        columns = {row.column: row.better for row in own}
        lines = []
        for method in dict.fromkeys(row.method for row in own):
            of_method = {row.column: row for row in own if row.method == method}
            cells = (f"{of_method[c].mean:.4g} [{of_method[c].low:.3g}, {of_method[c].high:.3g}]" for c in columns)
            lines.append(Line((method, *cells)))
        names = ("method", *(name + marks[better] for name, better in columns.items()))
        tables.append(Table(metric, names, lines, tuple(range(1, len(names)))))
    curves = [Table(Path(name).stem, (), [], png=png) for name, png in pictures.items() if name.endswith(".png")]
    over = counted(found.images, "image")
    lead = f"{over}; means with 95% bootstrap intervals over them. ↑ higher is better, ↓ lower is."
    write(path, "evaluate", Path(found.model).name, lead, [*tables, *curves])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _change(both: Both) -> str:
    return "–" if both.a is None or both.b is None else f"{both.b - both.a:.2g}"
