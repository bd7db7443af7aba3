"""A headless Chromium that opens a page from the file system, for tests and measurements (package: playwright)."""

from __future__ import annotations

import functools
import http.server
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-default-apps"
).split()
SECONDS = 60


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of that folder, on this machine alone."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class Page:
    """A browser with one page and nothing else, closed with its context; the network is off unless `offline` is."""

    def __init__(self, width: int, height: int, dark: bool = False, offline: bool = True) -> None:
        from playwright.sync_api import sync_playwright

        self._folder = tempfile.mkdtemp(prefix="heatcli-browser-")
        self._driver = sync_playwright().start()
        self.context = self._driver.chromium.launch_persistent_context(
            self._folder, executable_path=shutil.which("chromium"), args=FLAGS, headless=True, offline=offline,
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )  # fmt: skip
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
        self._driver.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def version(self) -> str:
        """The browser's."""
        return str(self.run("navigator.userAgent")).partition("Chrome/")[2].partition(".")[0]

    def open(self, path: Path, state: str = "") -> None:
        """Open a page of heatcli's and wait until its script is ready."""
        self.page.goto("about:blank")  # else a change of the state alone loads nothing
        self.page.goto(path.absolute().as_uri() + state, wait_until="commit")
        self.wait("document.documentElement?.dataset.ready === 'yes'")

    def run(self, script: str, argument: Any = None) -> Any:
        """The value of an expression, or what a function returns; promises are waited for."""
        return self.page.evaluate(script, argument)

    def wait(self, condition: str) -> None:
        """Until an expression is true. Raises `TimeoutError`.

        By asking again: what the driver would install in the page to wait there, the page's own policy refuses.
        """
        end = time.monotonic() + SECONDS
        while not self.run(f"!!({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.01)

    def press(self, *keys: str) -> None:
        """Keys, to what has the focus."""
        for key in keys:
            self.page.keyboard.press(key)

    def first_paint(self) -> float:
        """Seconds from the start of navigation to the first paint of content."""
        entry = "performance.getEntriesByName('first-contentful-paint')[0]"
        self.wait(entry)
        return float(self.run(f"{entry}.startTime")) / 1000

    def ready_after(self) -> float:
        """Seconds from the start of navigation until cards are there and filters work."""
        return float(self.run("performance.getEntriesByName('ready')[0].startTime")) / 1000

    def scrolled(self) -> list[float]:
        """Milliseconds between frames while the page is scrolled, from its first card and from its middle."""
        script = """
            async () => {
              const frames = [];
              for (const top of [grid.offsetTop, document.documentElement.scrollHeight / 2]) {
                await new Promise((end) => {
                  scrollTo(0, top);
                  let last = null, start = null;
                  const frame = (now) => {
                    start ??= now;
                    if (last !== null) frames.push(now - last);
                    last = now;
                    scrollBy(0, 120);
                    if (now - start < 3000) requestAnimationFrame(frame); else end();
                  };
                  requestAnimationFrame(frame);
                });
              }
              return frames;
            }
        """
        return [float(t) for t in self.run(script)]

    def filter_time(self) -> float:
        """The longest time, in milliseconds, of a change of filter, text or order until the cards are laid out."""
        script = """
            () => {
              scrollTo(0, 0);
              let longest = 0;
              for (const changes of [{ q: "dog 1" }, { q: "" }, { sort: "-share" }, { sort: "name" },
                                     { ranges: { score: [1, 3] } }, { ranges: {} }, { sort: "" }]) {
                const start = performance.now();
                go(changes);
                document.body.offsetHeight;
                longest = Math.max(longest, performance.now() - start);
              }
              return longest;
            }
        """
        return float(self.run(script))

    def axe(self, script: Path, states: tuple[str, ...] = ("#", "#open=0")) -> list[dict[str, str]]:
        """What axe-core finds wrong in each state, in both themes: rule, impact and the first element."""
        found: list[dict[str, str]] = []
        self.run(script.read_text(encoding="utf-8"))
        for theme in ("light", "dark"):
            self.page.emulate_media(color_scheme=theme)
            for state in states:
                self.run("(state) => { location.hash = state; }", state)
                if "open" in state:
                    self.wait("document.querySelector('dialog[open] article')")
                elif "#" in state:
                    self.wait("!document.querySelector('dialog[open]')")
                violations = self.run(
                    "async () => (await axe.run(document, { resultTypes: ['violations'] })).violations"
                    ".map((v) => ({ rule: v.id, impact: v.impact, where: v.nodes[0].html }))"
                )
                found += [{"theme": theme, "state": state} | violation for violation in violations]
        self.run("() => { location.hash = ''; }")
        return found
