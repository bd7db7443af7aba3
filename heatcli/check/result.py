"""The result of a check, and its output as text, JSON, JUnit XML and GitHub annotations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal
from xml.etree import ElementTree

import msgspec

Status = Literal["passed", "failed", "skipped", "reported"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One result of a check.

    `quantity`: what was measured. `image`: None for all images. `box`: the number of the box in the image, if boxes of
    a detector are explained. `method`: None if no method is involved. `measured`,
    `required`: the value and the requirement, in numbers or words. `status`: `reported` if nothing was required.
    """

    check: str
    quantity: str
    status: Status
    image: str | None = None
    method: str | None = None
    measured: float | str | None = None
    required: str = ""
    box: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def part(self) -> str:
        """What follows the name of the image: the number of the box, if there is one."""
        return "" if self.box is msgspec.UNSET else f" box {self.box}"

    @property
    def place(self) -> str:
        """The image, with the number of the box if there is one."""
        return (self.image or "all images") + self.part

    @property
    def line(self) -> str:
        """The result as one line of text."""
        by = f" [{self.method}]" if self.method else ""
        found = f"{self.measured:.4g}" if isinstance(self.measured, float) else self.measured
        colon = ":" if self.status == "skipped" or self.check == "image" else ""
        text = self.quantity + ("" if found is None else f"{colon} {found}")
        wanted = f", required {self.required}" if self.required else ""
        return f"{self.check}{by}: {self.place}: {text}{wanted}"


def at_least(check: str, quantity: str, measured: float, least: float | None, **where: Any) -> Result:
    """A result that passes if `measured` ≥ `least`; None requires nothing. `where`: fields of `Result`."""
    return _bound(check, quantity, measured, least, "≥", least is None or measured >= least, where)


def at_most(check: str, quantity: str, measured: float, most: float | None, **where: Any) -> Result:
    """A result that passes if `measured` ≤ `most`; None requires nothing. `where`: fields of `Result`."""
    return _bound(check, quantity, measured, most, "≤", most is None or measured <= most, where)


def _bound(
    check: str, quantity: str, measured: float, bound: float | None, sign: str, holds: bool,
    where: dict[str, Any],
) -> Result:  # fmt: skip
    """A result against a bound. `sign`: ≥ or ≤. `holds`: whether it holds."""
    status: Status = "reported" if bound is None else "passed" if holds else "failed"
    required = "" if bound is None else f"{sign} {bound:g}"
    return Result(check=check, quantity=quantity, status=status, measured=float(measured), required=required, **where)


def failures(results: Iterable[Result]) -> int:
    """How many failed."""
    return sum(r.status == "failed" for r in results)


def github(results: Iterable[Result]) -> str:
    """A workflow command `::error` for each failure, which GitHub shows as an annotation."""
    lines = []
    for r in results:
        if r.status == "failed":
            file = f"file={_escaped(r.image, ',:')}," if r.image else ""
            lines.append(f"::error {file}title={_escaped(f'heatcli {r.check}', ',:')}::{_escaped(r.line)}\n")
    return "".join(lines)


def _escaped(text: str, also: str = "") -> str:
    """Text for a workflow command: line breaks and `also` as %XX."""
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def junit(results: Sequence[Result], seconds: float) -> bytes:
    """A JUnit XML file: a suite per check, a case per requirement. Reported values are in the suite's output.

    `seconds`: the duration of the whole run.
    """
    asserted = [r for r in results if r.status != "reported"]
    root = ElementTree.Element("testsuites", name="heatcli check", tests=str(len(asserted)),
                               failures=str(failures(results)), time=f"{seconds:.3f}")  # fmt: skip
    for check in dict.fromkeys(r.check for r in results):
        own = [r for r in asserted if r.check == check]
        reported = [r.line for r in results if r.check == check and r.status == "reported"]
        skipped = sum(r.status == "skipped" for r in own)
        suite = ElementTree.SubElement(root, "testsuite", name=check, tests=str(len(own)),
                                       failures=str(failures(own)), skipped=str(skipped))  # fmt: skip
        for r in own:
            name = " ".join(part for part in (r.place, r.quantity, r.method) if part)
            case = ElementTree.SubElement(suite, "testcase", classname=f"heatcli.{check}", name=name)
            if r.status == "failed":
                ElementTree.SubElement(case, "failure", message=r.line).text = r.line
            elif r.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=str(r.measured or r.quantity))
            else:
                ElementTree.SubElement(case, "system-out").text = r.line
        if reported:
            ElementTree.SubElement(suite, "system-out").text = "\n".join(reported)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
