"""Measures of heatmaps against closed forms and against the libraries that define them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from heatcli.evaluate import perturbation
from heatcli.evaluate.complexity import entropy, sparseness
from heatcli.evaluate.location import inside_share, pointing
from heatcli.evaluate.run import resampled
from heatcli.evaluate.similarity import correlation, rank_correlation, ranks, ssim

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is in the extra test")

values = arrays(np.float64, (3, 12), elements=st.integers(-3, 3).map(float))


@given(values)
def test_ranks_share_ties_as_scipys_do(array: np.ndarray) -> None:
    assert np.array_equal(ranks(torch.from_numpy(array)).numpy(), stats.rankdata(array, axis=1) - 1)


@given(values, values)
def test_rank_correlation_is_spearmans(a: np.ndarray, b: np.ndarray) -> None:
    found = rank_correlation(torch.from_numpy(a).reshape(3, 3, 4), torch.from_numpy(b).reshape(3, 3, 4))
    for i in range(3):
        constant = len(set(a[i])) == 1 or len(set(b[i])) == 1
        expected = 0.0 if constant else stats.spearmanr(a[i], b[i]).statistic
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)


def test_correlation_does_not_care_for_scale_and_shift() -> None:
    a = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(correlation(a, 3 * a - 1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(correlation(a, -a), -torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("side", [16, 40])
def test_ssim_is_scikit_images(side: int) -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(2, side, side))
    b = a + generator.normal(size=a.shape)
    for i, found in enumerate(ssim(torch.from_numpy(a), torch.from_numpy(b)).tolist()):
        expected = metrics.structural_similarity(
            a[i] / np.abs(a[i]).max(), b[i] / np.abs(b[i]).max(), data_range=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert found == pytest.approx(expected, abs=1e-7)


def test_concentration_in_closed_form() -> None:
    """One pixel of P: entropy 0, Gini 1 − 1/P. All equal: entropy log P, Gini 0."""
    one = torch.zeros(1, 4, 5)
    one[0, 2, 3] = -7
    equal = torch.full((1, 4, 5), 0.3)
    assert float(entropy(one)) == 0
    assert float(sparseness(one)) == pytest.approx(1 - 1 / 20)
    assert float(entropy(equal)) == pytest.approx(math.log(20))
    assert float(sparseness(equal)) == pytest.approx(0, abs=1e-12)


def test_location_in_closed_form() -> None:
    """Negative relevance counts nowhere; a pixel half inside counts half."""
    heatmap = torch.tensor([[[4.0, -9.0], [2.0, 2.0]], [[-1.0, -1.0], [-2.0, -3.0]]])
    mask = torch.tensor([[[0.0, 1.0], [1.0, 0.5]]]).expand(2, 2, 2)
    assert inside_share(heatmap, mask).tolist() == [3 / 8, 0]
    assert pointing(heatmap, mask).tolist() == [0, 0]
    assert pointing(-heatmap, mask).tolist() == [1, 1]


@given(arrays(np.float64, (2, 6, 7), elements=st.integers(-2, 2).map(float)), st.integers(1, 4))
@settings(max_examples=40)
def test_regions_go_in_the_order_of_their_mean(array: np.ndarray, size: int) -> None:
    """Every region once, all its pixels together, the more relevant never later."""
    when, regions = perturbation.by_region(torch.from_numpy(array), size)
    assert sorted(when[0].unique().tolist()) == list(range(regions))
    means = [array[0][when[0].numpy() == step].mean() for step in range(regions)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(means))
    reverse, _ = perturbation.by_region(torch.from_numpy(array), size, least_first=True)
    assert array[0][reverse[0].numpy() == 0].mean() == pytest.approx(min(means))


def test_areas_in_closed_form() -> None:
    scores = torch.tensor([[4.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
    assert perturbation.aopc(scores).tolist() == pytest.approx([(0 + 1 + 3) / 3, 0])
    assert perturbation.area(scores).tolist() == pytest.approx([(3.5 + 2) / 2, 1])


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """About 95 of 100 intervals of 40 normal numbers hold their true mean; those of a constant are a point."""
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        low, high = resampled(draw.normal(2.0, 1.0, size=(40, 1)), seed, times=400)
        held += bool(low[0] <= 2.0 <= high[0])
    assert 0.88 <= held / 200 <= 0.99
    assert resampled(np.full((5, 1), 3.0)).tolist() == [[3.0], [3.0]]
