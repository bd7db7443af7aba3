"""Groups that a model recognises by the background: masks, the background alone, and other backgrounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli
from networks import load
from PIL import Image
from swimmer import SEA, Swimmer, draw

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("sea"))


def _explained(cli: Cli, folder: Path, at: Path, sea: float) -> tuple[str, ...]:
    """Explain the pictures into `maps`; the options that load the model."""
    model = load(Swimmer(sea), at, shape=(3, 32, 32))
    how = ("--model", str(model.path), "--size", "32")
    ran = cli("explain", folder / "pictures", *how, "--method", "lrp-0", "--out", "maps", "--figure", "none", "-q")
    assert ran.status == 0, ran.err
    return how


def test_a_background_that_tells_the_class_is_found_with_its_pictures(folder: Path, tmp_path: Path, cli: Cli) -> None:
    how = _explained(cli, folder, tmp_path, 4.0)
    masks = ("--masks", folder / "masks")
    ran = cli("discover", "maps", *masks, *how, "--counter", folder / "grey", "--json")
    assert ran.status == 0, ran.err
    assert "9 backgrounds; 8 of them are used" in ran.err
    first = json.loads(ran.out)["clusters"][0]
    assert (first["by"], first["also"]) == ("places", ["background"]), "blue has places, too: one group, two reasons"
    assert {Path(name).stem.partition("-")[0] for name in first["images"]} == {"sea"}
    assert first["size"] == SEA
    assert first["suspicion"] > 0.5
    background = next(reason for reason in first["reasons"][:2] if "the backgrounds alone give" in reason)
    assert "; on other backgrounds their score changes by -" in background
    assert any(reason.startswith("of its relevance, outside the masks lie") for reason in first["reasons"])
    listed = cli("discover", "maps", *masks, *how).out
    assert listed.count("the backgrounds alone give") == 1
    assert listed.count("beyond what 98% of the pictures of other classes have there") == 1
    without = json.loads(cli("discover", "maps", *masks, "--json").out)["clusters"]
    assert not any("background" in one["also"] for one in without), "that needs the model"


def test_a_model_that_looks_at_the_object_has_no_such_group(folder: Path, tmp_path: Path, cli: Cli) -> None:
    how = _explained(cli, folder, tmp_path, 0.0)
    ran = cli("discover", "maps", "--masks", folder / "masks", *how, "--json")
    assert ran.status == 0, ran.err
    assert not any("background" in [one["by"], *one["also"]] for one in json.loads(ran.out)["clusters"])


def test_what_is_wrong_with_masks_and_backgrounds_is_one_line(folder: Path, tmp_path: Path, cli: Cli) -> None:
    how = _explained(cli, folder, tmp_path, 0.0)
    for options, words in (
        (("--counter", folder / "grey"), "--counter needs --masks DIR and a model"),
        (("--counter", folder / "grey", "--masks", folder / "masks"), "--counter needs --masks DIR and a model"),
        (("--masks", folder / "grey"), "has a mask for none of the pictures; a mask is named NAME.png"),
        (("--masks", folder / "masks", "--counter", folder / "sea", *how), "no images in this folder of backgrounds"),
        (("--masks", folder / "grey", *how), "no picture of maps can be read together with a mask"),
    ):
        ran = cli("discover", "maps", *options)
        assert ran.status == 2, options
        assert words in ran.err
        assert len(ran.err.splitlines()) == 1
    small = tmp_path / "small"
    small.mkdir()
    for file in sorted((folder / "masks").iterdir()):
        with Image.open(file) as mask:
            side = 16 if file.stem == "red-00" else 32
            mask.resize((side, side)).save(small / file.name)
    ran = cli("discover", "maps", "--masks", small)
    assert ran.status == 0, ran.err
    assert "red-00.png: the mask is 16×16, the picture 32×32" in ran.err
    assert "1 picture without a mask" in ran.err


def test_the_status_is_1_if_a_picture_could_not_be_explained(folder: Path, tmp_path: Path, cli: Cli) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for file in (folder / "pictures").iterdir():
        (pictures / file.name).write_bytes(file.read_bytes())
    (pictures / "broken.png").write_bytes(b"no picture")
    model = load(Swimmer(0.0), tmp_path, shape=(3, 32, 32))
    ran = cli("discover", model.path, pictures, "--size", "32", "--method", "lrp-0", "--maps", "maps")
    assert ran.status == 1, ran.err
    assert "broken.png" in ran.err
    assert Path("maps/discover/clusters.json").is_file()
