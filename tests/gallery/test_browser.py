"""The page in a real browser: `pytest -m browser` (extra browser, Debian's chromium)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
AXE = os.environ.get("HEATCLI_AXE")  # axe-core's axe.min.js


@pytest.fixture(scope="module")
def pages(explained: Any, heatcli_in: Callable[..., None]) -> dict[str, Path]:
    """A run's page, two runs' page, and one whose small pictures lie beside it."""
    folder = explained.folder
    heatcli_in(folder, "gallery", "a", "--expected", "labels.csv")
    heatcli_in(folder, "gallery", "a", "--against", "b", "-o", "a/both.html")
    heatcli_in(folder, "gallery", "a", "--max-mb", "0.01", "-o", "a/beside it #1.html")
    return {name: folder / "a" / f"{file}.html" for name, file in
            (("one", "report"), ("both", "both"), ("beside", "beside it #1"))}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page(1280, 900) as page:
        yield page


@pytest.fixture
def page(browser: Page, pages: dict[str, Path]) -> Iterator[Page]:
    """The page of one run; it says nothing on the console and asks for nothing but files beside it."""
    browser.page.set_viewport_size({"width": 1280, "height": 2600})  # all cards in sight
    browser.errors.clear()
    browser.requests.clear()
    browser.open(pages["one"])
    yield browser
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in browser.requests)


CARDS = "[...document.querySelectorAll('#grid b')].map((b) => b.textContent)"
NAMES = "[...document.querySelectorAll('#grid .name')].map((n) => n.textContent)"
LOADED = "[...document.querySelectorAll('#grid .pic')].every((p) => p.style.backgroundImage.includes('url'))"


def test_cards_and_their_pictures(page: Page, explained: Any) -> None:
    assert sorted(page.run(NAMES)) == sorted(explained.names)
    assert page.run("document.querySelectorAll('#grid .pic').length") == 20
    page.wait(LOADED)
    sizes = """
        async () => {
          const found = [];
          for (let i = 0; i < 10; i++) {
            const image = new Image();
            image.src = await thumbnail(i);
            await image.decode();
            found.push(image.naturalWidth / image.naturalHeight);
          }
          return found;
        }
    """
    assert page.run(sizes) == [2] * 10


def test_names_are_text(page: Page) -> None:
    assert page.run("document.querySelectorAll('#grid img, #grid script, #grid .name *').length") == 0
    assert page.run("document.title") == "animals.pt explained by lrp-eps"
    for i in range(10):
        page.run("(i) => { location.hash = `open=${i}`; }", i)
        page.wait(f"document.querySelector('dialog[open] .path')?.textContent === table.name[{i}]")
        assert page.run("document.querySelectorAll('dialog .path *, dialog h2 *').length") == 0
    assert page.run("document.title") == "animals.pt explained by lrp-eps"


def test_no_other_script_runs(page: Page) -> None:
    """The content policy stops what would come in, whatever way."""
    page.run(
        "() => { const s = document.createElement('script'); s.textContent = 'broken = 1'; document.body.append(s); }"
    )
    page.run("() => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"broken = 1\">'); }")
    assert page.run("window.broken") is None
    assert page.errors
    page.errors.clear()


def test_filters_and_order(page: Page) -> None:
    page.page.select_option("#class", "wolf")
    assert page.run(CARDS) == ["wolf", "wolf"]
    page.page.select_option("#class", "")
    page.page.select_option("#right", "wrong")
    assert page.run(CARDS) == ["wolf"]
    assert "not dog" in page.run("document.querySelector('#grid .not').textContent")
    page.page.click("#reset")
    page.page.fill("#q", "DOG é")
    assert page.run(CARDS) == ["dog"]
    page.page.fill("#q", "nothing like that")
    assert page.run("document.querySelector('#nothing').checkVisibility()")
    page.page.click("#again-all")
    for name in ("score", "share", "remainder", "mask"):
        page.page.select_option("#sort", f"-{name}")
        values = page.run(f"rows.map((i) => table['{name}'][i])")
        assert values == sorted(values, reverse=True)


def test_brush(page: Page) -> None:
    """Dragging over a histogram filters; a click takes it back; so do typed bounds."""
    box = page.page.locator(".hist svg").first.bounding_box()
    assert box is not None
    page.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20, steps=4)
    page.page.mouse.up()
    low, high = page.run("state.ranges.score")
    scores = page.run("table.score")
    assert page.run("rows.length") == sum(low <= score <= high for score in scores)
    assert 0 < page.run("rows.length") < 10
    page.page.mouse.click(box["x"] + 5, box["y"] + 20)
    assert page.run("rows.length") == 10
    page.page.get_by_label("Bias share, at least").fill("97%")
    page.page.get_by_label("Bias share, at least").press("Enter")
    page.page.get_by_label("Bias share, at least").blur()
    assert page.run("rows.map((i) => table.share[i])") == [s for s in page.run("table.share") if s >= 0.97]


def test_the_address_is_the_state(page: Page, pages: dict[str, Path]) -> None:
    page.page.fill("#q", 'snow & "')
    page.page.fill("#q", "o")
    page.page.select_option("#sort", "-score")
    page.page.select_option("#view", "slider")
    address, shown = page.run("location.hash"), page.run(NAMES)
    page.open(pages["one"], address)
    assert page.run(NAMES) == shown
    assert page.run("document.querySelector('#q').value") == "o"
    assert page.run("document.querySelector('#sort').value") == "-score"
    assert page.run("document.querySelectorAll('#grid .over').length") == len(shown)
    page.open(pages["one"], "#score=abc..&sort=nonsense&open=99&q=%E0%A4%A")  # nothing of that is known
    assert page.run("rows.length") in (0, 10)


def test_one_explanation(page: Page) -> None:
    page.page.locator("#grid a").nth(3).click()
    page.wait("document.querySelector('dialog[open] article')")
    i = page.run("Number(new URLSearchParams(location.hash.slice(1)).get('open'))")
    steps = page.run(f"biasesOf({i}).then((b) => steps({i}, 0, b[0]).map((s) => s[1]))")
    assert sum(steps) == pytest.approx(page.run(f"table.output[{i}]"), rel=2e-3)
    rows = page.run("[...document.querySelectorAll('dialog .bars:first-of-type th')].map((t) => t.textContent)")
    assert rows[0] == "pixels"
    assert {"biases of stage1", "absorbed by ε", "unexplained", "score"} <= set(rows)
    links = page.run("[...document.querySelectorAll('dialog .links a')].map((a) => a.textContent)")
    assert links == ["Full map", "Report", "Picture"]
    page.wait("[...document.querySelectorAll('dialog .layers img')].filter((m) => m.naturalWidth === 256).length === 2")
    number = "(t) => Math.abs(parseFloat(t.textContent.replace('−', '-')))"
    order = f"[...document.querySelectorAll('dialog .each td:last-child')].map({number})"
    page.page.click("text=Largest first")
    values = page.run(order)
    assert values == sorted(values, reverse=True)
    page.page.locator("dialog input[type=range]").fill("20")
    assert page.run("getComputedStyle(document.querySelector('dialog .map')).clipPath") == "inset(0px 0px 0px 20%)"


def test_keys(page: Page) -> None:
    page.press("/")
    assert page.run("document.activeElement.id") == "q"
    page.page.locator("#grid a").first.focus()
    page.press("ArrowRight", "ArrowDown")
    place = "rows.findIndex((_, p) => cards.get(p)?.contains(document.activeElement))"
    assert page.run(place) == 1 + page.run("layout.columns")
    page.press("Enter")
    page.wait("document.querySelector('dialog[open] article')")
    first = page.run("opened")
    page.press("ArrowRight")
    page.wait(f"opened !== {first}")
    page.press("ArrowLeft")
    page.wait(f"opened === {first}")
    page.press("Escape")
    page.wait("!document.querySelector('dialog').open && !location.hash.includes('open')")
    assert page.run(place) == page.run(f"rows.indexOf({first})")


def test_csv_holds_what_is_shown(page: Page) -> None:
    page.page.select_option("#sort", "-score")
    page.page.select_option("#class", "wolf")
    with page.page.expect_download() as download:
        page.page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert [row["label"] for row in rows] == ["wolf", "wolf"]
    assert [row["name"] for row in rows] == page.run("rows.map((i) => table.name[i])")
    assert [float(row["score"]) for row in rows] == page.run("rows.map((i) => table.score[i])")
    page.page.click("#reset")
    names = [row["name"] for row in csv.DictReader(io.StringIO(page.run("csv()")))]
    assert sorted(names) == sorted(page.run("table.name"))


def test_a_spreadsheet_computes_no_name(page: Page) -> None:
    page.run("() => { table.name[0] = '=1+1'; }")
    assert page.run("csv()").splitlines()[1].startswith("'=1+1,")


def test_two_runs(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["both"])
    assert page.run("document.querySelectorAll('#grid .pic').length") == 30
    page.page.select_option("#sort", "correlation")
    values = page.run("rows.map((i) => table.correlation[i])")
    assert values == sorted(values)
    page.page.locator("#grid a").first.click()
    page.wait("document.querySelectorAll('dialog[open] .compare').length === 2")
    titles = page.run("[...document.querySelectorAll('dialog .compare h3')].map((t) => t.textContent)")
    assert titles == ["A: lrp-eps", "B: lrp-epsilon-plus, baseline blur"]
    assert page.run("document.querySelectorAll('dialog .tables .bars').length") >= 2


def test_small_pictures_beside(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["beside"])
    page.wait(LOADED)
    address = page.run("thumbnail(0)")
    size = page.run(
        "async (from) => { const i = new Image(); i.src = from; await i.decode(); return i.naturalWidth; }", address
    )
    assert size == 2 * page.run("table.w[0]")


def test_narrow_and_printed(page: Page, pages: dict[str, Path]) -> None:
    page.page.set_viewport_size({"width": 360, "height": 740})
    page.open(pages["one"])
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("layout.columns") == 1
    page.run("() => { location.hash = 'open=2'; }")
    page.wait("document.querySelector('dialog[open] article')")
    assert page.run("document.querySelector('dialog').scrollWidth <= 360")
    page.open(pages["one"])
    page.run("() => { dispatchEvent(new Event('beforeprint')); }")
    page.page.emulate_media(media="print")
    assert page.run("document.querySelectorAll('#grid li').length") == 10
    assert not page.run("document.querySelector('.bar').checkVisibility()")
    tops = page.run("[...document.querySelectorAll('#grid li')].map((l) => Math.round(l.getBoundingClientRect().top))")
    assert len(set(tops)) == 4  # three a row
    page.page.emulate_media(media="screen")
    page.run("() => { dispatchEvent(new Event('afterprint')); }")
    assert page.run("document.querySelectorAll('#grid li').length") == page.run("cards.size")


def test_dark(page: Page) -> None:
    page.page.emulate_media(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.run(background) == "rgb(21, 20, 19)"
    page.page.click("#theme")
    page.page.click("#theme")
    assert page.run("document.querySelector('#theme').textContent") == "Theme: light"
    assert page.run(background) == "rgb(251, 250, 248)"
    page.page.click("#theme")
    page.page.emulate_media(color_scheme="light")


@pytest.mark.skipif(not AXE, reason="HEATCLI_AXE names no axe.min.js (npm install axe-core)")
@pytest.mark.parametrize("name", ["one", "both"])
def test_axe_finds_nothing(page: Page, pages: dict[str, Path], name: str) -> None:
    page.open(pages[name])
    page.wait(LOADED)
    assert page.axe(Path(str(AXE))) == []
    page.run("() => { document.querySelector('#q').closest('label').replaceWith(document.querySelector('#q')); }")
    page.run("() => { document.querySelector('#q').placeholder = ''; }")
    assert any(fault["rule"] == "label" for fault in page.axe(Path(str(AXE)), ("#",)))  # it would find something
