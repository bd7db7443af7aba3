"""Fixed patterns: the largest eigenvalue, the pictures that have the pattern, and what has none."""

from __future__ import annotations

import numpy as np
import pytest

from heatcli.discover.patterns import FINEST, STRONG, Details, detail, leading, pattern_of, projected
from heatcli.discover.suspicion import having

SIDE = 48


def _natural(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rough patches at random places near the middle, as relevance on things lies: [count, SIDE, SIDE]."""
    maps = np.zeros((count, SIDE, SIDE))
    for one in maps:
        y, x = rng.integers(6, 22, 2)
        one[y : y + 20, x : x + 20] = rng.exponential(size=(20, 20))
    return maps


def _sided(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smaller patches to the left or to the right, as of two poses."""
    maps = np.zeros((count, SIDE, SIDE))
    for i, one in enumerate(maps):
        y, x = rng.integers(6, 26), rng.integers(0, 10) + 24 * (i % 2)
        one[y : y + 14, x : x + 14] = rng.exponential(size=(14, 14))
    return maps


def _details(maps: np.ndarray) -> np.ndarray:
    return np.stack([detail(one, (SIDE, SIDE)) for one in maps])


def _watermark() -> np.ndarray:
    """Thin diagonal strokes in the lower third."""
    rows, columns = np.indices((SIDE, SIDE))
    return ((rows + columns) % 12 < 2) & (rows >= 2 * SIDE // 3)


@pytest.mark.parametrize("marked", [10, 30])
def test_strokes_across_a_third_of_the_picture_are_found_with_their_pictures(marked: int) -> None:
    rng = np.random.default_rng(0)
    maps = _natural(rng, 60)
    maps[:marked] += 0.5 * _watermark() * rng.uniform(0.5, 1.5, (marked, 1, 1))
    found = pattern_of(_details(maps), _details(_natural(rng, 400)), 3)
    assert found is not None
    assert found.strength > STRONG
    assert np.flatnonzero(found.members).tolist() == list(range(marked))
    energy = np.square(found.common).reshape(SIDE, SIDE)
    assert energy.sum() == pytest.approx(1, abs=1e-4)
    assert energy[_watermark()].sum() > 0.6


def test_other_pictures_have_the_pattern_or_lack_it() -> None:
    rng = np.random.default_rng(5)
    maps, more = _natural(rng, 60), _natural(rng, 100)
    maps[:30] += 0.5 * _watermark()
    more[:50] += 0.5 * _watermark()
    found = pattern_of(_details(maps), _details(_natural(rng, 400)), 3)
    assert found is not None
    assert found.held_by(_details(more)).tolist() == [True] * 50 + [False] * 50
    assert found.held_by(_details(maps)).tolist() == found.members.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_natural_maps_have_no_pattern_and_neither_have_two_kinds_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for count in (60, 240):
        assert pattern_of(_details(_natural(rng, count)), _details(_natural(rng, 400)), 3) is None
    assert pattern_of(_details(_sided(rng, 60)), _details(_sided(rng, 400)), 3) is None


def test_a_pattern_that_other_classes_have_too_is_none_of_the_class() -> None:
    rng = np.random.default_rng(1)
    maps, others = _natural(rng, 60), _natural(rng, 400)
    maps[:30] += 0.5 * _watermark()
    others[::2] += 0.5 * _watermark()
    assert pattern_of(_details(maps), _details(others), 3) is None


def test_maps_without_relevance_have_no_pattern() -> None:
    nothing = np.zeros((30, 100), np.float32)
    assert pattern_of(nothing, nothing, 3) is None


def test_the_largest_eigenvalue_of_noise_lies_at_the_edge_and_of_a_block_at_its_size() -> None:
    rng = np.random.default_rng(2)
    n, d, k, cosine = 400, 300, 21, 0.5
    unit = rng.standard_normal((n, d))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0)
    assert leading(cosines)[0] == pytest.approx(2 * np.sqrt(n / d) + n / d, rel=0.05)  # n/d is small for maps
    block = np.zeros((n, n))
    block[:k, :k] = cosine * (1 - np.eye(k))
    value, vector = leading(block)
    assert value == pytest.approx((k - 1) * cosine)
    assert vector == pytest.approx(np.r_[np.full(k, k**-0.5), np.zeros(n - k)], abs=1e-6)


def test_a_member_is_compared_with_the_other_members_alone() -> None:
    own = np.eye(4, dtype=np.float32)
    own[1] = own[0]
    _, alike, others = projected(own, np.array([True, True, True, False]), own[:2])
    # the first two with e0 + e2, the third with 2·e0, the last, no member, with 2·e0 + e2
    assert alike == pytest.approx([2**-0.5, 2**-0.5, 0, 0])
    assert others == pytest.approx(2 * 5**-0.5)  # with 2·e0 + e2


def test_detail_is_of_unit_length_and_leaves_out_what_is_smooth_or_negative() -> None:
    pixels = np.random.default_rng(3).standard_normal((64, 40))
    assert np.linalg.norm(detail(pixels, (32, 20))) == pytest.approx(1, abs=1e-5)
    assert detail(pixels, (32, 20)) == pytest.approx(detail(7 * pixels.clip(min=0), (32, 20)), abs=1e-6)
    assert not detail(-np.ones((8, 8)), (8, 8)).any()


def test_details_come_back_by_their_numbers() -> None:
    maps = [*np.random.default_rng(4).standard_normal((3, 200, 50)), np.ones((30, 30))]
    kept = Details()
    assert [kept.add(one) for one in maps] == [0, 1, 2, 3]
    assert kept.shape == (FINEST, 50)
    rows = kept.rows([2, 0])
    assert rows == pytest.approx(np.stack([detail(maps[2], kept.shape), detail(maps[0], kept.shape)]), abs=1e-3)


def test_a_wide_gap_parts_those_that_have_something_from_the_rest() -> None:
    others = np.linspace(0, 0.1, 100)
    assert having(np.array([0.05, 0.11, 0.12, 0.5, 0.6, 0.7]), others, 0.99).tolist() == [False] * 3 + [True] * 3
    assert having(np.array([0.05, 0.11, 0.2, 0.3]), others, 0.99).tolist() == [False, True, True, True]
    alone = np.array([0.11] * 9 + [0.9])  # one of ten is no group
    assert having(alone, others, 0.99).all()
    assert not having(others - 1, others, 0.99).any()
