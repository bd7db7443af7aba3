"""Groups of a class: those with the same pictures are one, and a large class is sampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known import maps_of

from heatcli.discover import groups
from heatcli.discover.features import GRID, Known, Maps
from heatcli.discover.groups import SAME, By, Group, Landmarks, alike, groups_of, merged, plane, within
from heatcli.discover.rows import Rows, some

pytest.importorskip("sklearn")

COUNT = 40


def _group(by: By, suspicion: float, members: range) -> Group:
    chosen = np.isin(np.arange(COUNT), members)
    return Group(by, by, suspicion, chosen, np.zeros((GRID, GRID), np.float32), 0.0)


def test_groups_with_mostly_the_same_pictures_are_one_with_all_reasons() -> None:
    places, pattern = _group("places", 0.1, range(12)), _group("pattern", 0.3, range(10))
    background, other = _group("background", 0.2, range(2, 12)), _group("places", 0.05, range(20, 30))
    one, rest = merged([places, other, pattern, background])
    assert [kind.by for kind in one.kinds] == ["pattern", "background", "places"]
    assert np.flatnonzero(one.members).tolist() == list(range(10)), "those with the pattern"
    assert rest is other


def test_a_second_group_of_the_same_kind_adds_no_reason() -> None:
    weak, strong = _group("places", 0.1, range(10)), _group("places", 0.3, range(11))
    assert merged([weak, strong]) == [strong]


def test_groups_without_suspicion_stay_apart() -> None:
    groups_ = [_group("places", 0.0, range(10)), _group("pattern", 0.3, range(10))]
    assert merged(groups_) == groups_
    assert within(groups_[0], groups_) is None


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_alike_is_the_jaccard_index(both: int, only_one: int, only_other: int) -> None:
    one = _group("places", 0.1, range(both + only_one))
    other = Group("b", "pattern", 0.1, one.members.copy(), one.excess, 0.0)
    other.members[both : both + only_one] = False
    other.members[COUNT - only_other :] |= True
    a, b = set(np.flatnonzero(one.members)), set(np.flatnonzero(other.members))
    assert alike(one, other) == (len(a & b) / len(a | b) >= SAME)


def test_a_small_group_in_a_larger_one_names_it() -> None:
    small, large = _group("background", 0.5, range(10)), _group("pattern", 0.1, range(1, 40))
    assert within(small, [small, large]) is large
    assert within(large, [small, large]) is None
    assert within(_group("background", 0.5, range(4)), [large]) is None, "only three of four"


def _maps(label: str, tagged: int, plain: int, seed: int) -> Maps:
    """Random maps in the middle; the first `tagged` have 60 % of their relevance in the upper left corner."""
    rng, kept = np.random.default_rng(seed), Rows(np.float32)
    for i in range(tagged + plain):
        one = np.zeros((GRID, GRID))
        one[3:13, 3:13] = rng.exponential(size=(10, 10))
        one /= one.sum()
        if i < tagged:
            one *= 0.4
            one[:2, :2] += 0.15
        kept.add(one)
    return maps_of(label, [Known(str(i), None, i) for i in range(tagged + plain)], kept)


def test_a_sampled_class_has_the_groups_of_the_whole_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 50 landmarks of 400 pictures the group, its size and its suspicion are those of the whole class."""
    maps, others = _maps("a", 120, 280, 0), [_maps("b", 0, 150, 1), _maps("c", 0, 150, 2)]
    whole, _ = groups_of(maps, others)
    monkeypatch.setattr(groups, "LANDMARKS", 50)
    monkeypatch.setattr(groups, "OTHERS", 100)
    sampled, _ = groups_of(maps, others)
    first, same = (max(found, key=lambda one: one.suspicion) for found in (whole, sampled))
    assert np.flatnonzero(first.members).tolist() == list(range(120))
    assert np.array_equal(same.members, first.members)
    assert same.suspicion == pytest.approx(first.suspicion, abs=0.01)
    assert np.sum([one.members for one in sampled if not one.suspicion], 0).max() == 1, "each picture is in one cluster"
    again, _ = groups_of(maps, others)
    assert all(np.array_equal(one.members, other.members) for one, other in zip(sampled, again, strict=True))
    places = plane(maps, 0)
    assert places.shape == (400, 2)
    assert 0 <= places.min() <= places.max() <= 1


def test_landmarks_keep_their_values_and_others_have_those_of_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LANDMARKS", 30)
    maps = _maps("a", 40, 40, 3)
    landmarks = Landmarks.of(maps, 0)
    assert len(landmarks.rows) == 30
    tagged = (landmarks.rows < 40).astype(float)
    assert np.array_equal(landmarks.extended(tagged, 1), np.arange(80) < 40)
    assert np.array_equal(landmarks.extended(tagged, 5)[landmarks.rows], tagged)


def test_rows_come_back_by_their_numbers() -> None:
    rows, arrays = Rows(np.float32), np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)
    assert [rows.add(one) for one in arrays] == list(range(5))
    assert np.array_equal(rows([4, 0, 4]), arrays[[4, 0, 4]])


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
def test_a_sample_is_in_order_and_all_if_few(count: int, most: int, seed: int) -> None:
    numbers = np.arange(100, 100 + count)
    found = some(numbers, most, np.random.default_rng(seed))
    assert len(found) == min(count, most)
    assert np.all(np.diff(found) > 0)
    assert set(found) <= set(numbers)
