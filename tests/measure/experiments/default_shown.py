"""The old default beside the new one, on every trained network: samples/shown/default.jpg.

python tests/measure/experiments/default_shown.py --data DATA
"""

from __future__ import annotations

import argparse
import io
import sys
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from pictures import MODELS, ROOT, lite0_model  # noqa: E402

import heatcli  # noqa: E402
from heatcli.images.overlay import Scale, overlay  # noqa: E402
from heatcli.methods.table import DEFAULT, DEFAULT_BASELINE  # noqa: E402
from heatcli.model.model import Model  # noqa: E402
from heatcli.sequences.logo import logo  # noqa: E402
from heatcli.sequences.read import read_sequences  # noqa: E402
from heatcli.sequences.references import explain_sequences  # noqa: E402

SAMPLES, SIDE, BAR = ROOT / "samples", 176, 18
COLUMNS = (("lrp-eps", "none"), (DEFAULT, DEFAULT_BASELINE), ("lrp-epsilon-plus", "none"))
HEADS = ("picture", "lrp-eps (old default)", f"{DEFAULT} against {DEFAULT_BASELINE} (new)", "lrp-epsilon-plus")


def tiles(model: Model, picture: Image.Image, name: str) -> list[tuple[Image.Image, str]]:
    """The picture, and its maps with how much of the score pixels hold."""
    found = [(picture.convert("RGB"), name)]
    batch = model.preprocess([picture])
    for method, baseline in COLUMNS:
        result = heatcli.explain(model, batch, method, baseline=baseline)
        score = result.ledger.output - result.ledger.output_baseline
        held = float(result.ledger.pixels / score)
        heatmap = result.relevance[0].sum(0).double().numpy()
        box = (0, 0, *picture.size)
        drawn = overlay(picture.convert("RGB"), heatmap, box, "bwr", 0.9, Scale.of(heatmap, float(score)))
        found.append((drawn, f"pixels hold {100 * held:.3g} % of {float(score):.3g}"))
    return found


def rows(data: Path) -> list[list[tuple[Image.Image, str]]]:
    """A row a picture."""
    found = []
    for stem, name in (("animals", "wolf-on-snow"), ("animals-shortcut", "wolf-on-snow"), ("digits", "digits/8-a")):
        model = heatcli.load(next(MODELS.glob(f"{stem}.[po][tn]*")))
        with Image.open(SAMPLES / f"{name}.png") as picture:
            large = picture.convert("RGB").resize((224, 224), Image.Resampling.NEAREST)
            small = picture if stem == "digits" else large
            found.append(tiles(model, small.copy(), stem))
    model = lite0_model(data)
    pictures = {"Lite0: coffee": ("skimage", "data/coffee.png"), "Lite0: cat": ("skimage", "data/chelsea.png")}
    for name, (package, path) in pictures.items():
        with files(package).joinpath(path).open("rb") as stream:
            whole = Image.open(stream).convert("RGB")
        side = min(whole.size)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        found.append(tiles(model, whole.crop((left, top, left + side, top + side)).resize((224, 224)), name))
    return found


def logos() -> list[Image.Image]:
    """A sequence with three GATA motifs, by both."""
    model = heatcli.load(MODELS / "motifs.onnx")
    (one,) = [s for s in read_sequences(SAMPLES / "sequences" / "motifs.fa", "ACGT") if s.name == "3-GATA"]
    found = []
    for method, baseline in (("lrp-eps", "none"), (DEFAULT, "background")):
        chosen = heatcli.METHODS[method]
        batch = torch.from_numpy(one.onehot)[None]
        relevance = explain_sequences(model, batch, chosen, "GATA", baseline).relevance.sum(1)[0]
        title = f"motifs.onnx, GATA: {method} against {baseline}"
        found.append(Image.open(io.BytesIO(logo(one.letters, relevance.double().numpy(), title))).convert("RGB"))
    return found


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    found, bottom = rows(args.data), logos()
    width = 4 * SIDE
    bottom = [image.resize((width, image.height * width // image.width)) for image in bottom]
    height = BAR + len(found) * (SIDE + BAR) + sum(image.height for image in bottom)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(HEADS):
        draw.text((column * SIDE + 3, 3), head, fill="black", font_size=11)
    top = BAR
    for row in found:
        for column, (image, said) in enumerate(row):
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * SIDE, top))
            draw.text((column * SIDE + 3, top + SIDE + 2), said, fill="black", font_size=11)
        top += SIDE + BAR
    for image in bottom:
        sheet.paste(image, (0, top))
        top += image.height
    out = SAMPLES / "shown" / "default.jpg"
    sheet.save(out, quality=85)
    print(f"wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
