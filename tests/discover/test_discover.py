"""Groups of maps: features, clusters, suspicion, and the command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLES, Cli
from known import maps_of

from heatcli.discover.clusters import group
from heatcli.discover.features import GRID, Known, Maps, pooled
from heatcli.discover.job import Cluster, clusters_of, place_of, told_of
from heatcli.discover.rows import Rows
from heatcli.discover.suspicion import own_places, relevance_in, usual

pytest.importorskip("sklearn")


@pytest.mark.parametrize("shape", [(32, 32), (96, 41), (7, 100)])
def test_pooling_keeps_the_shares_and_leaves_negative_relevance_out(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).standard_normal(shape)
    assert pooled(pixels).shape == (GRID, GRID)
    assert pooled(pixels).sum() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(pooled(pixels), pooled(pixels.clip(min=0)))
    assert pooled(-np.ones(shape)).sum() == 0


def test_pooling_keeps_each_cells_own_pixels() -> None:
    pixels = np.zeros((2 * GRID, 2 * GRID))
    pixels[2:4, 6:8] = 1
    assert pooled(pixels)[1, 3] == pytest.approx(1)


def _class(tagged: int, plain: int) -> np.ndarray:
    """Random maps in the middle; the first `tagged` have 60 % of their relevance in the upper left corner."""
    rng = np.random.default_rng(1)
    places = np.zeros((tagged + plain, GRID, GRID), np.float32)
    places[:, 3:13, 3:13] = rng.exponential(size=(tagged + plain, 10, 10))
    places /= places.sum((1, 2), keepdims=True)
    places[:tagged] *= 0.4
    places[:tagged, 0:2, 0:2] += 0.15
    return places


def _rows(places: np.ndarray) -> Rows:
    rows = Rows(np.float32)
    for one in places:
        rows.add(one)
    return rows


def _maps(places: np.ndarray, label: str = "a") -> Maps:
    return maps_of(label, [Known(str(i), None, i) for i in range(len(places))], _rows(places))


def _found(places: np.ndarray, others: np.ndarray) -> list[Cluster]:
    found = [shown.cluster for shown in clusters_of(_maps(places), [_maps(others, "b")])]
    return sorted(found, key=lambda cluster: -cluster.suspicion)


def test_a_group_has_the_accuracy_and_the_bias_share_of_its_known_pictures() -> None:
    places = _class(20, 40)
    right = [0.0] * 10 + [1.0] * 10 + [1.0] * 40
    known = [Known(str(i), None, i, right[i], 0.5 if i < 20 else 0.1) for i in range(len(places))]
    known[0] = Known("0", None, 0)  # nothing is known of it
    maps, others = maps_of("a", known, _rows(places)), [_maps(_class(0, 200), "b")]
    first, *_ = (shown.cluster for shown in clusters_of(maps, others) if shown.cluster.suspicion)
    assert first.accuracy == pytest.approx(10 / 19)
    assert first.bias_share == pytest.approx(0.5)
    assert "its pictures have the expected label in 53%, 85% in its class" in first.reasons
    assert _found(places, _class(0, 200))[0].accuracy is None


@pytest.mark.parametrize("tagged", [6, 20])
def test_a_planted_corner_is_found_with_its_pictures_and_the_rest_is_not_suspicious(tagged: int) -> None:
    first, *rest = _found(_class(tagged, 40), _class(0, 200))
    assert set(first.images) == {str(i) for i in range(tagged)}
    assert first.place == "in the upper left corner"
    assert first.suspicion == pytest.approx(0.6, abs=0.01)  # none of the others has relevance there
    assert [cluster.suspicion for cluster in rest] == [0] * len(rest)


@pytest.mark.parametrize(("size", "suspicion"), [(9, 0), (40, 0.009)])
def test_a_small_group_needs_more_than_a_large_one(size: int, suspicion: float) -> None:
    """A few maps have something in common by chance: 0.9 % of the relevance is enough for forty, not for nine."""
    places, others = np.zeros((size, GRID, GRID), np.float32), np.zeros((200, GRID, GRID), np.float32)
    places[:, 0, 0], places[:, 5, 5], others[:, 5, 5] = 0.009, 0.991, 1
    own = own_places(places, np.ones(size, bool), others, usual(others), partial(relevance_in, places))
    assert own.suspicion == pytest.approx(suspicion)


def test_a_group_that_clustering_mixed_with_others_is_told_by_its_places() -> None:
    places, others = _class(32, 8), _class(0, 200)
    mixed = np.ones(len(places), bool)  # a fifth of the group is natural
    own = own_places(places, mixed, others, usual(others), partial(relevance_in, places))
    assert own.suspicion > 0.5
    assert own.members.tolist() == [True] * 32 + [False] * 8


def test_natural_groups_are_not_suspicious() -> None:
    """Maps of which half lie to the left and half to the right, as those of other classes do."""
    rng = np.random.default_rng(2)

    def sided(n: int) -> np.ndarray:
        places = np.zeros((n, GRID, GRID), np.float32)
        for i in range(n):
            x, y = rng.integers(0, 3) + 8 * (i % 2), rng.integers(2, 8)
            places[i, y : y + 5, x : x + 5] = rng.exponential(size=(5, 5))
        return places / places.sum((1, 2), keepdims=True)

    found = _found(sided(60), sided(600))
    assert len(found) >= 2
    assert not any(cluster.suspicion for cluster in found)


def test_the_same_seed_gives_the_same_clusters() -> None:
    features = np.sqrt(_class(10, 30)).reshape(40, -1)
    one, other = group(features, 3), group(features, 3)
    assert np.array_equal(one.labels, other.labels)
    assert one.stability == other.stability


def test_where_relevance_lies_is_said() -> None:
    border = np.ones((GRID, GRID), np.float32)
    border[2:-2, 2:-2] = 0
    assert place_of(border) == "at the border"
    assert place_of(1 - border) == "inside the picture"
    assert place_of(0 * border) == "nowhere"


def test_what_cannot_be_clustered_is_one_line(tmp_path: Path, cli: Cli) -> None:
    picture = SAMPLES / "wolf-on-snow.png"
    empty = cli("discover", tmp_path)
    assert (empty.status, empty.err) == (2, f"heatcli: {tmp_path}: has no reports\n")
    cli("explain", picture, "--out", tmp_path / "bare", "--pixels", "none", "--figure", "none")
    bare = cli("discover", tmp_path / "bare")
    assert bare.status == 2
    assert "hold no pixels; explain again without --pixels none" in bare.err
    cli("explain", picture, "--out", tmp_path / "few", "--figure", "none")
    few = cli("discover", tmp_path / "few")
    assert few.status == 2
    assert "wolf: 1 picture, fewer than 20; skipped" in few.err
    unknown = cli("discover", tmp_path / "few", "--class", "unicorn")
    assert "unknown class in" in unknown.err
    assert "'unicorn'; known: wolf; no picture is explained as it" in unknown.err
    cli("explain", picture, "--out", tmp_path / "few", "--method", "gradient", "--figure", "none")
    assert "holds runs of different methods" in cli("discover", tmp_path / "few").err


def _noisy(picture: Path, count: int, folder: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"), float)
    for i in range(count):
        noisy = (pixels + 20 * rng.standard_normal(pixels.shape)).clip(0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{picture.stem}-{i}.png")


def test_the_command_ranks_clusters_and_writes_them(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    _noisy(SAMPLES / "wolf-on-snow.png", 24, folder, rng)
    assert cli("explain", folder, "--out", tmp_path / "maps", "--figure", "none").status == 0
    alone = cli("discover", tmp_path / "maps")
    assert alone.status == 2
    assert "has 0 pictures of other classes than wolf; at least 50 are needed" in alone.err
    others = [path for path in sorted(SAMPLES.glob("*.png")) if not path.stem.startswith("wolf")]
    for path in others:
        _noisy(path, -(-60 // len(others)), folder, rng)
    assert cli("explain", "in", "--out", "all", "--figure", "none").status == 0
    ran = cli("discover", tmp_path / "all", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    written = json.loads((tmp_path / "all" / "discover" / "clusters.json").read_text())
    assert written == found
    scores = [cluster["suspicion"] for cluster in found["clusters"]]
    assert scores == sorted(scores, reverse=True)
    assert {cluster["label"] for cluster in found["clusters"]} >= {"wolf"}
    assert all(np.sum(cluster["mean_map"]) == pytest.approx(1, abs=1e-3) for cluster in found["clusters"])
    with Image.open(tmp_path / "all" / "discover" / "clusters.png") as sheet:
        assert sheet.width > 88 * 4  # a mean map and medoids
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = cli("discover", "../all", "--out", "there")
    assert again.status == 0, again.err
    assert Path("there/clusters.png").read_bytes() == (tmp_path / "all" / "discover" / "clusters.png").read_bytes()
    listed = cli("discover", tmp_path / "all", "--top", "1", "--class", "wolf")
    assert len(listed.out.splitlines()) in (2, 3)


def test_many_classes_with_too_few_pictures_are_one_line() -> None:
    assert list(told_of({"wolf": 1, "cow": 4})) == ["wolf: 1 picture, fewer than 20", "cow: 4 pictures, fewer than 20"]
    assert list(told_of({f"class {i}": 3 for i in range(1000)})) == [
        "1,000 classes of 3,000 pictures have fewer than 20 each"
    ]


def test_a_column_of_stored_arrays_is_that_of_the_whole() -> None:
    values = np.random.default_rng(0).random((4500, 3)).astype(np.float32)
    numbers = np.random.default_rng(1).permutation(4500)[:4200]
    assert np.array_equal(_rows(values).column(numbers, 1), values[numbers, 1])
    assert _rows(values).column(np.empty(0, np.int64), 1).shape == (0,)


def test_copies_of_more_pictures_than_clusters_are_clustered_with_their_copies() -> None:
    """Their graph has 20 pieces, each with an eigenvector of 0; joined, the pieces stay whole."""
    pictures = np.random.default_rng(0).random((20, GRID**2))
    copies = np.repeat(np.arange(20), 15)
    features = np.sqrt(pictures[copies] + 1e-3 * np.random.default_rng(1).random((300, GRID**2))).astype(np.float32)
    labels = group(features).labels
    assert labels.max() >= 1
    assert all(len(set(labels[copies == picture])) == 1 for picture in range(20))
