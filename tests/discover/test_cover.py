"""`heatcli discover --mask-out`: what the model says when a cluster's places are covered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import MODELS, Cli
from networks import load
from tagged import RED, TAGGED, Tagged, draw

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("tags"))


@pytest.fixture
def run(tmp_path: Path, pictures: Path, cli: Cli) -> tuple[Path, tuple[str, ...]]:
    model = load(Tagged(), tmp_path, shape=(3, 32, 32))
    with_model = ("--model", str(model.path), "--size", "32")
    (tmp_path / "labels.csv").write_text(
        "".join(f"{path.name},{0 if path.stem.startswith('red') else 1}\n" for path in sorted(pictures.iterdir()))
    )
    ran = cli("explain", pictures, *with_model, "--method", "lrp-0", "--out", "maps", "--figure", "none", "-q")
    assert ran.status == 0, ran.err
    return tmp_path / "maps", with_model


def test_covering_the_tag_turns_the_answers_and_covering_elsewhere_does_not(
    run: tuple[Path, tuple[str, ...]], cli: Cli
) -> None:
    maps, with_model = run
    listed = cli("discover", maps, "--json")
    assert listed.status == 0, listed.err
    found = json.loads(listed.out)["clusters"]
    first = found[0]
    assert first["suspicion"] > 0.5
    assert [0, 0] in first["cells"]
    assert {Path(name).stem.partition("-")[0] for name in first["images"]} == {"tag"}
    ran = cli("discover", maps, "--mask-out", first["name"], "--fill", "black", *with_model, "--json")
    assert ran.status == 0, ran.err
    covered = json.loads(ran.out)
    assert covered["members"]["pictures"] == TAGGED
    assert covered["members"]["kept"] == 0, "without the tag they are green"
    assert covered["members"]["kept_elsewhere"] == 1
    assert covered["members"]["change"] == pytest.approx(-3.0, abs=0.02), "a white corner of three colours"
    assert abs(covered["members"]["change_elsewhere"]) < 0.2
    assert covered["classes"]["0"]["kept"] == pytest.approx(RED / (RED + TAGGED))
    assert covered["classes"]["1"]["kept"] == 1
    assert covered["members"]["right"] is None
    assert json.loads((maps / "discover" / f"mask-out.{first['name'].replace('/', '-')}.json").read_text()) == covered
    table = cli("discover", maps, "--mask-out", first["name"], "--fill", "black", *with_model).out
    assert "0%" in table
    assert "100%" in table
    again = cli("discover", maps, "--mask-out", first["name"], "--fill", "black", *with_model, "--json")
    assert json.loads(again.out) == covered, "the same seed, the same numbers"


def test_what_cannot_be_covered_is_one_line(run: tuple[Path, tuple[str, ...]], cli: Cli) -> None:
    maps, with_model = run
    clusters = json.loads(cli("discover", maps, "--json").out)["clusters"]
    first, last = clusters[0]["name"], clusters[-1]["name"]
    unknown = cli("discover", maps, "--mask-out", "0/9", *with_model)
    assert (unknown.status, "unknown cluster '0/9'" in unknown.err) == (2, True)
    nowhere = cli("discover", maps, "--mask-out", last, *with_model)
    assert (nowhere.status, "has no places of its own" in nowhere.err) == (2, True)
    other = cli("discover", maps, "--mask-out", first, "--model", MODELS / "animals.pt")
    assert (other.status, "was explained with another model" in other.err) == (2, True)
    filled = cli("discover", maps, "--mask-out", first, "--fill", "none", *with_model)
    assert (filled.status, "--fill none is no picture" in filled.err) == (2, True)


def test_a_model_and_a_folder_are_enough(tmp_path: Path, pictures: Path, cli: Cli) -> None:
    """The pictures are explained first; a second run goes on where the first ended, and finds the same."""
    model = load(Tagged(), tmp_path, shape=(3, 32, 32))
    asked = ("discover", model.path, pictures, "--size", "32", "--method", "lrp-0")
    ran = cli(*asked, "--json")
    assert ran.status == 0, ran.err
    first = json.loads(ran.out)["clusters"][0]
    assert {Path(name).stem.partition("-")[0] for name in first["images"]} == {"tag"}
    again = cli(*asked, "--json", "--mask-out", first["name"], "--fill", "black")
    assert again.status == 0, again.err
    assert json.loads(again.out)["members"]["kept"] == 0, "the model is that of the run"
    assert (tmp_path / "heatmaps" / "discover" / "clusters.json").is_file()
    other = cli("discover", "heatmaps", "--method", "lrp-0")
    assert (other.status, "--method and --baseline are for MODEL FOLDER" in other.err) == (2, True)
