"""Pages of check, compare and evaluate."""

from __future__ import annotations

import base64
import re
from html import unescape
from pathlib import Path

import pytest
from conftest import MODELS, SAMPLES, Cli

from heatcli.check.result import Result, at_most
from heatcli.gallery import sheet

WOLF, DOG = SAMPLES / "wolf-on-snow.png", SAMPLES / "dog-on-snow.png"


def cells(page: Path) -> list[list[str]]:
    """The rows of all tables, as text."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", page.read_text(encoding="utf-8"), re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]


def test_the_page_of_a_check(tmp_path: Path) -> None:
    odd = '/home/me/photos/<script>alert("1")</script>.png'
    results = [
        at_most("ledger", "relative error", 2e-7, 1e-4, image="/home/me/photos/a.png", method="lrp-eps"),
        at_most("stability", "change", 0.9, 0.5, image=odd, method="lrp-eps"),
        Result(check="golden", quantity="no reports", status="skipped"),
    ]
    sheet.of_checks(tmp_path / "c.html", Path("/home/me/m.pt"), results)
    text = (tmp_path / "c.html").read_text()
    assert "1 passed, 1 failed, 1 skipped, 0 reported." in text
    assert "<script>" not in text
    assert "/home/me" not in text
    name = Path(odd).relative_to("/home/me/photos").as_posix()
    assert ["stability", "lrp-eps", name, "change", "0.9", "≤ 0.5"] in cells(tmp_path / "c.html")
    assert text.index("What failed") < text.index("By check") < text.index("Everything")


def test_compare_writes_its_page(cli: Cli, tmp_path: Path) -> None:
    ran = cli("compare", "lrp-eps", "gradient", WOLF, DOG, "--html", "pages/c.html")
    assert ran.status == 0, ran.err
    rows = cells(tmp_path / "pages" / "c.html")
    assert {row[0] for row in rows if row} >= {"wolf-on-snow.png", "dog-on-snow.png", "fc.bias"}
    assert str(SAMPLES) not in (tmp_path / "pages" / "c.html").read_text()


def test_evaluate_writes_its_page_with_curves(cli: Cli, tmp_path: Path) -> None:
    ran = cli("evaluate", MODELS / "animals.pt", WOLF, DOG, "--methods", "gradient", "--html", "e.html")
    assert ran.status == 0, ran.err
    text = (tmp_path / "e.html").read_text()
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert picture is not None
    assert base64.b64decode(picture[1]) == (tmp_path / "evaluation" / "pixel-flipping.png").read_bytes()
    assert [row[0] for row in cells(tmp_path / "e.html") if row].count("gradient") == 2


@pytest.mark.parametrize("command", ["check", "evaluate", "compare"])
def test_no_page_is_refused_before_the_work(cli: Cli, command: str) -> None:
    sides = ("lrp-eps", "gradient") if command == "compare" else (MODELS / "animals.pt",)
    ran = cli(command, *sides, WOLF, "--html", "page.txt")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "heatcli: page.txt: is no name of a page; give --html a name that ends in .html\n"
