"""Make the pictures that the README shows, from the samples: `python models/make_pictures.py` (heatcli installed)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import heatcli
from heatcli.methods.table import method
from heatcli.run import Done, Request, Run

ROOT = Path(__file__).parents[1]
NAMES = ("wolf-on-snow", "dog-on-grass", "penguin-on-snow", "turtle-on-water", "cow-on-grass")
SHOWN = ROOT / "samples" / "shown"
OUT = SHOWN / "heatmaps.jpg"
WOLF, EIGHT = "samples/wolf-on-snow.png", "samples/digits/8-a.png"
FIGURES = {
    "panel.png": f"{WOLF} --baseline blur:8 --figure-size 280",
    "grid.png": f"{WOLF} --baseline blur:8 --method lrp-eps --method lrp-epsilon-plus-flat "
    "--method grad-cam --figure-size 280",
    "parts.png": f"{EIGHT} --model models/digits.onnx --baseline black --target 8-3 --figure parts --figure-size 280",
}


def main() -> None:
    """Samples above, their lrp-eps heatmaps against a blurred picture below, in one JPEG; then three figures."""
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
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in FIGURES.items():
            command = ["explain", *arguments.split(), "-o", f"{folder}/{name}", "-q"]
            subprocess.run([sys.executable, "-m", "heatcli", *command], cwd=ROOT, check=True)
            shutil.copy(Path(folder, name), SHOWN / name)
            print(f"wrote {(SHOWN / name).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
