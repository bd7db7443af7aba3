"""The groups of `heatcli discover` on a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Page
from conftest import Cli
from networks import load
from pages import see
from tagged import GREEN, RED, TAGGED, Tagged, draw

pytest.importorskip("sklearn")


def made(folder: Path, cli: Cli) -> Path:
    """A run of the tagged network on its pictures, in `maps`."""
    model = load(Tagged(), folder, shape=(3, 32, 32))
    pictures = draw(folder / "pictures")
    ran = cli("explain", pictures, "-m", model.path, "--size", "32", "--method", "lrp-0", "--out", "maps", "-q")
    assert ran.status == 0, ran.err
    return Path("maps")


def test_pictures_have_their_group_and_a_place(tmp_path: Path, cli: Cli) -> None:
    folder = made(tmp_path, cli)
    assert cli("gallery", folder).status == 0
    assert see(folder / "report.html").meta["groups"] == []
    assert cli("discover", folder).status == 0
    ran = cli("gallery", folder)
    assert ran.status == 0, ran.err
    page = see(folder / "report.html")
    groups, table = page.meta["groups"], page.table
    assert groups[0]["suspicion"] > 0.5
    tagged = [name for name, group in zip(table["name"], table["group"], strict=True) if group == 0]
    assert len(tagged) == TAGGED
    assert all("tag-" in name for name in tagged)
    assert all(0 <= x <= 1 for x in table["x"] + table["y"])
    assert len(table["x"]) == TAGGED + RED + GREEN


@pytest.mark.browser
def test_a_group_filters_and_a_dot_opens(tmp_path: Path, cli: Cli) -> None:
    folder = made(tmp_path, cli)
    for command in ("discover", "gallery"):
        assert cli(command, folder).status == 0
    with Page(1280, 1200) as page:
        page.open(folder / "report.html")
        assert page.run("document.querySelectorAll('#scatter circle').length") == TAGGED + RED
        page.page.locator("#groups button").first.click()
        assert page.run("rows.length") == TAGGED
        assert page.run("rows.every((i) => table.name[i].includes('tag-'))")
        assert page.run("document.querySelectorAll('#scatter circle:not(.faint)').length") == TAGGED
        page.page.locator("#groups button").first.click()
        assert page.run("rows.length") == TAGGED + RED + GREEN
        page.page.select_option("#class", "1")
        assert page.run("document.querySelectorAll('#scatter circle').length") == GREEN
        page.page.locator("#scatter circle").nth(5).dispatch_event("click")
        page.wait("document.querySelector('dialog[open] .path')?.textContent.includes('green-')")
        assert page.errors == []


def test_a_damaged_file_of_groups_is_one_line(tmp_path: Path, cli: Cli) -> None:
    folder = made(tmp_path, cli)
    (folder / "discover").mkdir()
    (folder / "discover" / "clusters.json").write_text("{")
    ran = cli("gallery", folder)
    assert (ran.status, ran.err.count("\n")) == (2, 1), ran.err
    assert "clusters.json: is no file of clusters, or a damaged one" in ran.err
