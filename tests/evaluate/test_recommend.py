"""`evaluate --recommend`: the search, what it decides, and the command line that it names."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from subjects import animals, digits
from torch import nn

import heatcli
from heatcli.errors import UsageError
from heatcli.evaluate import perturbation
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.recommend import Recommendation, Search, arguments, variants
from heatcli.evaluate.subject import Subject, subject
from heatcli.evaluate.subjects import alone
from heatcli.evaluate.trial import tried
from heatcli.images.dataset import Sample, read

BLUR, PLAIN, GRADIENT = (Explainer.parse(name) for name in ("lrp-eps@blur", "lrp-eps", "gradient"))


def searched(own: Subject, *names: str) -> Recommendation:
    return Search(alone(own))([Explainer.parse(name) for name in names], ["heatcli", "explain", "x.png"])


@pytest.mark.parametrize(
    ("height", "width", "points", "expected"),
    [(227, 227, 100, (9, 1)), (227, 227, 5, (9, 21)), (28, 28, 5, (1, 25)), (96, 96, 5, (4, 18)), (1, 200, 5, (1, 6))],
)
def test_regions_and_steps_are_samek_s_share_of_any_picture(
    height: int, width: int, points: int, expected: tuple[int, int]
) -> None:
    assert perturbation.of_samek((height, width), points) == expected


def test_falls_at_every_point_are_those_of_pixel_flipping() -> None:
    """With as many points as regions that are replaced, nothing is left out of the curve."""
    own = digits()
    heatmaps = own.heatmaps(BLUR)
    side, each = perturbation.of_samek((28, 28), 123)
    assert (side, each) == (1, 1)
    most, least = perturbation.falls(own, heatmaps, 123)
    for found, least_first in ((most, False), (least, True)):
        scores = perturbation.pixel_flipping(own, heatmaps, 1, 123, least_first)
        assert torch.allclose(found, scores[:, 0] - perturbation.area(scores), atol=1e-6)
    coarse, _ = perturbation.falls(own, heatmaps, 5)
    assert float((coarse - most).abs().mean() / most.mean()) < 0.1


def test_a_linear_network_s_falls_are_known(tmp_path: Path) -> None:
    """score = w·x: the fall after a region is gone is the sum of w·(x − noise) there, in the order of the map."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    torch.jit.script(net).save(str(tmp_path / "linear.pt"))
    (tmp_path / "linear.toml").write_text("[input]\nsize = [4, 4]\nchannels = 1\nmean = [0.0]\nstd = [1.0]\n")
    model = heatcli.load(tmp_path / "linear.pt")
    for picture in (SAMPLES / "digits").glob("*.png"):
        shutil.copy(picture, tmp_path)  # without the masks, which are too fine for 4 × 4
    found = [s for s in read([tmp_path], (), model.pictures.fit) if isinstance(s, Sample)]
    own = subject(model, found, target=0)
    assert len(own) == 12
    weight = net[1].weight[0].detach().double().reshape(1, 4, 4)
    gain = (weight * (own.batch - perturbation.noise(own))[:, 0].double()).flatten(1)
    trial = tried(alone(own), PLAIN, points=3)
    assert perturbation.of_samek((4, 4), 3) == (1, 1)
    order = (weight * own.batch[:, 0]).flatten(1).argsort(dim=1, descending=True, stable=True)
    gone = torch.cat([torch.zeros(len(own), 1), gain.gather(1, order)[:, :3].cumsum(1)], 1)
    expected = (gone[:, 1:] + gone[:, :-1]).mean(1) / 2
    assert torch.allclose(trial.most, expected, atol=1e-5)
    assert torch.allclose(trial.shown, torch.ones(len(own), dtype=torch.float64), atol=1e-3)


def test_the_best_is_recommended_where_the_pictures_decide() -> None:
    found = searched(digits(), "lrp-eps", "gradient", "grad-cam")
    rows = {row.method: row for row in found.rows}
    assert [row.between for row in found.rows] == sorted((row.between for row in found.rows), reverse=True)
    assert {"random", "edges", "lrp-eps@blur", "lrp-eps:epsilon=0.1", "lrp-eps@black"} <= set(rows)
    assert found.best == found.rows[0].method == "lrp-eps@blur"
    assert not found.chance
    assert rows["gradient"].decided
    assert rows["random"].decided
    assert rows["lrp-eps@blur"].behind == 0
    assert math.isclose(rows["gradient"].behind, rows["lrp-eps@blur"].between - rows["gradient"].between)
    assert rows["lrp-eps"].shown is not None
    assert rows["gradient"].shown is None
    assert found.command[:3] == ("heatcli", "explain", "x.png")
    assert "lrp-eps@mean" in found.skipped  # the digits' sidecar names no mean picture


