"""Pictures in and out: reading, preprocessing, where the heatmap lies, baselines, the mean, overlays."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES
from PIL import Image
from scipy import ndimage

import heatcli
from heatcli.errors import UsageError
from heatcli.images import baselines
from heatcli.images.baselines import gaussian_blur
from heatcli.images.mean import mean_image
from heatcli.images.overlay import overlay
from heatcli.images.preprocess import Fit, seen_box, to_pixels
from heatcli.images.read import read_picture
from heatcli.methods.table import METHODS

transforms = pytest.importorskip("torchvision.transforms")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (97, 96), (40, 60)])
@pytest.mark.parametrize("resize_to", [None, 96, 110])
def test_resizing_is_torchvisions(size: tuple[int, int], resize_to: int | None) -> None:
    """Pixel-equal to torchvision's Resize and CenterCrop on the same picture."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    steps = [transforms.Resize((96, 96))] if resize_to is None else [transforms.Resize(resize_to)]
    expected = transforms.Compose([*steps, transforms.CenterCrop(96), transforms.ToTensor()])(image)
    assert np.array_equal(to_pixels(image, Fit(3, 96, 96, resize_to)), expected.numpy())


@pytest.mark.parametrize("resize_to", [None, 96, 128])
def test_seen_box_is_where_the_network_looks(resize_to: int | None) -> None:
    """A bright spot at the centre of a network pixel's place on the picture lights that network pixel."""
    left, top, right, bottom = seen_box((640, 400), Fit(1, 96, 96, resize_to))
    for row, column in ((10, 20), (48, 48), (90, 5)):
        x = left + (column + 0.5) * (right - left) / 96
        y = top + (row + 0.5) * (bottom - top) / 96
        picture = np.zeros((400, 640), dtype=np.uint8)
        picture[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
        pixels = to_pixels(Image.fromarray(picture), Fit(1, 96, 96, resize_to))[0]
        brightest = np.unravel_index(pixels.argmax(), pixels.shape)
        assert max(abs(brightest[0] - row), abs(brightest[1] - column)) <= 1


def test_modes(tmp_path: Path) -> None:
    """Grey, palette, 16 bits, transparency on white and EXIF rotation all become upright pixels in 0..1."""
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert to_pixels(clear, Fit(3, 8, 8)).min() == 1.0
    deep = Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16))
    assert to_pixels(deep, Fit(1, 8, 8)) == pytest.approx(128 / 255)
    palette = Image.new("RGB", (8, 8), (255, 0, 255)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert to_pixels(palette, Fit(3, 8, 8))[:, 0, 0].tolist() == [1.0, 0.0, 1.0]
    turned = Image.new("L", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg", 1).size == (10, 20)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
def test_blur_is_the_gaussian(sigma: float) -> None:
    batch = torch.rand(1, 2, 24, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ndimage.gaussian_filter(batch[0].numpy(), (0, sigma, sigma), mode="nearest", truncate=4.0)
    assert gaussian_blur(batch, sigma)[0].numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.7, 9.0, 80.0])
def test_a_long_signal_is_blurred_as_a_short_one(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Fourier transforms, since its matrix of L² numbers would fill the memory; the same within rounding."""
    batch = torch.from_numpy(np.random.default_rng(0).random((2, 3, 301), np.float32))
    by_matrix = gaussian_blur(batch, sigma)
    monkeypatch.setattr(baselines, "_DENSE", 300)
    assert torch.allclose(gaussian_blur(batch, sigma), by_matrix, atol=1e-6)
    monkeypatch.undo()
    assert gaussian_blur(torch.ones(1, 1, 100_000), 6250.0).allclose(torch.ones(1))


def test_baselines() -> None:
    """What each baseline is, as the network sees it."""
    model = heatcli.load(MODELS / "animals.pt")
    batch = model.preprocess([read_picture(SAMPLES / "wolf-on-snow.png", 3).pixels] * 2)
    method = METHODS["lrp-eps"]
    assert method.reference(None, model.pictures, batch).batch is None
    assert METHODS["deeplift-rescale"].reference(None, model.pictures, batch).name == "zero"
    assert METHODS["deeplift-rescale"].reference("none", model.pictures, batch).batch is None

    def tensor(name: str) -> torch.Tensor:
        found = method.reference(name, model.pictures, batch).batch
        assert found is not None
        assert found.shape == batch.shape
        return found

    assert not tensor("zero").any()
    assert torch.equal(tensor("black"), model.pictures.normalise(torch.zeros_like(batch)))
    with np.load(MODELS / "animals.mean.npz") as file:
        mean = torch.from_numpy(file["mean"])
    assert torch.allclose(tensor("mean"), model.pictures.normalise(mean[None]).expand_as(batch))
    assert torch.equal(tensor(str(SAMPLES / "wolf-on-snow.png")), batch)
    assert torch.allclose(tensor("blur:4"), gaussian_blur(batch, 4.0))
    assert method.reference("blur", model.pictures, batch).details == {"sigma": 6.0}
    with pytest.raises(UsageError, match=r"shape \(1, 3, 4, 4\), which does not fit inputs \(2, 3, 96, 96\)"):
        method.reference(torch.zeros(1, 3, 4, 4), model.pictures, batch)


def test_mean_streams(tmp_path: Path) -> None:
    """The mean is numpy's, and four times the pictures take no more memory."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(80)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i:03}.png")
    paths = sorted(tmp_path.iterdir())

    def peak(count: int) -> int:
        tracemalloc.start()
        mean, counted = mean_image(paths[:count], Fit(3, 32, 32), [])
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counted == count
        expected = np.mean([p.transpose(2, 0, 1) / 255 for p in pictures[:count]], axis=0)
        assert mean == pytest.approx(expected, abs=1e-6)
        return high

    peak(2)  # what is imported and cached once
    assert peak(80) < 1.2 * peak(20) + 20_000


def test_overlay_colours() -> None:
    """Positive is red, negative blue, nothing is left grey, and outside the seen part nothing is coloured."""
    relevance = np.zeros((8, 8))
    relevance[2, 2], relevance[5, 5] = 3.0, -3.0
    picture = np.asarray(overlay(Image.new("RGB", (64, 32), "white"), relevance, (16, 0, 48, 32), "bwr", 1.0))
    assert picture.shape == (32, 64, 3)
    red, blue = picture[10, 26].astype(int), picture[22, 38].astype(int)
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    for spot in (picture[10, 4], picture[30, 46]):
        assert spot.max() == spot.min()


def test_overlay_of_nothing_is_grey() -> None:
    picture = np.asarray(overlay(Image.new("RGB", (9, 9), "red"), np.zeros((3, 3)), (0, 0, 9, 9), "bwr", 1.0))
    assert (picture.max(axis=2) == picture.min(axis=2)).all()
