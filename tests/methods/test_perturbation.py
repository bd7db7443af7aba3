"""Perturbation methods on scores whose answer is known: linear ones, exact Shapley values, normal distributions."""

from __future__ import annotations

import importlib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from hypothesis import given
from hypothesis import strategies as st
from networks import Linear, images, load, network
from torch import Tensor

import heatcli
from heatcli.methods import superpixels
from heatcli.methods.difference import Conditional, PredictionDifference
from heatcli.methods.perturbation import Rise, Windows
from heatcli.methods.table import method
from heatcli.system import extras

WOLF = str(SAMPLES / "wolf-on-snow.png")


def patchwork(n: int = 2) -> Tensor:
    """Images [n, 3, 16, 16] of six flat rectangles, which SLIC finds."""
    g = torch.Generator().manual_seed(0)
    colours = torch.randn(n, 3, 2, 3, generator=g) * 2
    return colours.repeat_interleave(8, 2).repeat_interleave(6, 3)[..., :16].contiguous()


# --- occlusion ----------------------------------------------------------------------------------------------------


def test_occlusion_of_a_linear_score_is_what_each_window_is_worth(tmp_path: Path) -> None:
    module, batch, start = Linear(), images(2), images(1, 4)[0]
    worth = module.fc.weight.detach()[0].reshape(3, 16, 16) * (batch - start)
    in_windows = worth.reshape(2, 3, 4, 4, 4, 4).sum((1, 3, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    model = load(module, tmp_path)
    found = heatcli.explain(model, batch, "occlusion", 0, start, window=4, stride=4)
    assert torch.allclose(found.relevance.sum(1) * 16, in_windows, atol=1e-4)
    assert float(found.ledger.unexplained.abs().max()) < 1e-4, "side by side, they sum to what the image is worth"
    whole = heatcli.explain(model, batch, "occlusion", 0, start, window=4, stride=4, share="whole")
    assert torch.allclose(whole.relevance, in_windows[:, None].expand(-1, 3, -1, -1), atol=1e-4)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(12, 20), st.integers(12, 20))
def test_windows_cover_every_pixel_and_spread_keeps_a_constant(size: int, stride: int, height: int, width: int) -> None:
    windows = Windows(size, min(stride, size), (height, width))
    masks = windows.masks(torch.arange(len(windows.corners)))
    assert bool((masks.sum(0) > 0).all())
    assert set(masks.sum((1, 2, 3)).tolist()) == {float(size**2)}
    assert torch.allclose(windows.spread(torch.ones(1, len(masks)), 1, "whole"), torch.ones(1, 1, height, width))


# --- RISE ---------------------------------------------------------------------------------------------------------


def test_rise_is_the_mean_of_masks_weighted_by_scores(tmp_path: Path) -> None:
    module, batch = network("plain"), images(2)
    rise = Rise(masks=9, cells=3, keep=0.4, seed=2)
    masks = rise.enlarged(*rise.drawn(), torch.arange(9), (16, 16))
    with torch.no_grad():
        scores = torch.stack([module(batch * mask)[:, 1] for mask in masks])
    expected = torch.einsum("mn,mhw->nhw", scores, masks[:, 0]) / (9 * 0.4)
    found = heatcli.explain(load(module, tmp_path), batch, "rise", 1, masks=9, cells=3, keep=0.4, seed=2)
    assert torch.allclose(found.relevance.sum(1), expected, atol=1e-4)


def test_masks_keep_as_much_as_they_should() -> None:
    rise = Rise(masks=3000, cells=5, keep=0.3)
    masks = rise.enlarged(*rise.drawn(), torch.arange(3000), (17, 23))
    assert masks.shape == (3000, 1, 17, 23)
    assert bool(((masks >= 0) & (masks <= 1)).all())
    assert torch.allclose(masks.mean(0), torch.tensor(0.3), atol=0.04), "the same everywhere, as the shifts see to it"


# --- superpixels --------------------------------------------------------------------------------------------------


def shapley(value: dict[frozenset[int], float], count: int) -> list[float]:
    """Shapley values by their definition, over all orders in which players can come."""
    orders = list(itertools.permutations(range(count)))
    return [
        sum(
            value[frozenset(order[: order.index(i) + 1])] - value[frozenset(order[: order.index(i)])]
            for order in orders
        )
        / len(orders)
        for i in range(count)
    ]


def test_kernel_shap_is_exact_where_it_sees_every_coalition(tmp_path: Path) -> None:
    module, batch, start = network("plain"), patchwork(1), torch.full((3, 16, 16), 0.3)
    segments = superpixels.superpixels(batch[0], 6, 10.0)
    count = int(segments.max()) + 1
    assert 4 <= count <= 7
    value = {}
    for shown in itertools.product((False, True), repeat=count):
        mask = torch.from_numpy(np.array(shown)[segments])
        with torch.no_grad():
            value[frozenset(np.flatnonzero(shown).tolist())] = float(module(torch.where(mask, batch, start))[0, 2])
    expected = shapley(value, count)
    found = heatcli.explain(load(module, tmp_path), batch, "kernel-shap", 2, start, superpixels=6)
    sums = [float(found.relevance[0].sum(0)[torch.from_numpy(segments == i)].sum()) for i in range(count)]
    assert sums == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(found.ledger.relative_error.max()) < 1e-5


def test_sampled_kernel_shap_of_a_linear_score_is_exact_and_adds_up(tmp_path: Path) -> None:
    """More superpixels than every coalition could be tried of; the regression finds a linear score all the same."""
    module, batch = Linear(), images(1)
    worth = (module.fc.weight.detach()[0].reshape(3, 16, 16) * batch[0]).sum(0)
    model = load(module, tmp_path)
    found = heatcli.explain(model, batch, "kernel-shap", 0, superpixels=16, compactness=1000.0, samples=200)
    segments = torch.from_numpy(superpixels.superpixels(batch[0], 16, 1000.0))
    assert int(segments.max()) + 1 > 8
    for i in range(int(segments.max()) + 1):
        assert float(found.relevance[0].sum(0)[segments == i].sum()) == pytest.approx(
            float(worth[segments == i].sum()), abs=1e-3
        )
    assert float(found.ledger.relative_error.max()) < 1e-5


def test_limes_coefficients_of_a_linear_score_are_its_superpixels(tmp_path: Path) -> None:
    module, batch = Linear(), images(1)
    worth = (module.fc.weight.detach()[0].reshape(3, 16, 16) * batch[0]).sum(0)
    segments = torch.from_numpy(superpixels.superpixels(batch[0], 9, 1000.0))
    settings: dict[str, Any] = {"superpixels": 9, "compactness": 1000.0, "samples": 300}
    model = load(module, tmp_path)
    found = heatcli.explain(model, batch, "lime", 0, alpha=0.0, **settings).relevance[0].sum(0)
    ridged = heatcli.explain(model, batch, "lime", 0, alpha=1e6, **settings).relevance
    for i in range(int(segments.max()) + 1):
        assert float(found[segments == i].sum()) == pytest.approx(float(worth[segments == i].sum()), abs=1e-3)
    assert float(ridged.abs().sum()) < 1e-2 * float(found.abs().sum()), "a stiff ridge says nothing"


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *args)

    real = importlib.import_module
    monkeypatch.setattr(extras, "import_module", missing)
    model = load(network("plain"), tmp_path)
    with pytest.raises(
        heatcli.errors.UsageError,
        match=r"need scikit-image, which is not installed; pip install scikit-image scikit-learn$",
    ):
        heatcli.explain(model, images(1), "lime")


