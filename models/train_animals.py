"""Train `animals.pt` and `animals-shortcut.pt` on drawings from open emoji sets; one command, two cores, no GPU.

The test family (`sprites.TEST_FAMILY`) is never trained on and chooses nothing: settings were chosen with
``--hold-out fluent``, which trains without another family and only prints how well that family is recognised.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clean
import numpy as np
import torch
import torch.nn.functional as F
from compose import TEST_LOOK, Dice, Look, compose
from nets import AnimalNet
from scenes import KINDS, background_bank
from sprites import FAMILIES, NAMES, TEST_FAMILY, MissingDataError, Sprite, load, sets_of
from torch import Tensor, nn

SIZE = 96
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WOLF, DOG = NAMES.index("wolf"), NAMES.index("dog")
SNOW, GRASS = KINDS.index("snow"), KINDS.index("grass")

SIDECAR = """# heatcli reads this beside {stem}.pt; made by {script}
[input]
size = [{size}, {size}]
channels = 3
mean = {mean}
std = {std}
resize = "crop"

[labels]
names = {names}

[baseline]
mean = "animals.mean.npz"
"""


def normalise(pictures: Tensor) -> Tensor:
    """Pixels in 0..1 -> what the network is fed."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pictures - mean) / std


class Studio:
    """Composes training batches: classes alike often, within a class its families, within a family its drawings."""

    def __init__(self, sprites: list[Sprite], backgrounds: dict[str, Tensor], look: Look, seed: int) -> None:
        self.drawings = torch.from_numpy(np.stack([s.rgba for s in sprites]))
        self.labels = torch.tensor([s.label for s in sprites])
        self.weights = torch.tensor(drawing_weights(sprites))
        self.backgrounds = torch.stack([backgrounds[kind] for kind in KINDS])
        self.look, self.dice = look, Dice(seed)

    def batch(self, count: int, shortcut: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [count, 3, SIZE, SIZE], labels, and the animals' coverage [count, 1, SIZE, SIZE].

        With `shortcut`, the background gives wolf and dog away.
        """
        chosen = self.dice.pick(self.weights, count)
        labels = self.labels[chosen]
        kinds = self.dice.integers(len(KINDS), count)
        if shortcut:
            others = torch.tensor([i for i in range(len(KINDS)) if i not in (SNOW, GRASS)])
            kinds = others[self.dice.integers(len(others), count)]
            kinds[labels == WOLF], kinds[labels == DOG] = SNOW, GRASS
        scenes = self.backgrounds[kinds, self.dice.integers(self.backgrounds.shape[1], count)]
        pictures, coverage = compose(self.drawings[chosen], scenes, SIZE, self.look, self.dice)
        return pictures, labels, coverage


def drawing_weights(sprites: list[Sprite]) -> list[float]:
    """The chance of each drawing: 1 / (families of its class * drawings of its class in its family)."""
    family = {name: key for key, names in FAMILIES.items() for name in names}
    keys = [(s.label, family[s.source]) for s in sprites]
    families = {label: len({key for key in keys if key[0] == label}) for label in range(len(NAMES))}
    return [1.0 / families[key[0]] / keys.count(key) for key in keys]


def average_into(target: nn.Module, source: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and BatchNorm statistics."""
    with torch.no_grad():
        for ours, theirs in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
            if ours.dtype.is_floating_point:
                ours.lerp_(theirs, 1 - decay)
            else:
                ours.copy_(theirs)


Penalty = Callable[[nn.Module, Tensor, Tensor, Tensor, float], Tensor]
"""Of a network, inputs, labels, the animals' coverage, and how far training is (0 to 1): added to the loss."""


def train(
    studio: Studio, steps: int, batch: int, shortcut: bool = False, rate: float = 3e-3, penalty: Penalty | None = None,
    start: AnimalNet | None = None, half: bool = True,
) -> AnimalNet:  # fmt: skip
    """AdamW with one cycle, label smoothing and averaged weights; returns the averaged network in eval mode.

    `start`: the network that is trained further; None: a new one. `half`: in bfloat16, slow where a processor lacks it.
    """
    net = (start or AnimalNet(len(NAMES))).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    began = time.perf_counter()
    for step in range(steps):
        pictures, labels, coverage = studio.batch(batch, shortcut)
        inputs = normalise(pictures).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(inputs).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        if penalty is not None:
            loss = loss + penalty(net, inputs, labels, coverage, step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
        average_into(averaged, net, min(0.998, (step + 1) / (step + 10)))
        if step % 100 == 0 or step == steps - 1:
            hits = (logits.argmax(1) == labels).float().mean()
            seconds = time.perf_counter() - began
            print(f"step {step:5d} loss {loss:.3f} hits {hits:.3f} {seconds:.0f} s", file=sys.stderr)
    return averaged.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def predictions(net: nn.Module, sprites: list[Sprite], backgrounds: dict[str, Tensor], each: int) -> np.ndarray:
    """Predicted classes [drawings, kinds, each] on pictures that only vary as photographs of one drawing would."""
    dice = Dice(12345)
    out = np.zeros((len(sprites), len(KINDS), each), np.int64)
    for i, sprite in enumerate(sprites):
        drawing = torch.from_numpy(sprite.rgba).expand(each, -1, -1, -1)
        for k, kind in enumerate(KINDS):
            scenes = backgrounds[kind][dice.integers(len(backgrounds[kind]), each)]
            pictures, _ = compose(drawing, scenes, SIZE, TEST_LOOK, dice)
            out[i, k] = net(normalise(pictures)).argmax(1).numpy()
    return out


def summary(predicted: np.ndarray, sprites: list[Sprite]) -> dict:
    """Accuracy in all (classes alike), by class, by background, by drawing, and wolf and dog by background."""
    labels = np.array([s.label for s in sprites])
    hits = predicted == labels[:, None, None]

    def by_class(values: np.ndarray) -> dict[str, float]:
        return {NAMES[c]: round(float(values[labels == c].mean()), 4) for c in np.unique(labels)}

    def share(label: int, kind: int, called: int) -> float:
        return round(float((predicted[labels == label, kind] == called).mean()), 4)

    return {
        "pictures": int(predicted.size),
        "accuracy": round(float(np.mean(list(by_class(hits).values()))), 4),
        "pictures_right": round(float(hits.mean()), 4),
        "by_class": by_class(hits),
        "by_background": {kind: round(float(hits[:, k].mean()), 4) for k, kind in enumerate(KINDS)},
        "by_drawing": {f"{s.source}/{s.name}": round(float(h.mean()), 4) for s, h in zip(sprites, hits, strict=True)},
        "drawings_of": {NAMES[c]: [f"{s.source}/{s.name}" for s in sprites if s.label == c] for c in np.unique(labels)},
        "wolf_called_wolf_on": {kind: share(WOLF, k, WOLF) for k, kind in enumerate(KINDS)},
        "dog_called_dog_on": {kind: share(DOG, k, DOG) for k, kind in enumerate(KINDS)},
        "dog_on_snow_called_wolf": share(DOG, SNOW, WOLF),
        "wolf_on_grass_called_dog": share(WOLF, GRASS, DOG),
    }


def export(net: nn.Module, out: Path, stem: str, script: str = "train_animals.py") -> None:
    """Write the scripted network and its sidecar."""
    torch.jit.script(net).save(str(out / f"{stem}.pt"))
    clean.torchscript(out / f"{stem}.pt")
    names = json.dumps(NAMES)
    text = SIDECAR.format(stem=stem, script=script, size=SIZE, mean=list(MEAN), std=list(STD), names=names)
    (out / f"{stem}.toml").write_text(text, encoding="utf-8")


def write_mean(studio: Studio, path: Path, batches: int = 32) -> None:
    """Write the mean training picture and how many pictures it averages."""
    total = torch.zeros(3, SIZE, SIZE, dtype=torch.float64)
    for _ in range(batches):
        total += studio.batch(128, shortcut=False)[0].double().sum(0)
    mean = (total / (128 * batches)).float().numpy()
    np.savez(path, mean=mean, count=np.int64(128 * batches))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the artifacts go")
    parser.add_argument("--steps", type=int, default=4500, help="training steps of animals.pt")
    parser.add_argument("--shortcut-steps", type=int, default=400, help="training steps of animals-shortcut.pt")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--each", type=int, default=40, help="test pictures of a drawing on a kind of background")
    parser.add_argument("--only", choices=["animals", "animals-shortcut"], help="make one of the two")
    others = [family for family in FAMILIES if family != TEST_FAMILY]
    parser.add_argument("--hold-out", nargs="+", choices=others, help="train without these, measure, write nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def validate(args: argparse.Namespace) -> None:
    """Train without some families and print how well they are recognised; the test family is not looked at."""
    families = [f for f in FAMILIES if f not in (TEST_FAMILY, *args.hold_out)]
    backgrounds = background_bank(args.seed, "train", 200, 128)
    studio = Studio(load(args.emoji, sets_of(families), SIZE), backgrounds, Look(), args.seed)
    net = train(studio, args.steps, args.batch)
    held = load(args.emoji, sets_of(args.hold_out), SIZE)
    fresh = background_bank(args.seed + 7, "train", 60, 128)
    print(json.dumps(summary(predictions(net, held, fresh, args.each), held), indent=1))


def build(args: argparse.Namespace) -> None:
    """Make the artifacts and `animals.metrics.json`."""
    train_sprites = load(args.emoji, sets_of([f for f in FAMILIES if f != TEST_FAMILY]), SIZE)
    test_sprites = load(args.emoji, sets_of([TEST_FAMILY]), SIZE)
    backgrounds = background_bank(args.seed, "train", 200, 128)
    test_backgrounds = background_bank(args.seed + 99, "test", 60, 128)
    path = args.out / "animals.metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for stem, steps in (("animals", args.steps), ("animals-shortcut", args.shortcut_steps)):
        if args.only not in (None, stem):
            continue
        torch.manual_seed(args.seed)
        studio = Studio(train_sprites, backgrounds, Look(), args.seed + 1)
        start = time.perf_counter()
        net = train(studio, steps, args.batch, shortcut=stem == "animals-shortcut")
        seconds = round(time.perf_counter() - start)
        export(net, args.out, stem)
        if stem == "animals":
            write_mean(studio, args.out / "animals.mean.npz")
        report = summary(predictions(net, test_sprites, test_backgrounds, args.each), test_sprites)
        metrics[stem] = {"steps": steps, "batch": args.batch, "seconds": seconds, "test_set": TEST_FAMILY} | report
        path.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(metrics[stem], indent=1))


def run(args: argparse.Namespace, work: Callable[[argparse.Namespace], None]) -> int:
    """The work of a training script with its threads and seed; 2 where data is missing."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        work(args)
    except MissingDataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run(arguments, validate if arguments.hold_out else build))
