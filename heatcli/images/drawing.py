"""A drawing: a finished figure, and its file formats."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from heatcli.errors import UsageError
from heatcli.images.overlay import Scale
from heatcli.system.compress import png_bytes
from heatcli.system.files import make_folder, write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
QUALITY = 92  # for JPEG and WebP
DPI = 100
LOCK = Lock()  # matplotlib's fonts are not thread-safe


@dataclass(frozen=True, eq=False)
class Drawing:
    """A finished figure: a picture or a matplotlib figure. `text`: its description for those who cannot see it."""

    drawn: Any
    text: str
    scales: tuple[Scale, ...] = field(default=())

    def content(self, suffix: str = ".png") -> bytes:
        """The figure as a file with that suffix, one of `SUFFIXES`. Raises `UsageError` for other suffixes."""
        suffix = checked_suffix(suffix)
        if isinstance(self.drawn, Image.Image) and suffix == ".png":
            return png_bytes(self.drawn, self.text)
        buffer = io.BytesIO()
        kind = suffix[1:].replace("jpg", "jpeg")
        if kind in ("svg", "pdf"):
            from matplotlib import rc_context

            with LOCK, rc_context({"svg.hashsalt": "heatcli"}):  # makes the file reproducible
                figure = _bare(self.drawn) if isinstance(self.drawn, Image.Image) else self.drawn
                metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
                figure.savefig(buffer, format=kind, metadata=metadata)
        elif kind == "png":
            with LOCK:
                self.drawn.savefig(buffer, format="png", metadata={"Description": self.text, "Software": "heatcli"})
        else:
            self.image.save(buffer, format=kind, quality=QUALITY)
        return buffer.getvalue()

    @property
    def image(self) -> Image.Image:
        """The figure as a picture."""
        if isinstance(self.drawn, Image.Image):
            return self.drawn
        return Image.open(io.BytesIO(self.content())).convert("RGB")

    def save(self, path: str | Path) -> Path:
        """Write the figure atomically, in the format of `path`'s suffix. Raises `UsageError`."""
        path = Path(path)
        content = self.content(path.suffix)
        make_folder(path.parent)
        write_atomically(path, content)
        return path

    def _repr_png_(self) -> bytes:
        return self.content()


def checked_suffix(suffix: str) -> str:
    """A figure's suffix in lower case. Raises `UsageError` for suffixes not in `SUFFIXES`."""
    if suffix.lower() not in SUFFIXES:
        raise UsageError(f"a figure cannot be a {suffix or 'file without a suffix'}; use {', '.join(SUFFIXES)}")
    return suffix.lower()


def _bare(picture: Image.Image) -> Any:
    """A matplotlib figure that contains only the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(picture.width / DPI, picture.height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.asarray(picture), interpolation="none", aspect="auto")
    axes.set_axis_off()
    return figure
