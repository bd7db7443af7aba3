"""The check of unexpected clusters: a model that gets a shortcut, one that loses it, a group that grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from focus import SOFT, Focus
from focus import draw as draw_soft
from networks import load
from swimmer import RED as ON_GREY
from swimmer import SEA, Swimmer
from swimmer import draw as draw_sea
from tagged import GREEN, RED, TAGGED, Tagged, draw

from heatcli.check.groups import _again
from heatcli.discover.job import By, Cluster

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


def sea_model(sea: float) -> tuple[Path, str, str]:
    """The file of a network to which blue counts `sea`, and the options that load it."""
    folder = Path(f"sea-{sea}")
    folder.mkdir(exist_ok=True)
    return load(Swimmer(sea), folder, shape=(3, 32, 32)).path, "--size", "32"


@pytest.mark.parametrize("masks", [True, False])
def test_backgrounds_are_compared_where_there_are_masks(tmp_path: Path, cli: Cli, masks: bool) -> None:
    """A group with a background must be gone: it is there in the old network, and not in one that sees no blue."""
    drawn = draw_sea(tmp_path)
    path, *how = sea_model(4.0)
    ran = cli(
        "discover", path, drawn / "pictures", *how, "--method", "lrp-0", "--masks", drawn / "masks", "-q", "--json"
    )
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["backgrounds"]
    first = found["clusters"][0]
    assert "background" in first["also"]
    asked = spec(Path("heatmaps/discover"), f'gone = ["{first["name"]}"]')
    for sea, status, measured in ((4.0, 1, SEA / (SEA + ON_GREY)), (0.0, 0, 0.0)):
        path, *how = sea_model(sea)
        given = ("--masks", drawn / "masks") if masks else ()
        ran = cli("check", path, drawn / "pictures", *how, "--spec", asked, *given, "--json", "-q")
        results = [json.loads(line) for line in ran.out.splitlines()]
        assert ran.status == status, (results, ran.err)
        skipped = [r["measured"] for r in results if r["status"] == "skipped"]
        assert skipped == (
            [] if masks else ["backgrounds: no image has a mask (--masks DIR, or NAME.mask.png beside the image)"]
        )
        old = next(r for r in results if first["name"] in r["quantity"])
        assert old["measured"] == pytest.approx(measured)


def test_a_run_that_did_not_look_for_backgrounds_is_told(tmp_path: Path, cli: Cli) -> None:
    drawn = draw_sea(tmp_path)
    path, *how = sea_model(0.0)
    assert cli("discover", path, drawn / "pictures", *how, "--method", "lrp-0", "-q").status == 0
    asked = spec(Path("heatmaps/discover"))
    ran = cli("check", path, drawn / "pictures", *how, "--spec", asked, "--masks", drawn / "masks", "--json", "-q")
    skipped = [r["measured"] for line in ran.out.splitlines() if (r := json.loads(line))["status"] == "skipped"]
    assert (ran.status, len(skipped)) == (0, 1), ran.err
    assert skipped[0].endswith("clusters.json knows none; heatcli discover finds them with --masks and --model")


def test_a_model_that_recognises_a_class_by_blur_fails_where_the_old_one_was_asked(tmp_path: Path, cli: Cli) -> None:
    drawn = draw_soft(tmp_path / "pictures")

    def of(detail: float) -> tuple[Path, str, str]:
        at = tmp_path / str(detail)
        at.mkdir(exist_ok=True)
        return load(Focus(detail), at, shape=(3, 32, 32)).path, "--size", "32"

    def told(detail: float) -> tuple[int, list[dict[str, Any]]]:
        path, *how = of(detail)
        ran = cli("check", path, drawn, *how, "--spec", asked, "--json", "-q")
        return ran.status, [json.loads(line) for line in ran.out.splitlines()]

    path, *how = of(0.0)
    assert cli("discover", path, drawn, *how, "--method", "lrp-0", "-q").status == 0
    asked = spec(Path("heatmaps/discover"))
    assert told(0.0)[0] == 0
    status, [failed] = told(0.5)
    assert (status, failed["quantity"]) == (1, f"suspicion of a new group, {SOFT} pictures of 0, with less fine detail")
    ran = cli("discover", "heatmaps", "-q")
    assert ran.status == 0
    assert told(0.5)[0] == 0, "without the model nothing is known of blur"


def cluster(name: str, by: By, cells: list[tuple[int, int]], also: tuple[By, ...] = ()) -> Cluster:
    return Cluster(
        name=name, label=name.partition("/")[0], by=by, also=list(also), size=9, share=0.5, suspicion=0.5,
        separation=0, constancy=0, stability=1, place="", reasons=[], medoids=[], images=[], cells=cells, mean_map=[],
    )  # fmt: skip


def test_a_background_is_found_again_by_its_class_and_places_by_their_cells() -> None:
    background, both = cluster("a/background", "background", []), cluster("a/1", "places", [(0, 0)], ("background",))
    places, other = cluster("a/2", "places", [(0, 0), (5, 5)]), cluster("b/background", "background", [])
    assert _again(background, [places, other]) is None
    assert _again(background, [places, both, other]) is both
    assert _again(both, [background, places]) is places
    assert _again(both, [background, cluster("a/2", "places", [(9, 9)])]) is background
    assert _again(places, [background, other]) is None
    blur = cluster("a/blur", "blur", [])
    assert _again(blur, [background, cluster("a/jpeg", "jpeg", [])]) is None
    assert _again(blur, [background, cluster("a/3", "places", [(0, 0)], ("blur",))]).name == "a/3"
