"""The check of unexpected clusters: a model that gets a shortcut, one that loses it, a group that grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from networks import load
from tagged import GREEN, RED, TAGGED, Tagged, draw

pytest.importorskip("sklearn")

SOUND, TRICKED = 0.0, 64.0  # how much the corner counts
TAG_SHARE = TAGGED / (TAGGED + RED)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("tags"))


def model(folder: Path, corner: float) -> tuple[Path, str, str]:
    """The file of a network, and the options that load it."""
    folder.mkdir(exist_ok=True)
    return load(Tagged(corner), folder, shape=(3, 32, 32)).path, "--size", "32"


def stored(cli: Cli, corner: float, pictures: Path) -> Path:
    """The folder `maps/discover` of a run of that network."""
    path, *how = model(Path("old"), corner)
    ran = cli("explain", pictures, "-m", path, *how, "--method", "lrp-0", "--out", "maps", "--figure", "none", "-q")
    assert ran.status == 0, ran.err
    ran = cli("discover", "maps", "-q")
    assert ran.status == 0, ran.err
    return Path("maps/discover")


def checked(cli: Cli, spec: Path, corner: float, pictures: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, results and errors of the check of a network."""
    path, *how = model(Path("new"), corner)
    ran = cli("check", path, pictures, *how, "--spec", spec, "--json", "-q")
    return ran.status, [json.loads(line) for line in ran.out.splitlines()], ran.err


def spec(folder: Path, content: str = "") -> Path:
    file = folder / "heatcheck.toml"
    file.write_text(f"[unexpected-clusters]\n{content}\n")
    return file


def test_a_model_that_got_a_shortcut_fails_and_the_old_one_passes(pictures: Path, cli: Cli) -> None:
    asked = spec(stored(cli, SOUND, pictures))
    status, results, errors = checked(cli, asked, SOUND, pictures)
    assert (status, [r["quantity"] for r in results]) == (0, ["groups with new places"]), errors
    status, [failed], errors = checked(cli, asked, TRICKED, pictures)
    assert (status, failed["status"]) == (1, "failed"), errors
    assert failed["quantity"] == f"suspicion of a new group, {TAGGED} pictures of 0, in the upper left corner"
    assert failed["measured"] > 0.5


def test_a_shortcut_that_was_found_must_go(pictures: Path, cli: Cli) -> None:
    """The spec that `--mask-out` writes fails for the old network, and passes once the corner counts nothing."""
    folder = stored(cli, TRICKED, pictures)
    first = json.loads((folder / "clusters.json").read_text())["clusters"][0]
    path, *how = model(Path("old"), TRICKED)
    ran = cli("discover", "maps", "--mask-out", first["name"], "--model", path, *how, "--fill", "black")
    asked = folder / f"mask-out.{first['name'].replace('/', '-')}.toml"
    assert f"{asked} for heatcli check" in ran.err
    status, results, errors = checked(cli, asked, TRICKED, pictures)
    assert (status, results[0]["status"]) == (1, "failed"), errors
    assert results[0]["measured"] == pytest.approx(TAG_SHARE)
    assert first["name"] in results[0]["quantity"]
    status, results, errors = checked(cli, asked, SOUND, pictures)
    assert (status, {r["status"] for r in results}) == (0, {"passed"}), errors


def test_a_group_may_not_grow_beyond_what_is_allowed(tmp_path: Path, pictures: Path, cli: Cli) -> None:
    few = draw(tmp_path / "few", tagged=8)
    folder = stored(cli, TRICKED, few)
    growth = TAG_SHARE - 8 / (8 + RED)
    status, results, errors = checked(cli, spec(folder), TRICKED, pictures)
    assert (status, results[0]["status"], results[0]["measured"]) == (1, "failed", pytest.approx(TAG_SHARE)), errors
    status, results, errors = checked(cli, spec(folder, f"growth = {growth + 0.01}"), TRICKED, pictures)
    assert status == 0, (results, errors)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('clusters = "gone.json"', "no stored clusters in "),
        ('clusters = "heatcheck.toml"', "is no file of clusters, or a damaged one; heatcli discover writes one"),
        ('gone = ["0/77"]', "unknown group in "),
        ('methods = ["lrp-0", "lrp-eps"]', "[unexpected-clusters]: takes one method, not 2"),
    ],
)
def test_what_is_wrong_is_one_line(pictures: Path, cli: Cli, content: str, told: str) -> None:
    asked = spec(stored(cli, SOUND, pictures), content)
    status, _, errors = checked(cli, asked, SOUND, pictures)
    assert (status, errors.count("\n")) == (2, 1), errors
    assert told in errors


def test_too_few_pictures_are_told(pictures: Path, cli: Cli) -> None:
    asked = spec(stored(cli, SOUND, pictures))
    status, _, errors = checked(cli, asked, SOUND, pictures / "red-00.png")
    assert status == 2, errors
    assert "no class has 20 pictures" in errors
    assert GREEN > RED
