"""Write BOXES.md: how much of the positive relevance of a detected box lies in the box, on YOLOv8n of `nudenet`.

`python tests/measure/boxes.py [--pictures 200] [--confidence 0.25]`, with the extra `peers`. The pictures come with
scikit-image, matplotlib and this repository: crops of photographs, and small faces pasted on textures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import heatcli
from heatcli.errors import HeatcliError
from heatcli.methods.detections import find
from heatcli.methods.question import outputs_of

PAGE = Path(__file__).parent / "BOXES.md"
SAMPLES = Path(__file__).parents[2] / "samples"
LAYER = "/model.9/cv2/act/Mul"  # the end of the backbone, before the three scales part
# The name on the page: the method, its baseline and its parameters.
METHODS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "lrp-epsilon-plus": ("lrp-epsilon-plus", "none", {}),
    "lrp-eps against blur": ("lrp-eps", "blur", {}),
    "input-x-gradient": ("input-x-gradient", "none", {}),
    "grad-cam": ("grad-cam", None, {}),
    "layer-cam": ("layer-cam", None, {}),
    f"grad-cam at {LAYER}": ("grad-cam", None, {"layer": LAYER}),
    f"layer-cam at {LAYER}": ("layer-cam", None, {"layer": LAYER}),
}
AT_ONCE = 8
SIDE, RANDOM, DRAWS = 320, 50, 2000
Box = NDArray[np.float64]


def pictures(count: int, g: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Pictures and their sources in turn: crops of photographs with a person, faces on textures, this repository's."""
    people = [Image.fromarray(skimage.data.astronaut())]
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        people.append(file.convert("RGB"))
    textures = [Image.fromarray(f()).convert("RGB") for f in (skimage.data.brick, skimage.data.grass,
                skimage.data.gravel, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)]  # fmt: skip
    faces = skimage.data.lfw_subset()[:100]
    cartoons = sorted(SAMPLES.glob("*.png"))
    for i in range(count):
        if i % 2 == 0:
            photo = people[g.integers(len(people))]
            width, height = photo.size
            side = int(g.uniform(0.5, 1.0) * min(width, height))
            x, y = int(g.integers(width - side + 1)), int(g.integers((height - side) // 2 + 1))
            crop = photo.crop((x, y, x + side, y + side))
            yield "photograph", crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if g.random() < 0.5 else crop
        elif i % 20 == 19:
            with Image.open(cartoons[i // 20 % len(cartoons)]) as file:
                yield "drawing", file.convert("RGB")
        else:
            scene = textures[g.integers(len(textures))].resize((SIDE, SIDE))
            size = int(g.integers(90, 200))
            grey = np.uint8(255 * np.clip(faces[g.integers(len(faces))], 0, 1))
            x, y = (int(v) for v in g.integers(0, SIDE - size, 2))
            scene.paste(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC), (x, y))
            yield "face on a texture", scene


def share(relevance: NDArray[np.float64], box: Box) -> float:
    """The share of positive relevance [H, W] in a box of whole pixels."""
    left, top, right, bottom = box.astype(int)
    positive = np.maximum(relevance, 0)
    return float(positive[top:bottom, left:right].sum() / max(positive.sum(), 1e-30))


def elsewhere(box: Box, g: np.random.Generator) -> Box:
    """A box of the same size at a random place of the input."""
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = int(g.integers(SIDE - int(width) + 1)), int(g.integers(SIDE - int(height) + 1))
    return np.array([x, y, x + width, y + height])


def interval(values: NDArray[np.float64], g: np.random.Generator) -> str:
    """Mean and 95 % bootstrap interval over pictures."""
    means = values[g.integers(len(values), size=(DRAWS, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--confidence", type=float, default=0.25)
    given = parser.parse_args()
    g = np.random.default_rng(0)
    spec = find_spec("nudenet")
    if spec is None or spec.origin is None:
        raise SystemExit("install .[peers]")
    model = heatcli.load(Path(spec.origin).parent / "320n.onnx", confidence=given.confidence)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    areas, sources, asked = list[float](), list[str](), dict[str, int]()
    waiting = list[tuple[Tensor, Box]]()

    def explained() -> None:
        """Explain the best boxes of the pictures that wait, together."""
        batch = torch.cat([one for one, _ in waiting])
        places = [[elsewhere(box, g) for _ in range(RANDOM)] for _, box in waiting]
        for name, (method, baseline, more) in METHODS.items():
            result = heatcli.explain(model, batch, method, target="box:0", baseline=baseline, **more)
            for i, (_, box) in enumerate(waiting):
                relevance = result.relevance[i].sum(0).double().numpy()
                others = [share(relevance, place) for place in places[i]]
                rows[name].append((share(relevance, box), float(np.mean(others))))
        waiting.clear()

    for source, picture in pictures(given.pictures, g):
        asked[source] = asked.get(source, 0) + 1
        batch = model.preprocess([picture])
        boxes = model.graph(batch.shape).boxes
        assert boxes is not None
        (found,) = find(outputs_of(model, batch), boxes, model.thresholds)
        if not len(found.places):
            continue
        box = found.corners[0].double().numpy()
        box = np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]).clip(0, SIDE)
        areas.append(float((box[2:] - box[:2]).prod() / SIDE**2))
        sources.append(source)
        waiting.append((batch, box))
        if len(waiting) == AT_ONCE:
            explained()
    if waiting:
        explained()
    got = ", ".join(f"{sources.count(name)} of {n} ({name})" for name, n in asked.items())
    command = f"python tests/measure/boxes.py --pictures {given.pictures} --confidence {given.confidence:g}"
    lines = [
        "# Is the relevance in the box?", "",
        f"`{command}`: YOLOv8n of `nudenet` (18 classes, 320×320), {given.pictures} pictures.",
        f"A box of at least {given.confidence:g} was found in {got}. Explained is the logit of the best box.",
        "Photographs are random crops of two, so their intervals are of crops, not of persons.", "",
        "*In the box*: the share of positive relevance in it, the mean over pictures with its 95 % bootstrap interval.",
        f"*Elsewhere*: the same for {RANDOM} boxes of its size at random places. *More*: how often the box holds more",
        "than its random boxes do on average, which may overlap it.",
        f"The box has {interval(np.array(areas), g)} of the input's area.", "",
        "| method | in the box | elsewhere | difference | more |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, pairs in rows.items():
        inside, outside = np.array(pairs).T
        lines.append(
            f"| {name} | {interval(inside, g)} | {interval(outside, g)} | {interval(inside - outside, g)} | "
            f"{int((inside > outside).sum())} of {len(inside)} |"
        )
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except HeatcliError as error:
        raise SystemExit(str(error)) from error
