"""The README's picture of the shortcut, and SHORTCUT.md: `python tests/measure/experiments/shortcut.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

import heatcli
from heatcli.check.background import composites
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.location import inside_share, pointing
from heatcli.evaluate.subject import Subject, subject
from heatcli.images.dataset import Sample, read
from heatcli.images.overlay import overlay
from heatcli.model.model import Model

ROOT = Path(__file__).parents[3]
PICTURES = tuple(
    ROOT / "samples" / f"{name}.png" for name in ("wolf-on-snow", "wolf-on-grass", "dog-on-snow", "dog-on-grass")
)
MODELS = ("animals.pt", "animals-shortcut.pt")
SHOWN = "deeplift-rescale@mean"
METHODS = (SHOWN, "deeplift-rescale", "lrp-eps@blur", "input-x-gradient@mean", "gradient")
SIDE = 224
OUT = ROOT / "samples" / "shown" / "shortcut.jpg"


def samples(model: Model) -> list[Sample]:
    """The four pictures with their masks."""
    return [s for s in read(PICTURES, model.labels, model.pictures.fit) if isinstance(s, Sample)]


def outlined(picture: Image.Image, mask: Path) -> Image.Image:
    """The picture with the mask's outline in green."""
    with Image.open(mask) as image:
        inside = torch.from_numpy(np.asarray(image.convert("L").resize(picture.size)) > 127).float()[None, None]
    grown, shrunk = functional.max_pool2d(inside, 3, 1, 1), -functional.max_pool2d(-inside, 3, 1, 1)
    line = (grown - shrunk)[0, 0].bool().numpy()
    pixels = np.array(picture.convert("RGB"))
    pixels[line] = (0, 150, 60)
    return Image.fromarray(pixels)


def sheet(subjects: dict[str, Subject]) -> Image.Image:
    """Pictures above; below, a row a model, its heatmaps with what it says."""
    bar = 22
    height = SIDE + len(subjects) * (SIDE + bar)
    found = Image.new("RGB", (SIDE * len(PICTURES), height), "white")
    for column, path in enumerate(PICTURES):
        with Image.open(path) as picture:
            found.paste(picture.convert("RGB").resize((SIDE, SIDE)), (SIDE * column, 0))
    for row, (name, own) in enumerate(subjects.items()):
        heatmaps = own.heatmaps(Explainer.parse(SHOWN)).double().numpy()
        chance = own.scores(chance=True)
        for column, path in enumerate(PICTURES):
            with Image.open(path) as picture:
                shown = overlay(picture.convert("RGB"), heatmaps[column], (0, 0, *picture.size), "bwr", 0.9)
            left, top = SIDE * column, SIDE + row * (SIDE + bar)
            said = f"{name}: {own.model.label(int(own.target.index[column]))} {float(chance[column]):.2f}"
            ImageDraw.Draw(found).text((left + 6, top + 4), said, fill="black", font_size=13)
            tile = outlined(shown, path.parent / "masks" / path.name).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            found.paste(tile, (left, top + bar))
    return found


def table(subjects: dict[str, Subject]) -> str:
    """Medians and shares of both models, as Markdown."""
    lines = ["| | animals.pt | animals-shortcut.pt |", "|---|---|---|"]
    for name in METHODS:
        explainer = Explainer.parse(name)
        inside = [float(inside_share(s.heatmaps(explainer), s.mask).quantile(0.5)) for s in subjects.values()]
        hits = [int(pointing(s.heatmaps(explainer), s.mask).sum()) for s in subjects.values()]
        cells = (f"{share:.2f}, {hit} of 4" for share, hit in zip(inside, hits, strict=True))
        what = "positive relevance inside the animal, median; its maximum inside: " if name == SHOWN else ""
        lines.append(f"| {what}`{name}` | {' | '.join(cells)} |")
    kept, change = [], []
    for own in subjects.values():
        made = composites(own, None, 4)
        same = made.subject.outputs().sum(2).argmax(1) == own.target.index[made.of]
        kept.append(f"{int(same.sum())} of {len(same)}")
        moved = (made.subject.scores(chance=True) - own.scores(chance=True)[made.of]).abs()
        change.append(f"{float(moved.quantile(0.5)):.2f}")
    lines.append(f"| keeps its class before the others' backgrounds | {' | '.join(kept)} |")
    lines.append(f"| median change of its probability there | {' | '.join(change)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the picture, print the table."""
    loaded = {name: heatcli.load(ROOT / "models" / name) for name in MODELS}
    subjects = {name: subject(model, samples(model)) for name, model in loaded.items()}
    sheet(subjects).save(OUT, quality=85)
    print(table(subjects))


if __name__ == "__main__":
    main()
