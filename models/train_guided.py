"""Train with relevance: the shortcut data, with a penalty on relevance that lies outside the animal.

The walk is differentiable, so the heatmap of one method can be part of the loss: masks are used at training time only.
Plain and guided training see the same pictures for the same number of steps; what came of both is measured on the
held-out drawings, on backgrounds that the animals never stood on, and with methods that were not trained on. One
command; it writes `guided.metrics.json` and no artifact.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from compose import TEST_LOOK, Dice, Look, compose
from nets import AnimalNet
from scenes import KINDS, background_bank
from sprites import FAMILIES, NAMES, TEST_FAMILY, MissingDataError, Sprite, load, sets_of
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from train_animals import DOG, GRASS, SIZE, SNOW, WOLF, Studio, export, normalise, predictions, summary, train

import heatcli
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.location import inside_share
from heatcli.evaluate.subject import Subject
from heatcli.graph.capture import capture
from heatcli.graph.operator import Constant, Graph
from heatcli.methods.table import method
from heatcli.targets import choose
from heatcli.walk import forward, walk

TRAINED_ON = "lrp-0"
MEASURED = ("lrp-0", "gradient", "lrp-eps@blur", "deeplift-rescale", "deeplift-rescale@blur", "deeplift-rescale@mean")


class Guide:
    """The penalty: weight · the mean share of |relevance| outside the animal, for some images of each batch.

    Relevance is that of the true class in the network as it will be used: batch norm by its running statistics.
    """

    def __init__(self, weight: float, images: int, start: float) -> None:
        self.weight, self.images, self.start = weight, images, start
        self.graph: Graph | None = None
        self.rules = method(TRAINED_ON).rules

    def __call__(self, net: nn.Module, inputs: Tensor, labels: Tensor, coverage: Tensor, progress: float) -> Tensor:
        """A scalar; none before `start`, a part of the training."""
        if progress < self.start:
            return inputs.new_zeros(())
        net.eval()
        share = self.outside(net, inputs[: self.images], labels[: self.images], coverage[: self.images, 0])
        net.train()
        return self.weight * share

    def outside(self, net: nn.Module, inputs: Tensor, labels: Tensor, coverage: Tensor) -> Tensor:
        """The mean share of |relevance| outside the animals of `coverage` [N, H, W], differentiable."""
        inputs = inputs.contiguous()
        if self.graph is None:
            names = {**dict(net.named_parameters()), **dict(net.named_buffers())}
            # no passes: folded weights would no longer be the parameters
            self.graph = capture(net, torch.zeros_like(inputs), names, "the network in training", passes=())
        tape = forward(live(self.graph, net), inputs, differentiable=True)
        seed = torch.zeros_like(tape.output).scatter_(1, labels[:, None], 1.0)
        relevance = (walk(tape, self.rules, seed, None) * inputs).sum(1).abs()
        whole = relevance.sum((1, 2)).clamp(min=1e-9)
        return ((relevance * (1 - coverage)).sum((1, 2)) / whole).mean()


def live(graph: Graph, net: nn.Module) -> Graph:
    """The graph with the network's own parameters in place of the constants that were captured."""
    parameters = dict(net.named_parameters())

    def swapped(x: object) -> object:
        if not isinstance(x, Constant) or x.name not in parameters:
            return x
        parameter = parameters[x.name]
        return Constant(x.name, parameter if parameter.shape == x.value.shape else parameter.t())

    operators = []
    for op in graph.operators:
        args, kwargs = pytree.tree_map(swapped, (op.args, dict(op.kwargs)))
        operators.append(replace(op, args=args, kwargs=kwargs))
    return replace(graph, operators=tuple(operators))


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
                   "trained_on": TRAINED_ON, "test_set": TEST_FAMILY, "runs": {}}  # fmt: skip
    if path.exists() and (old := json.loads(path.read_text("utf-8"))) | {"runs": {}} == found:
        found = old  # the same settings: other weights of the penalty are added
    for weight in args.weights:
        torch.manual_seed(args.seed)
        studio = Studio(sprites, backgrounds, Look(), args.seed + 1)
        guide = Guide(weight, args.guided, args.start) if weight else None
        start = time.perf_counter()
        net = train(studio, args.steps, args.batch, shortcut=True, penalty=guide)
        seconds = round(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "animals.mean.npz").write_bytes(
                (Path(__file__).parent / "animals.mean.npz").read_bytes()
            )
            report = measured(net, Path(folder), "guided", held, other)
        found["runs"][f"{weight:g}"] = {"seconds": seconds, **report}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"weight {weight:g}: {json.dumps(found['runs'][f'{weight:g}'], indent=1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
