"""What the numbers of a picture mean and how it becomes the input: decided by rule, and told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import Reader
from heatcli.images.values import in_range, parse_range

WOLF = SAMPLES / "wolf-on-snow.png"
BYTES = np.asarray(Image.open(WOLF).convert("RGB"))
PIXELS = BYTES.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(
    ("array", "stated", "expected", "said"),
    [
        (np.array([0, 128, 255], np.uint8), "", [0, 128 / 255, 1], ""),
        (np.array([0, 1], bool), "", [0, 1], ""),
        (np.array([0.0, 0.5, 1.0]), "", [0, 0.5, 1], ""),
        (np.array([0.0, 51.0, 204.0]), "", [0, 0.2, 0.8],
         "its floating-point values up to 204 are read as 0..255; --range says otherwise"),
        (np.array([-1024.0, 3071.0]), "", [-1024, 3071], "its floating-point values from -1024 to 3071 are no pixels, "
         "and go in as they are; --range data if that is meant"),
        (np.array([-1024.0, 3071.0]), "data", [-1024, 3071], ""),
        (np.array([0, 51, 255], np.int64), "", [0, 0.2, 1],
         "its whole numbers up to 255 are read as 0..255; --range says otherwise"),
        (np.array([0, 13107, 65535], np.int32), "", [0, 0.2, 1],
         "its whole numbers up to 65535 are read as 0..65535; --range says otherwise"),
        (np.array([0, 65535], np.uint16), "", [0, 1], ""),
        (np.array([0, 4095], np.uint16), "", [0, 4095 / 65535], "uses 12 of its 16 bits at most (largest value 4095) "
         "and is read as 0..65535; --range 0..4095 if it has 12"),
        (np.array([0, 819, 4095], np.uint16), "0..4095", [0, 0.2, 1], ""),
        (np.array([-10.0, 0.0, 30.0]), "-10..30", [0, 0.25, 1], ""),
    ],
)  # fmt: skip
def test_what_values_mean(array: NDArray, stated: str, expected: list[float], said: str) -> None:
    values, told = in_range(array, stated, colours=True)
    assert values.dtype == np.float32
    assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert told == said


def test_channels_that_are_no_colours_keep_their_values() -> None:
    """Thirteen bands of reflectances are no pixels of 0..255."""
    values, told = in_range(np.array([0.0, 1.7]), "", colours=False)
    assert values.tolist() == pytest.approx([0, 1.7])
    assert "go in as they are" in told


@pytest.mark.parametrize("text", ["255", "1..0", "a..b", "0..inf", ""])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"give LOW..HIGH, such as 0..255 or 0..4095, or data"):
        parse_range(text)


def test_python_takes_arrays_as_the_command_line_does(tmp_path: Path) -> None:
    """uint8 [H, W, C], the same [C, H, W], floats of either range and the picture itself are one input."""
    model = heatcli.load()
    wanted = model.preprocess([Image.open(WOLF).convert("RGB")])
    np.save(tmp_path / "wolf.npy", BYTES)
    ways = [BYTES, BYTES.transpose(2, 0, 1), PIXELS, PIXELS * 255, Reader(3).picture(tmp_path / "wolf.npy")]
    for one in ways:
        assert torch.allclose(model.preprocess([one]), wanted, atol=0.02)  # pictures are resized in whole numbers
    with pytest.raises(heatcli.errors.ImageError, match=r"has the shape \(3, 3, 3, 3\); the model takes 3 channels"):
        model.preprocess([np.zeros((3, 3, 3, 3))])


def test_deep_grey_pictures(tmp_path: Path) -> None:
    """Floating-point TIFFs, of 0..1 and of 0..255, and 16-bit PNGs are what the same picture of 8 bits is."""
    grey = np.asarray(Image.open(WOLF).convert("L"))
    fit = Fit(3, 96, 96)
    wanted = to_pixels(Image.fromarray(grey).convert("RGB"), fit)
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "unit.tif")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "byte.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    told: list[str] = []
    for name in ("unit.tif", "byte.tif", "deep.png"):
        reader = Reader(3, say=lambda text, _: told.append(text))
        assert to_pixels(reader.picture(tmp_path / name).pixels, fit) == pytest.approx(wanted, abs=0.005)
    assert [text.rpartition("/")[2] for text in told] == [
        f"byte.tif: its floating-point values up to {grey.max()} are read as 0..255; --range says otherwise"
    ]


def test_the_command_line_says_what_it_guessed(cli: Cli, tmp_path: Path) -> None:
    """Floats of 0..255 are the same prediction as the picture, and that is said once for all; twelve bits, too."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", PIXELS * 255)
    ran = cli("explain", "a.npy", "b.npy", "--json")
    assert ran.err.count("heatcli: note: a.npy: its floating-point values up to 225 are read as 0..255") == 1
    assert ran.err.count("heatcli: note:") == 1
    scores = [json.loads(line)["target"]["score"] for line in ran.out.splitlines()]
    own = json.loads(cli("explain", WOLF, "--json").out)["target"]["score"]
    assert scores == pytest.approx([own, own], rel=0.01)
    assert "heatcli: note:" not in cli("explain", "a.npy", "--range", "0..255").err
    grey = np.asarray(Image.open(SAMPLES / "digits" / "8-a.png").convert("L")).astype(np.uint16)
    Image.fromarray(grey * 16).save(tmp_path / "twelve.png")
    digits = ["explain", "twelve.png", "--model", MODELS / "digits.onnx", "--json"]
    assert "twelve.png: uses 12 of its 16 bits at most" in cli(*digits).err
    twelve = json.loads(cli(*digits, "--range", "0..4080").out)["target"]
    eight = json.loads(cli("explain", SAMPLES / "digits" / "8-a.png", *digits[2:]).out)["target"]
    assert twelve["score"] == pytest.approx(eight["score"], rel=1e-4)


