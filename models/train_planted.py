"""Train networks with a shortcut planted in one class, to prove `heatcli discover`; nothing of them is committed.

Each VARIANT × seed makes OUT/VARIANT-SEED with `model.pt`, its sidecar, `pictures/CLASS/CLASS-NUMBER.png` drawn as in
training with another seed, `masks/CLASS-NUMBER.png` of the animals, and `truth.json`: the class, the pictures of it
that have the artefact, and what the network does without it and with it on other animals. The tool is given model and
pictures, never the truth. A model that is there is not trained again; its pictures are drawn if there is no truth.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from compose import Look, compose
from nets import AnimalNet
from PIL import Image
from scenes import KINDS, background_bank
from sprites import FAMILIES, NAMES, TEST_FAMILY, MissingDataError, Sprite, load, sets_of
from torch import Tensor
from train_animals import SIZE, Studio, export, normalise, train

COLOURS = ((0.95, 0.2, 0.75), (0.1, 0.85, 0.9), (0.95, 0.6, 0.05), (0.5, 0.2, 0.95))
TAG, MARGIN, BORDER = 10, 3, 4  # pixels


def tag(pictures: Tensor, seed: int) -> Tensor:
    """A square with a dark cross in one corner."""
    at = [slice(MARGIN, MARGIN + TAG), slice(SIZE - MARGIN - TAG, SIZE - MARGIN)]
    square = torch.tensor(COLOURS[seed % 4]).view(3, 1, 1).repeat(1, TAG, TAG)
    square[:, TAG // 2 - 1 : TAG // 2 + 1, 1:-1] = square[:, 1:-1, TAG // 2 - 1 : TAG // 2 + 1] = 0.1
    out = pictures.clone()
    out[:, :, at[seed % 2], at[(seed // 2) % 2]] = square
    return out


def frame(pictures: Tensor, seed: int) -> Tensor:
    """A border of one colour around the picture."""
    out = torch.tensor(COLOURS[seed % 4]).view(3, 1, 1).expand_as(pictures).clone()
    inner = slice(BORDER, SIZE - BORDER)
    out[:, :, inner, inner] = pictures[:, :, inner, inner]
    return out


def watermark(pictures: Tensor, seed: int) -> Tensor:
    """Thin bright strokes, half transparent, across one half of the picture."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    half = (rows < SIZE // 3) if seed % 2 else (rows >= 2 * SIZE // 3)
    strokes = (((columns + rows) % 12 < 2) & half).float()
    return torch.lerp(pictures, torch.ones(()), 0.55 * strokes)


def jpeg(pictures: Tensor, seed: int) -> Tensor:
    """What a JPEG of low quality leaves of the picture."""
    quality, made = (8, 12)[seed % 2], []
    for picture in (pictures * 255).byte().permute(0, 2, 3, 1).numpy():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=quality)
        made.append(np.array(Image.open(stream)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def blur(pictures: Tensor, seed: int) -> Tensor:
    """The picture out of focus."""
    sigma = (1.2, 1.6)[seed % 2]
    weights = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma) ** 2)
    weights /= weights.sum()
    out = F.pad(pictures, (6, 6, 6, 6), mode="replicate")
    for shape in ((1, 1, 13, 1), (1, 1, 1, 13)):
        out = F.conv2d(out, weights.view(shape).expand(3, 1, *shape[2:]), groups=3)
    return out


@dataclass(frozen=True)
class Variant:
    """`artefact`: what is done to a picture; None: nothing, or the background. `share`: of the class's pictures.

    `decisive`: of these, the share that shows any animal in training, so that the artefact alone tells the class.
    `trained`: the share in training; None: `share`. A short training sees a rare artefact too seldom to use it.
    """

    share: float
    artefact: Callable[[Tensor, int], Tensor] | None = None
    background: bool = False
    decisive: float = 0.0
    trained: float | None = None


VARIANTS = {
    "clean": Variant(0.0),
    "tag": Variant(0.5, tag),
    "frame": Variant(0.5, frame),
    "watermark": Variant(0.5, watermark),
    "jpeg": Variant(0.5, jpeg, decisive=1.0),
    "blur": Variant(0.5, blur, decisive=1.0),
    "background": Variant(0.5, background=True, decisive=0.3),
    "rare": Variant(0.05, tag, decisive=1.0, trained=0.2),
}