def test_few_pictures_decide_nothing() -> None:
    """Of one picture, the interval has no width; still nothing is decided, and the words say so."""
    found = searched(digits().rows(torch.tensor([0])), "lrp-eps@blur", "gradient")
    assert not any(row.decided for row in found.rows)
    assert found.chance
    assert found.words[0] == (
        "On 1 image no method is decided against a random map. Give more pictures, or other ones."
    )
    assert found.recommended == "lrp-eps@blur"


def test_masks_are_measured_where_there_are_some() -> None:
    found = searched(animals(), "grad-cam")
    assert (found.images, found.masks) == (4, 4)
    assert all(row.inside is not None for row in found.rows)


def test_what_cannot_be_tried_is_said() -> None:
    with pytest.raises(UsageError, match=r"no method could be tried: prediction-difference: .*--baseline FOLDER"):
        searched(digits(), "prediction-difference")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lrp-gamma:gamma=0.5@blur", ["--method", "lrp-gamma", "--param", "gamma=0.5", "--baseline", "blur"]),
        ("grad-cam", ["--method", "grad-cam"]),
    ],
)
def test_options_of_a_method(name: str, expected: list[str]) -> None:
    assert arguments(Explainer.parse(name)) == expected


def test_variants_change_one_thing() -> None:
    assert [v.name for v in variants(BLUR)] == [
        "lrp-eps:epsilon=0.01@blur", "lrp-eps:epsilon=0.1@blur", "lrp-eps@black", "lrp-eps@zero", "lrp-eps@mean",
    ]  # fmt: skip
    assert list(variants(GRADIENT)) == []


def test_the_command_recommends_a_command_that_runs(cli: Cli, tmp_path: Path) -> None:
    folder = SAMPLES / "digits"
    options = ["--recommend", "--methods", "lrp-eps,gradient", "--limit", "10", "--channels", "1"]
    ran = cli("evaluate", MODELS / "digits.onnx", folder, *options)
    assert ran.status == 0, ran.err
    assert "10 images: does the score fall where the map says it should?" in ran.out
    *_, line = ran.out.splitlines()
    words = shlex.split(line)
    assert words[:3] == ["heatcli", "explain", str(folder)]
    assert words[-6:] == ["--channels", "1", "--method", "lrp-eps", "--baseline", "blur"]
    found = json.loads((tmp_path / "evaluation" / "recommendation.json").read_text())
    assert (found["schema"], found["images"], found["command"]) == ("heatcli.recommendation/1", 10, words)
    again = cli(words[1], folder / "8-a.png", *words[3:], "--json")
    assert again.status == 0, again.err
    report = json.loads(again.out)
    assert (report["method"]["name"], report["baseline"]["name"]) == ("lrp-eps", "blur")


def test_the_command_prints_json(cli: Cli) -> None:
    eight = SAMPLES / "digits" / "8-a.png"
    ran = cli("evaluate", MODELS / "digits.onnx", eight, "--recommend", "--methods", "gradient", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["images"], found["chance"], found["recommended"]) == (1, True, "gradient")


@pytest.mark.parametrize("given", [["--metric", "complexity"], ["--html", "x.html"], ["--no-controls"]])
def test_what_recommend_would_ignore_is_refused(cli: Cli, given: list[str]) -> None:
    ran = cli("evaluate", MODELS / "digits.onnx", SAMPLES / "digits", "--recommend", *given)
    assert ran.status == 2
    assert f"{given[0]} is not for --recommend" in ran.err


@pytest.mark.slow
def test_methods_for_attention_are_tried_on_a_network_that_has_it(tmp_path: Path, cli: Cli) -> None:
    picture = SAMPLES / "wolf-on-snow.png"
    names = {}
    for stem in ("animals-transformer", "animals"):
        ran = cli("evaluate", MODELS / f"{stem}.pt", picture, "--recommend", "--out", tmp_path / stem, "--json")
        names[stem] = {row["method"].partition("@")[0].partition(":")[0] for row in json.loads(ran.out)["rows"]}
    assert names["animals-transformer"] >= {"attnlrp", "cp-lrp", "cp-lrp-gamma"}
    assert not {name for name in names["animals"] if "attn" in name or "cp-" in name}
