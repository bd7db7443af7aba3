"""Train with relevance: the shortcut data, with a penalty on relevance that lies outside the animal.

The walk is differentiable, so the heatmap of one method can be part of the loss: masks are used at training time only.
Plain and guided training see the same pictures for the same number of steps; what came of both is measured on the
held-out drawings, on backgrounds that the animals never stood on, and with methods that were not trained on. One
command; it writes `guided.metrics.json` and no artifact.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from compose import TEST_LOOK, Dice, Look, compose
from guide import MEAN_FILE, Guide
from nets import AnimalNet
from scenes import KINDS, background_bank
from sprites import FAMILIES, NAMES, TEST_FAMILY, MissingDataError, Sprite, load, sets_of
from torch import Tensor
from train_animals import DOG, GRASS, SIZE, SNOW, WOLF, Studio, export, normalise, predictions, summary, train

import heatcli
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.location import inside_share
from heatcli.evaluate.subject import Subject
from heatcli.methods.targets import choose

MEASURED = ("lrp-0", "gradient", "lrp-eps@blur", "deeplift-rescale", "deeplift-rescale@blur", "deeplift-rescale@mean")


def pictures_of(sprites: list[Sprite], backgrounds: dict[str, Tensor], each: int) -> tuple[Tensor, Tensor, Tensor]:
    """Test pictures of wolves and dogs on every kind of background: pictures, labels, coverage."""
    dice = Dice(4321)
    found = []
    for sprite in (s for s in sprites if s.label in (WOLF, DOG)):
        for kind in KINDS:
            scenes = backgrounds[kind][dice.integers(len(backgrounds[kind]), each)]
            drawing = torch.from_numpy(sprite.rgba).expand(each, -1, -1, -1)
            pictures, coverage = compose(drawing, scenes, SIZE, TEST_LOOK, dice)
            found.append((pictures, torch.full((each,), sprite.label), coverage[:, 0]))
    pictures, labels, coverage = (torch.cat(part) for part in zip(*found, strict=True))
    return pictures, labels, coverage


def measured(net: AnimalNet, out: Path, stem: str, sprites: list[Sprite], backgrounds: dict[str, Tensor]) -> dict:
    """Accuracy with backgrounds as in training and swapped, and the share of relevance inside by several methods."""
    export(net, out, stem)
    model = heatcli.load(out / f"{stem}.pt")
    found = summary(predictions(net, sprites, backgrounds, 40), sprites)
    wolf, dog = found["wolf_called_wolf_on"], found["dog_called_dog_on"]
    pictures, labels, coverage = pictures_of(sprites, backgrounds, 8)
    batch = normalise(pictures)
    with torch.no_grad():
        scores = torch.cat([net(part) for part in batch.split(64)])
    inside = {}
    for name in MEASURED:
        explainer = Explainer.parse(name)
        for which, target in (("true class", labels), ("predicted class", None)):
            goal = choose(target, scores[..., None], NAMES)
            own = Subject(model, tuple(map(str, range(len(batch)))), batch, goal, coverage, 64)
            share = inside_share(own.heatmaps(explainer), coverage)
            inside[f"{name}, {which}"] = [round(float(share.mean()), 4), round(float(share.median()), 4)]
    animal = coverage.mean()
    return {
        "accuracy": found["accuracy"],
        "other_animals": round(sum(v for k, v in found["by_class"].items() if k not in ("wolf", "dog")) / 14, 4),
        "as_trained": round((wolf[KINDS[SNOW]] + dog[KINDS[GRASS]]) / 2, 4),
        "swapped": round((wolf[KINDS[GRASS]] + dog[KINDS[SNOW]]) / 2, 4),
        "elsewhere": round(sum(wolf[k] + dog[k] for k in KINDS if k not in (KINDS[SNOW], KINDS[GRASS])) / 6, 4),
        "dog_on_snow_called_wolf": found["dog_on_snow_called_wolf"],
        "wolf_on_grass_called_dog": found["wolf_on_grass_called_dog"],
        "pictures": len(batch),
        "area_inside": round(float(animal), 4),
        "inside": inside,
    }


def main() -> int:
    """Train both, measure both; 2 where data is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where guided.metrics.json goes")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--guided", type=int, default=24, help="images of each batch whose relevance is penalised")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 4.0], help="of the penalty; 0: plain")
    parser.add_argument("--method", default="lrp-0", help="whose relevance is penalised: NAME, or NAME@mean")
    parser.add_argument("--start", type=float, default=0.15, help="part of the training before the penalty begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        sprites = load(args.emoji, sets_of([f for f in FAMILIES if f != TEST_FAMILY]), SIZE)
        held = load(args.emoji, sets_of([TEST_FAMILY]), SIZE)
    except MissingDataError as error:
        print(error, file=sys.stderr)
        return 2
    backgrounds = background_bank(args.seed, "train", 200, 128)
    other = background_bank(args.seed + 99, "test", 60, 128)
    path = args.out / "guided.metrics.json"
    found: dict = {"steps": args.steps, "batch": args.batch, "guided_images": args.guided, "start": args.start,
                   "test_set": TEST_FAMILY, "runs": {}}  # fmt: skip
    if path.exists() and (old := json.loads(path.read_text("utf-8"))) | {"runs": {}} == found:
        found = old  # the same settings: other penalties are added
    for weight in args.weights:
        torch.manual_seed(args.seed)
        studio = Studio(sprites, backgrounds, Look(), args.seed + 1)
        guide = Guide(weight, args.guided, args.start, args.method) if weight else None
        name = f"{args.method} × {weight:g}" if weight else "plain"
        start = time.perf_counter()
        net = train(studio, args.steps, args.batch, shortcut=True, penalty=guide)
        seconds = round(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MEAN_FILE, folder)
            report = measured(net, Path(folder), "guided", held, other)
        trained_on = args.method if weight else ""
        found["runs"][name] = {"seconds": seconds, "trained_on": trained_on, **report}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(found['runs'][name], indent=1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