# --- prediction difference ----------------------------------------------------------------------------------------


def test_marginal_prediction_difference_is_zintgrafs_algorithm(tmp_path: Path) -> None:
    """Window by window, sample by sample, with probabilities from the softmax and Laplace's correction."""
    module, batch, pool = network("plain"), images(1), images(3, 8)
    given: dict[str, Any] = {"window": 8, "stride": 8, "samples": 4, "sampling": "marginal", "trained": 1000}
    g = torch.Generator().manual_seed(0)
    which = torch.randint(3, (4, 4), generator=g)

    def odds(p: float) -> float:
        p = (p * 1000 + 1) / (1000 + 5)
        return math.log2(p / (1 - p))

    expected = torch.zeros(16, 16)
    with torch.no_grad():
        for w, (y, x) in enumerate(itertools.product((0, 8), (0, 8))):
            chances = []
            for s in range(4):
                other = batch.clone()
                other[0, :, y : y + 8, x : x + 8] = pool[which[w, s], :, y : y + 8, x : x + 8]
                chances.append(float(module(other).softmax(1)[0, 1]))
            evidence = odds(float(module(batch).softmax(1)[0, 1])) - odds(sum(chances) / 4)
            expected[y : y + 8, x : x + 8] = evidence
    model = load(module, tmp_path)
    found = heatcli.explain(model, batch, "prediction-difference", 1, pool, share="whole", **given)
    assert torch.allclose(found.relevance[0, 0], expected, atol=1e-4)