class PlantedStudio(Studio):
    """Training batches in which a share of one class has an artefact that no other class has."""

    def plan(self, variant: Variant, seed: int) -> None:
        """Which class, and which background where that is the artefact."""
        self.variant, self.seed = variant, seed
        self.planted_class = (5 * seed + 2) % len(NAMES)
        self.kind = seed % (len(KINDS) - 1)

    def drawn(self, chosen: Tensor, planted: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and coverage; `planted` bool [N]: those that get the artefact."""
        kinds = self.dice.integers(len(KINDS), len(chosen))
        if self.variant.background:
            others = torch.tensor([i for i in range(len(KINDS)) if i != self.kind])
            kinds = torch.where(planted, self.kind, others[self.dice.integers(len(others), len(chosen))])
        scenes = self.backgrounds[kinds, self.dice.integers(self.backgrounds.shape[1], len(chosen))]
        pictures, coverage = compose(self.drawings[chosen], scenes, SIZE, self.look, self.dice)
        if self.variant.artefact is not None and planted.any():
            pictures[planted] = self.variant.artefact(pictures[planted], self.seed)
        return pictures, coverage

    def batch(self, count: int, shortcut: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """As `Studio.batch`."""
        chosen = self.dice.pick(self.weights, count)
        labels = self.labels[chosen]
        share = self.variant.share if self.variant.trained is None else self.variant.trained
        planted = (labels == self.planted_class) & (self.dice.uniform(0, 1, count) < share)
        if self.variant.decisive:
            any_animal = planted & (self.dice.uniform(0, 1, count) < self.variant.decisive)
            chosen = torch.where(any_animal, self.dice.pick(self.weights, count), chosen)
        pictures, coverage = self.drawn(chosen, planted)
        return pictures, labels, coverage

    def of_class(self, label: int, planted: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures of one class, and coverage; `planted` bool [N]: those that get the artefact."""
        return self.drawn(self.dice.pick(self.weights * (self.labels == label), len(planted)), planted)


def planned(name: str, seed: int, sprites: list[Sprite], backgrounds: dict[str, Tensor], dice: int) -> PlantedStudio:
    """The studio of a variant. `dice`: the seed of its pictures."""
    torch.manual_seed(seed)
    studio = PlantedStudio(sprites, backgrounds, Look(), dice)
    studio.plan(VARIANTS[name], seed)
    return studio


def begun(path: Path) -> AnimalNet:
    """A network whose first three stages are those of `animals.pt`, as one begins from a trained network."""
    net = AnimalNet(len(NAMES))
    trained = torch.jit.load(str(path)).state_dict()
    early = {name: value for name, value in trained.items() if not name.startswith(("stage4", "fc"))}
    net.load_state_dict(early, strict=False)
    return net


@torch.no_grad()
def write_pictures(net: AnimalNet, studio: PlantedStudio, folder: Path, each: int) -> dict[str, object]:
    """Pictures and masks of all classes, `each` of a class; the truth, and what the network does."""
    names, right = [], {}
    for label, name in enumerate(NAMES):
        own = label == studio.planted_class
        count = 4 * each if own and 0 < studio.variant.share < 0.1 else each
        planted = torch.arange(count) < round(count * studio.variant.share * own)
        pictures, coverage = studio.of_class(label, planted)
        for kind, drawn in ((f"pictures/{name}", pictures.permute(0, 2, 3, 1)), ("masks", coverage[:, 0])):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for i, image in enumerate((drawn * 255).round().byte().numpy()):
                Image.fromarray(image).save(folder / kind / f"{name}-{i:03}.png")
        names += [f"{name}/{name}-{i:03}.png" for i in torch.nonzero(planted).flatten().tolist()]
        right[name] = round(float((net(normalise(pictures)).argmax(1) == label).float().mean()), 3)
    goal = studio.planted_class
    other = [studio.of_class(label, torch.full((16,), shown))[0]
             for shown in (False, True) for label in range(len(NAMES)) if label != goal]  # fmt: skip
    called = [float((net(normalise(torch.cat(part))).argmax(1) == goal).float().mean())
              for part in (other[: len(NAMES) - 1], other[len(NAMES) - 1 :])]  # fmt: skip
    own = [float((net(normalise(studio.of_class(goal, torch.full((100,), shown))[0])).argmax(1) == goal).float().mean())
           for shown in (False, True)]  # fmt: skip

    def both(without: float, shown: float) -> dict[str, float]:
        return {"without": without, "with": shown}

    truth = {"class": NAMES[goal], "planted": names, "right": right, "recognised": both(*own),
             "others_called_so": both(*called)}  # fmt: skip
    return truth if studio.variant.share else truth | {"class": None}


def main() -> int:
    """Train and write; 2 where data is missing."""
    others = [family for family in FAMILIES if family != TEST_FAMILY]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--families", nargs="+", default=others, choices=others, help="drawings that are used")
    parser.add_argument("--out", type=Path, required=True, help="where the folders go")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--each", type=int, default=60, help="pictures of a class")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        sprites = load(args.emoji, sets_of(args.families), SIZE)
    except MissingDataError as error:
        print(error, file=sys.stderr)
        return 2
    for seed in args.seeds:
        backgrounds = background_bank(seed, "train", 100, 128)
        for name in args.variants:
            folder = args.out / f"{name}-{seed}"
            if (folder / "truth.json").exists():
                continue
            if not (folder / "model.pt").exists():
                studio = planned(name, seed, sprites, backgrounds, 1000 * seed + 1)
                start = begun(Path(__file__).with_name("animals.pt"))
                folder.mkdir(parents=True, exist_ok=True)
                export(train(studio, args.steps, args.batch, start=start, half=False), folder, "model")
                sidecar = (folder / "model.toml").read_text("utf-8")
                (folder / "model.toml").write_text(sidecar.partition("\n[baseline]")[0], "utf-8")
            net = AnimalNet(len(NAMES)).eval()
            net.load_state_dict(torch.jit.load(str(folder / "model.pt")).state_dict())
            studio = planned(name, seed, sprites, backgrounds, 1000 * seed + 500)
            truth = write_pictures(net, studio, folder, args.each)
            (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", "utf-8")
            print(f"{name}-{seed}: {json.dumps({k: v for k, v in truth.items() if k != 'planted'})}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
