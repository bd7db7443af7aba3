"""Make the pictures that the README shows, from the samples: `python models/make_pictures.py` (heatcli installed)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

import heatcli
from heatcli.methods.table import method
from heatcli.run import Done, Request, Run

ROOT = Path(__file__).parents[1]
NAMES = ("wolf-on-snow", "dog-on-grass", "penguin-on-snow", "turtle-on-water", "cow-on-grass")
OUT = ROOT / "samples" / "shown" / "heatmaps.jpg"


def main() -> None:
    """Samples above, their lrp-eps heatmaps against the mean picture below, side by side in one JPEG."""
    inputs = tuple(ROOT / "samples" / f"{name}.png" for name in NAMES)
    sheet = Image.new("RGB", (256 * len(NAMES), 512))
    with tempfile.TemporaryDirectory() as folder:
        request = Request(inputs, Path(folder), method("lrp-eps"), baseline="blur:8")
        for i, done in enumerate(Run(heatcli.load(ROOT / "models" / "animals.pt"), request, 0.0)):
            if not isinstance(done, Done):
                raise SystemExit(str(done.error))
            for row, path in enumerate((done.job.path, done.overlay_path)):
                with Image.open(path) as picture:
                    sheet.paste(picture.convert("RGB").resize((256, 256)), (256 * i, 256 * row))
    sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4)).save(OUT, quality=85)
    print(f"wrote {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