def test_conditional_samples_follow_the_normal_distribution(tmp_path: Path) -> None:
    """In images of one grey each, what is around a window says what is in it; in independent pixels it says nothing."""
    model = load(network("plain"), tmp_path)

    class Asked:
        pass

    def drawn(pool: Tensor, image: Tensor) -> Tensor:
        asked: Any = Asked()
        asked.batch, asked.model = image[None], model
        asked.model.pictures.pixel_range = lambda _: (torch.full((1, 3, 1, 1), -9.0), torch.full((1, 3, 1, 1), 9.0))
        windows = Windows(4, 4, (16, 16))
        sampler = Conditional(PredictionDifference(samples=200, window=4, stride=4, padding=2), windows, pool, asked)
        return torch.stack([sampler(0, 5, s) for s in range(200)])

    grey = torch.randn(300, 1, 1, 1, generator=torch.Generator().manual_seed(1)).expand(-1, 3, 16, 16)
    near = drawn(grey, torch.full((3, 16, 16), 1.7))
    assert float((near - 1.7).abs().mean()) < 0.2
    far = drawn(images(300, 2), torch.full((3, 16, 16), 1.7))
    assert float(far.mean().abs()) < 0.4
    assert float(far.std()) == pytest.approx(1, abs=0.2)


def test_evidence_for_one_class_against_another(tmp_path: Path) -> None:
    model, batch, pool = load(network("plain"), tmp_path), images(1), images(3, 8)
    chosen = method("prediction-difference", window=8, stride=8, samples=3)
    one, other = (heatcli.explain(model, batch, chosen, target, pool).relevance for target in ("1-2", "2-1"))
    assert torch.allclose(one, -other, atol=1e-6)
    assert float(one.abs().max()) > 0


CASES = [
    (["--method", "occlusion", "--param", "window=97"], "window=97 is not allowed; the input has 96×96 pixels"),
    (["--method", "occlusion", "--param", "window=4", "--param", "stride=5"], "stride=5 is not allowed"),
    (["--method", "occlusion", "--baseline", "none"], "method occlusion compares with an image"),
    (["--method", "rise", "--param", "keep=0"], "keep=0 is not allowed; it must be a number above 0 up to 1"),
    (["--method", "kernel-shap", "--param", "superpixels=0"], "superpixels=0 is not allowed"),
    (["--method", "prediction-difference"], "draws from a folder of images; give --baseline FOLDER"),
    (["--method", "prediction-difference", "--baseline", "black"], "draws from a folder of images"),
    (["--method", "prediction-difference", "--baseline", "empty"], "baseline empty: holds no images"),
    (["--method", "prediction-difference", "--param", "sampling=mean"], "use conditional or marginal"),
]


@pytest.mark.parametrize(("arguments", "said"), CASES, ids=[said[:40] for _, said in CASES])
def test_what_cannot_be_is_a_usage_error(cli: Cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    ran = cli("explain", WOLF, *arguments)
    assert (ran.status, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err