class Plain(nn.Module):
    """A mean of each channel, of what `first` makes of the pixels."""

    def __init__(self, first: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first or nn.Identity()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.first(x)).mean((2, 3))


class Scaled(nn.Module):
    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.scale


def norm(mean: float, variance: float) -> nn.BatchNorm2d:
    """A batch norm that has seen such inputs."""
    made = nn.BatchNorm2d(3)
    assert made.running_mean is not None
    assert made.running_var is not None
    made.running_mean.fill_(mean)
    made.running_var.fill_(variance)
    return made


NOTHING = (
    "heatcli: note: nothing says which preprocessing plain.pt was trained with: pixels go in as 0..1, stretched to "
    "32×32; change that with --preset imagenet, or --mean, --std and --resize; --preset none confirms it\n"
)
BYTE_RANGE = "so it seems to take 0..255; --mean 0 --std 0.003922 gives it those, --preset none confirms 0..1\n"


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (None, NOTHING),
        (norm(0.45, 0.06), ""),
        (norm(0.0, 1.0), NOTHING),
        (norm(115.0, 3400.0), f"heatcli: note: plain.pt itself makes -1.97 to -1.96 of pixels in 0..1, {BYTE_RANGE}"),
        (Scaled(0.5, 2.0), ""),
        (Scaled(0.0, 1 / 255), f"heatcli: note: plain.pt itself makes 0 to 0.00392 of pixels in 0..1, {BYTE_RANGE}"),
    ],
    ids=["none", "norm of 0..1", "norm of normalised", "norm of 0..255", "x*2-1", "x/255"],
)
def test_unknown_preprocessing_is_told(first: nn.Module | None, said: str, cli: Cli, tmp_path: Path) -> None:
    """Once, with the command that settles it; not where the artifact normalises by itself, or somebody said how."""
    torch.jit.trace(Plain(first).eval(), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "plain.pt"))
    common = ["explain", WOLF, "--model", "plain.pt", "--size", "32"]
    ran = cli(*common)
    notes = [line + "\n" for line in ran.err.splitlines() if line.startswith("heatcli: note:")]
    assert (ran.status, "".join(notes)) == (0, said)
    assert "heatcli: note:" not in cli(*common, "--preset", "none").err
    assert "heatcli: note:" not in cli(*common, "--mean", "0.5").err
    assert "heatcli: note:" not in cli(*common, "--quiet").err
    shown = cli("inspect", "plain.pt", "--size", "32").out
    assert "preprocessing: resize stretch, mean 0, std 1; nothing says so\n" in shown
    (tmp_path / "plain.toml").write_text("[input]\nsize = 32\n")
    assert "heatcli: note:" not in cli(*common).err
    assert "preprocessing: resize stretch, mean 0, std 1; plain.toml\n" in cli("inspect", "plain.pt").out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"],
         "--mean 123.675, 116.28, 103.53: pixels are in 0..1 before it is applied; 0.485,0.456,0.406 is that of 0..255"
         "; or say --range data"),
        (["--std", "0,0,0"], "--std 0, 0, 0: 0 divides no pixel; give the standard deviation of each channel"),
        (["--range", "255"], "range '255' is not known; give LOW..HIGH"),
        (["--channels-order", "gbr"], "--channels-order gbr is not known; use rgb or bgr"),
        (["--no-pass", "fold-batchnorm"], "unknown graph pass 'fold-batchnorm'; did you mean 'fold-batch-norm'?"),
        (["--region", "0,0,9000,9000"], "reaches beyond the picture, which is"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(flags: list[str], message: str, cli: Cli) -> None:
    ran = cli("explain", WOLF, *flags)
    if "--region" in flags:
        assert (ran.status, "makes no sense" in ran.err or message in ran.err) == (1, True)
        return
    assert (ran.status, message in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_a_sidecar_that_cannot_be_meant(cli: Cli, tmp_path: Path) -> None:
    torch.jit.trace(Plain().eval(), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "plain.pt"))
    (tmp_path / "plain.toml").write_text("[input]\nsize = 32\nmean = [123.0, 116.0, 103.0]\n")
    ran = cli("explain", WOLF, "--model", "plain.pt")
    assert ran.status == 3
    assert "plain.toml: mean = 123, 116, 103: pixels are in 0..1 before it is applied; 0.482,0.455,0.404" in ran.err


def test_bgr(tmp_path: Path, cli: Cli) -> None:
    """The network's first channel is blue, normalised as blue is; its map is the same as that of swapped weights."""
    swapped = Plain().eval()
    torch.jit.trace(swapped, torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "bgr.pt"))
    with torch.no_grad():
        swapped.convolution.weight.copy_(swapped.convolution.weight.flip(1))
    torch.jit.trace(swapped, torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "rgb.pt"))
    pixels = Image.open(WOLF).convert("RGB")
    flags = {"size": (32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    bgr, rgb = heatcli.load(tmp_path / "bgr.pt", order="bgr", **flags), heatcli.load(tmp_path / "rgb.pt", **flags)
    a, b = bgr.preprocess([pixels]), rgb.preprocess([pixels])
    assert torch.equal(a, b.flip(1))
    assert torch.allclose(bgr.pictures.pixels(a), rgb.pictures.pixels(b))
    low, high = bgr.pictures.pixel_range(a)
    assert torch.allclose(low.flip(1), rgb.pictures.pixel_range(b)[0])
    assert bool((low < high).all())
    one, other = (heatcli.explain(model, x, "lrp-0") for model, x in ((bgr, a), (rgb, b)))
    assert torch.allclose(one.ledger.output, other.ledger.output)
    assert torch.allclose(one.relevance, other.relevance.flip(1), atol=1e-6)
    common = ["explain", WOLF, "--model", "bgr.pt", "--size", "32", "--preset", "imagenet", "--json"]
    (tmp_path / "sided.pt").write_bytes((tmp_path / "bgr.pt").read_bytes())
    (tmp_path / "sided.toml").write_text('[input]\norder = "bgr"\n')
    flag, sidecar = (json.loads(cli(*c).out) for c in ([*common, "--channels-order", "bgr"],
                                                        [*common[:3], "sided.pt", *common[4:]]))  # fmt: skip
    assert flag["target"]["score"] == sidecar["target"]["score"]
    assert flag["model"]["input"]["order"] == "bgr"
    assert "order" not in json.loads(cli(*common).out)["model"]["input"]


class Cancels(nn.Module):
    """Two large sums that leave little."""

    def forward(self, x: Tensor) -> Tensor:
        positive, negative = x[:, :, ::2].sum((1, 2, 3)), x[:, :, 1::2].sum((1, 2, 3))
        return torch.stack([positive - negative + 1e-2, positive - negative], 1)


class Unbalanced(nn.Module):
    """Something that no rule knows, and much of the score there."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.logcumsumexp(x.mean((2, 3)), 1)
        return torch.stack([y[:, 2] + 5, y[:, 0]], 1)


def test_maps_to_read_with_care_are_told(tmp_path: Path, cli: Cli) -> None:
    torch.jit.script(Cancels()).save(str(tmp_path / "cancels.pt"))
    torch.jit.script(Unbalanced()).save(str(tmp_path / "unbalanced.pt"))
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    common = ["--size", "32", "--preset", "none", "--method", "lrp-0"]
    ran = cli("explain", "white.png", "--model", "cancels.pt", *common)
    assert (
        "note: lrp-0 gives the pixels 3.07e+03 in all, for and against, and the score is 0.01: so the map is" in ran.err
    )
    assert "note: relevance of lrp-0 grows most at operator sub_" in ran.err
    ran = cli("explain", "white.png", "--model", "unbalanced.pt", *common)
    assert "note: the ledger does not balance: " in ran.err
    assert "of the score are unexplained, most of it at logcumsumexp_" in ran.err
    assert "does not balance" not in cli("explain", WOLF).err


def test_an_option_given_twice_is_refused(cli: Cli) -> None:
    ran = cli("explain", WOLF, "--target", "wolf", "--target", "dog")
    assert (ran.status, ran.err) == (2, "heatcli: --target is given 2 times and takes one value; give it once\n")
    assert (
        cli("explain", WOLF, "--method", "lrp-gamma", "--param", "gamma=1", "--param", "epsilon=1", "-q", "-q").err
        == ""
    )
