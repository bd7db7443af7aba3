"""Building the page of all explanations in a folder."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np

from heatcli.errors import UsageError
from heatcli.gallery import summary
from heatcli.gallery.checks import results_in
from heatcli.gallery.columns import GRID, Entry, Look, shown
from heatcli.gallery.groups import groups_of
from heatcli.gallery.pack import ROWS, Store
from heatcli.gallery.thumbnails import edge_of
from heatcli.images.expected import Expected
from heatcli.report.schema import Report
from heatcli.run.index.folder import Folder, Item
from heatcli.run.index.index import Row
from heatcli.system.files import is_folder, make_folder, writing
from heatcli.version import __version__

MEGABYTE = 1_000_000
PAGE = "report.html"
FAILURES = 50  # the most failures in the list of a page
UNDER_WAY = 16  # explanations that are read at once


@dataclass(frozen=True)
class GalleryRequest:
    """What to show.

    `folder`: of the explanations. `output`: the path of the page; None is `report.html` in `folder`. `against`: the
    folder of a second run to show side by side. `expected`: a label for all pictures, or a file of labels. `masks`: a
    folder of masks. `max_mb`: if the page would be larger, the thumbnails go into a folder beside it.
    """

    folder: Path
    output: Path | None = None
    against: Path | None = None
    expected: str | None = None
    masks: Path | None = None
    max_mb: float = 50.0


@dataclass(frozen=True)
class Built:
    """The page that was written. `beside`: the folder of its thumbnails; None if the page contains them."""

    path: Path
    explanations: int
    bytes: int
    beside: Path | None


Say = Callable[[str], None]
Advance = Callable[[Iterable[Any]], Iterator[Any]]


def build(request: GalleryRequest, say: Say, advance: Advance = iter) -> Built:
    """Write the page. `say`: called with notes on what is missing. `advance`: counts the explanations for progress.

    Raises `UsageError`.
    """
    folder = Folder.open(request.folder)
    other = None if request.against is None else Folder.open(request.against)
    expected = Expected.parse(request.expected)
    if request.masks is not None and not is_folder(request.masks):
        raise UsageError(f"{request.masks}: is not a folder of masks")
    if not request.max_mb > 0:
        raise UsageError(f"--max-mb {request.max_mb:g} is not allowed; it is more than 0")
    output = request.output or request.folder / PAGE
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: a gallery is a page; give -o a name that ends in .html")
    make_folder(output.parent)
    target = None if folder.record is None else str(folder.record.parameters.get("target") or "top")
    predicts = None if target is None else target == "top" or target.startswith("top:")
    look = Look(output.parent, expected, predicts, edge_of(folder.count()), request.masks)
    with contextlib.closing(Store(1 if other is None else 2)) as store:
        page = _Page(request, folder, other, store)
        page.read(look, say, advance)
        page.told(say)
        return page.write(output)


class _Page:
    """A page while it is built."""

    def __init__(self, request: GalleryRequest, folder: Folder, other: Folder | None, store: Store) -> None:
        self._request, self._folder, self._other, self._store = request, folder, other, store
        self._mass, self._masses = np.zeros((GRID, GRID)), 0
        self._failed: list[tuple[str, str]] = []
        self._failures = 0
        self._missing: dict[str, list[str]] = {}
        self._report: Report | None = None
        self._other_report: Report | None = None

    def read(self, look: Look, say: Say, advance: Advance) -> None:
        """Read every explanation into the store. Raises `UsageError` if there are none, or the runs do not match."""
        others = {} if self._other is None else _by_picture(self._other, say)
        sides = 1 if self._other is None else 2
        matched = 0

        def entries() -> Iterator[Callable[[], Entry]]:
            """For each explanation a function that makes its entry, to be called in any thread; counts failures."""
            nonlocal matched
            for item in advance(self._folder.items(say)):
                if isinstance(item, Row):
                    self._failures += 1
                    if len(self._failed) < FAILURES:
                        self._failed.append((item.image, item.error or ""))
                    continue
                second = next((found for key in _keys(item) if (found := others.pop(key, None)) is not None), None)
                matched += second is not None
                self._report = self._report or item.report
                if second is not None:
                    self._other_report = self._other_report or second.report
                yield lambda item=item, second=second: look.entry(item, second, sides)  # type: ignore[misc]

        for entry in _side_by_side(entries()):
            self._store.add(entry)
            for kind, told in entry.remarks.items():
                self._missing.setdefault(kind, []).append(told)
            if entry.mass is not None:
                self._mass += entry.mass
                self._masses += 1
        if not len(self._store):
            raise UsageError(f"{self._folder.path}: holds no explanation; heatcli explain FOLDER --out DIR writes them")
        if self._other is not None and not matched:
            raise UsageError(f"{self._other.path}: explains none of the pictures in {self._folder.path}")
        if look.expected.table is not None and not any(self._store.columns["expected"]):
            raise UsageError(f"{self._request.expected}: names none of the pictures in {self._folder.path}")

    def told(self, say: Say) -> None:
        """Call `say` with notes on missing pictures, maps, masks and links."""
        texts = {
            "picture": "pictures are not where their reports say, or are others now; the page shows their maps alone",
            "map": "maps are missing or damaged",
            "mask": "masks cannot be used",
            "link": "maps lie too far from the page to be linked; write the page into the folder of the run",
        }
        for kind, text in texts.items():
            if found := self._missing.get(kind):
                say(f"{len(found):,} {text} (first: {found[0]})")

    def write(self, output: Path) -> Built:
        """Write the page atomically, and the folder beside it if the page would be too large."""
        large = self._store.bytes > self._request.max_mb * MEGABYTE
        beside = output.with_name(f"{output.stem}-files") if large else None
        if beside is not None:
            make_folder(beside)
            for old in beside.glob("*.webp"):
                if old.stem.isdecimal():  # a thumbnail of an earlier page
                    old.unlink()
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        with writing(output):
            try:
                with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                    file.writelines(self._render(beside))
                temporary.replace(output)
            finally:
                temporary.unlink(missing_ok=True)
        return Built(output, len(self._store), output.stat().st_size, beside)

    def _render(self, beside: Path | None) -> Iterator[str]:
        """The page in pieces. `beside`: the folder of the thumbnails; None puts them into the page."""
        columns = self._store.columns
        images = columns["name"]
        groups = groups_of(self._folder.path, columns)
        columns["name"] = shown(images)
        methods = sorted({method for method in columns["method"] if method})
        own = summary.facts(self._folder, self._report, images, methods)
        known = self._report is not None
        meta = {
            "model": own.model,
            "method": own.method,
            "names": self._store.names,
            "sides": 1 if self._other is None else 2,
            "titles": self._titles(own),
            "rows": ROWS,
            "beside": None if beside is None else beside.name,
            "predicts": own.predicts is not False,
            "conserves": own.conserves,
            "closed": summary.CLOSED,
            "element": own.element,
            "groups": groups,
            "quantity": self._report.target.quantity if self._report is not None else "output",
        }
        return template("page.html.j2").generate(
            version=__version__, own=own, meta=script_json(meta), count=len(self._store),
            answers=summary.answers(own, columns, self._report, results_in(self._folder.path), self._failures),
            parts=summary.parts(own, columns) if own.conserves else [],
            worst=summary.worst(columns) if own.conserves else [],
            mean_map=summary.mean_map(self._mass / self._masses) if self._masses > 1 else None, masses=self._masses,
            inside=summary.median(columns["mask"]), masked=sum(m is not None for m in columns["mask"]),
            groups=groups, failed=self._failed, failures=self._failures, known=known, titles=self._titles(own),
            table=self._store.table(), blocks=self._store.blocks(beside),
        )  # fmt: skip

    def _titles(self, own: summary.Facts) -> list[str]:
        """The titles of the runs: for two runs, what differs between them."""
        if self._other is None:
            return [own.method]
        there = summary.facts(self._other, self._other_report, [], [])
        sides = [(side.method, side.baseline, side.model) for side in (own, there)]
        told = [f"{m}" + (f", baseline {b}" if b != "none" else "") for m, b, _ in sides]
        if told[0] == told[1]:
            told = [model for _, _, model in sides]
        if told[0] == told[1]:
            told = [self._folder.path.name, self._other.path.name]
        return told


Key = tuple[str | None, int | None]


def _keys(item: Item) -> list[Key]:
    """The keys by which the explanation of the same picture is found in another run: the name, then the hash."""
    return [(item.row.image, item.row.rank), (item.row.sha256, item.row.rank)]


def _by_picture(folder: Folder, say: Say) -> dict[Key, Item]:
    """The explanations of a folder by picture; of several of a picture, the first."""
    found: dict[Key, Item] = {}
    for item in folder.items(say):
        if isinstance(item, Item):
            for key in _keys(item):
                found.setdefault(key, item)
    return found


def _side_by_side(work: Iterable[Callable[[], Entry]]) -> Iterator[Entry]:
    """The results of functions that run in threads, in order. Most of the work is decoding, without Python's lock."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="heatcli") as pool:
        under_way: deque[Future[Entry]] = deque()
        try:
            for piece in work:
                under_way.append(pool.submit(piece))
                if len(under_way) >= UNDER_WAY:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


HERE = Path(__file__).parent
SCRIPTS = ("data", "state", "histograms", "groups", "grid", "detail", "controls")  # one script, in this order


@cache
def _own(name: str) -> str:
    """The content of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON for a script element: `<`, `>` and `&` are escaped, so that no text in it ends the element."""
    text = msgspec.json.encode(value).decode("utf-8")
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def template(name: str) -> jinja2.Template:
    """A template of this folder. Values are escaped as text, except the page's own style sheet and script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = "\n".join(_own(f"script/{name}.js") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {"style": _own("page.css"), "script": script, "script_hash": f"sha256-{digest}"}
    return environment.get_template(name)
