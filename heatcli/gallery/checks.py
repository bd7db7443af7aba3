"""Results of `heatcli check`, read from its files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec

from heatcli.check.result import Result, Status
from heatcli.run.index.index import INDEX
from heatcli.system.files import TEXT, read_regular


def results_in(folder: Path) -> list[Result]:
    """The results in a folder: of files of `--junit` (.xml) and `--json` (.jsonl), with any name."""
    return [result for file in sorted(folder.iterdir()) for result in _of_file(file)]


def _of_file(file: Path) -> list[Result]:
    """The results in a file; none if it is no file of results."""
    kind = file.suffix.lower()
    if kind not in (".xml", ".jsonl") or file.name == INDEX:
        return []
    try:
        content = read_regular(file, TEXT)
        if kind == ".xml":
            return _from_junit(content)
        if b'"check"' not in content[:200]:
            return []
        return msgspec.json.Decoder(Result).decode_lines(content)
    except (OSError, ElementTree.ParseError, msgspec.DecodeError, UnicodeDecodeError):
        return []


_STATUS: dict[str, Status] = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def _from_junit(content: bytes) -> list[Result]:
    """The results in a JUnit XML file that `heatcli check` wrote."""
    if b"<!ENTITY" in content:
        return []
    found = []
    root = ElementTree.fromstring(content)
    for case in root.iter("testcase") if root.get("name") == "heatcli check" else ():
        child = next(iter(case), None)
        tag = "system-out" if child is None else child.tag
        said = "" if child is None else child.text or child.get("message") or ""
        found.append(
            Result(
                check=(case.get("classname") or "").removeprefix("heatcli."),
                quantity=case.get("name") or "",
                status=_STATUS.get(tag, "passed" if ", required " in said else "reported"),
                measured=said,
            )
        )
    return found
