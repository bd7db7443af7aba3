"""`python tests/measure/page.py RUNTIME`: samples/shown/page.jpg, the embedded model's page in Chromium.

RUNTIME: the folder of the npm package onnxruntime-web.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from heatcli.export.job import ExportRequest
from heatcli.export.web import export_page
from heatcli.methods.table import method
from heatcli.model.model import load

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from browser import Page, served  # noqa: E402


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "page"
        export_page(load(), ExportRequest(path=folder, method=method("lrp-epsilon-plus")), Path(sys.argv[1]))
        with served(folder) as address, Page(1000, 590, offline=False) as page:
            page.page.goto(address)
            page.wait("document.body.dataset.state === 'ready'")
            for _ in range(2):  # the second run has the time of all that follow
                page.run("document.body.dataset.state = 'asked'")
                page.page.set_input_files("#file", [])
                page.page.set_input_files("#file", str(ROOT / "samples" / "cat-at-temple.png"))
                page.wait("document.body.dataset.state === 'done'")
            shot = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    shot.save(ROOT / "samples" / "shown" / "page.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
