"""Metrics on the embedded models: what each must find on maps whose worth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from subjects import animals, digits, model
from torch import Tensor

import heatcli
from heatcli.errors import UsageError
from heatcli.evaluate import perturbation, robustness
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import layers_of, randomisation, with_random
from heatcli.evaluate.metrics import METRICS, metric
from heatcli.evaluate.run import evaluate, with_controls
from heatcli.evaluate.subjects import alone

GRADIENT, LRP, RESCALE = (Explainer.parse(name) for name in ("gradient", "lrp-eps", "deeplift-rescale"))


def test_scores_are_those_that_are_explained() -> None:
    subject = animals()
    result = heatcli.explain(subject.model, subject.batch, "lrp-eps")
    assert torch.allclose(subject.scores(), result.ledger.output)
    chance = result.probabilities.gather(1, result.target.index[:, None])[:, 0].double()
    assert torch.allclose(subject.scores(chance=True), chance, atol=1e-6)
    contrast = subject.with_target("wolf-dog")
    assert torch.allclose(
        contrast.scores(), heatcli.explain(subject.model, subject.batch, target="wolf-dog").ledger.output
    )


def test_rows_and_parts_change_nothing() -> None:
    """Some images, an image twice, small parts: the same maps and the same scores."""
    subject = animals()
    index = torch.tensor([3, 0, 3])
    few = replace(subject, batch_size=2, _maps={}).rows(index)
    whole = subject.heatmaps(RESCALE)[index]
    assert float((few.heatmaps(RESCALE) - whole).abs().max() / whole.abs().max()) < 1e-3
    assert torch.allclose(few.scores(), subject.scores()[index], atol=1e-5)


def naive_curve(subject, when: Tensor, steps: int, start: Tensor, end: Tensor) -> Tensor:
    rows = []
    for step in range(steps + 1):
        picture = start.clone()
        for i in range(len(picture)):
            picture[i, :, when[i] < step] = end[i, :, when[i] < step]
        rows.append(subject.scores(picture))
    return torch.stack(rows, 1)


def test_curve_against_a_naive_replica() -> None:
    subject = digits().rows(torch.tensor([0, 5, 8]))
    when, regions = perturbation.by_region(subject.heatmaps(LRP), 7)
    end = perturbation.noise(subject)
    found = perturbation.curve(subject, when, regions, subject.batch, end)
    assert torch.allclose(found, naive_curve(subject, when, regions, subject.batch, end), atol=1e-4)
    assert torch.allclose(found[:, -1], subject.scores(end), atol=1e-4)


def test_a_faithful_order_flips_sooner_than_the_reverse() -> None:
    subject = digits()
    for explainer in (LRP, RESCALE):
        found = metric("pixel-flipping:region=4")(subject, explainer).values
        assert float(found["AOPC"].mean()) > float(found["AOPC least first"].mean())
        assert torch.allclose(found["area between"], found["AOPC"] - found["AOPC least first"])
    deleted = metric("deletion")(subject, RESCALE).values["deletion AUC"].mean()
    by_chance = metric("deletion")(subject, Explainer.parse("random")).values["deletion AUC"].mean()
    assert float(deleted) < float(by_chance)


def test_insertion_and_deletion_end_where_the_other_begins() -> None:
    subject = animals()
    curve = metric("insertion:steps=4")(subject, LRP).curves["insertion"]
    assert torch.allclose(curve.y[:, -1], subject.scores(chance=True), atol=1e-6)
    assert curve.x == (0, 0.25, 0.5, 0.75, 1)
    gone = metric("deletion:steps=4")(subject, LRP).curves["deletion"].y
    assert torch.allclose(gone[:, 0], subject.scores(chance=True), atol=1e-6)


def test_morph_erases_what_speaks_for_the_first_class() -> None:
    """Of an 8, input×gradient must find more of what makes it no 3 than chance does; other digits take no part."""
    found = metric("morph:pairs=8-3+9-4")(digits(), Explainer.parse("input-x-gradient")).values
    chance = metric("morph:pairs=8-3+9-4")(digits(), Explainer.parse("random")).values
    assert [len(found[pair]) for pair in ("8→3", "9→4")] == [2, 1]
    assert float(found["8→3"].mean()) > float(chance["8→3"].mean()) + 2


def test_morph_erases_only_positive_differences() -> None:
    subject = digits().with_target("8-3").rows(torch.tensor([9]))
    assert perturbation.morph(subject, -torch.ones(1, 28, 28)).tolist() == [0]
    where = torch.full((1, 28, 28), -1.0)
    where[0, 10:14, 10:14] = 1
    expected = subject.batch.clone()
    expected[0, :, 10:14, 10:14] = 0
    drop = subject.scores() - subject.scores(expected)
    assert torch.allclose(perturbation.morph(subject, where), drop, atol=1e-5)


def test_layers_go_from_input_to_output_and_share_nothing() -> None:
    layers = layers_of(model("digits.onnx").graph((1, 1, 28, 28)))
    assert list(layers) == ["conv1", "conv2", "fc1", "fc2"]
    names = list(layers_of(model().graph((2, 3, 96, 96))))
    assert (names[0], names[-1], len(names)) == ("stem", "fc", 13)


def test_randomising_changes_the_named_layers_alone() -> None:
    """Other weights stay, shuffled ones keep their values, the model itself is untouched; the books still balance."""
    own = model()
    graph, changed = own.graph((2, 3, 96, 96)), with_random(own, ["fc"]).graph((2, 3, 96, 96))
    for before, after in zip(graph.operators, changed.operators, strict=True):
        for a, b in zip(before.constants, after.constants, strict=True):
            same = torch.equal(a.value, b.value)
            assert same == (before.name not in layers_of(graph)["fc"] or a.value.numel() < 2), a.name
            assert torch.equal(a.value.flatten().sort().values, b.value.flatten().sort().values)
    subject = animals()
    result = heatcli.explain(with_random(own, layers_of(graph)), subject.batch, "lrp-eps", target=0)
    assert float(result.ledger.relative_error.max()) < 1e-4
    assert torch.equal(subject.heatmaps(LRP), animals().rows(torch.arange(4)).heatmaps(LRP))


def test_a_randomised_network_compares_with_values_of_its_own() -> None:
    """Values on a baseline that the original network keeps are not those of shuffled weights."""
    own, subject = model(), animals()
    heatcli.explain(own, subject.batch, "deeplift-rescale", target=0)
    changed = with_random(own, ["fc"])
    result = heatcli.explain(changed, subject.batch, "deeplift-rescale", target=0)
    black = heatcli.explain(changed, torch.zeros_like(subject.batch), "gradient", target=0)
    assert torch.allclose(result.ledger.output_baseline, black.ledger.output, rtol=1e-5)
    assert float(result.ledger.relative_error.max()) < 1e-4


def test_randomisation_tells_a_map_of_the_network_from_one_of_the_picture() -> None:
    """The comparator fails where it must: an edge detector's map does not change at all."""
    subject = digits()
    edges = randomisation(subject, Explainer.parse("edges"))
    assert torch.allclose(edges.rank, torch.ones_like(edges.rank))
    assert torch.allclose(edges.ssim, torch.ones_like(edges.ssim))
    gradient = randomisation(subject, GRADIENT)
    assert gradient.layers == ("fc2", "fc1", "conv2", "conv1")
    assert abs(float(gradient.rank[:, -1].mean())) < 0.3
    alone = randomisation(subject, GRADIENT, cascading=False)
    assert torch.allclose(alone.rank[:, 0], gradient.rank[:, 0])


def test_infidelity_of_a_linear_network_is_nothing(tmp_path: Path) -> None:
    """Of a linear network the gradient foretells every change exactly, so does input×gradient; noise foretells none."""
    torch.manual_seed(0)
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))).save(str(tmp_path / "l.pt"))
    linear = heatcli.load(tmp_path / "l.pt", size=(8, 8), channels=3)
    subject = replace(animals(), model=linear, batch=torch.randn(4, 3, 8, 8), mask=torch.ones(4, 8, 8), _maps={})
    subject = subject.with_target(1)
    removed = robustness.squares(subject, 16)
    for name in ("gradient", "input-x-gradient", "lrp-0"):
        raw, scaled = robustness.infidelity(subject, Explainer.parse(name), removed)
        assert float(raw.max()) < 1e-9
        assert float(scaled.max()) < 1e-9
    _, scaled = robustness.infidelity(subject, Explainer.parse("random"), removed)
    assert float(scaled.mean()) > 0.2
    assert float(robustness.max_sensitivity(subject, GRADIENT).max()) == 0


def test_squares_lie_within_the_picture() -> None:
    removed = robustness.squares(animals(), 50)
    share = removed.float().mean((-1, -2))
    assert removed.shape == (50, 4, 1, 96, 96)
    assert float(share.min()) >= 0.09**2
    assert float(share.max()) <= 0.41**2


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_every_kind_of_map(name: str) -> None:
    """Finite numbers, one an image, whatever makes the map; curves as long as their x."""
    options = {"pixel-flipping": ":steps=5", "max-sensitivity": ":draws=2", "infidelity": ":draws=4",
               "morph": ":pairs=8-3", "deletion": ":steps=3", "insertion": ":steps=3"}  # fmt: skip
    found = evaluate(alone(digits()), with_controls([GRADIENT, RESCALE]), [metric(name + options.get(name, ""))])
    assert {row.method for row in found.rows} == {"gradient", "deeplift-rescale", "random", "edges"}
    for row in found.rows:
        assert row.low - 1e-9 <= row.mean <= row.high + 1e-9
        assert row.column in METRICS[name].better or name == "morph"
    assert all(len(c.x) == len(c.mean) == len(c.low) for c in found.curves)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aopc", "unknown metric 'aopc'"),
        ("pixel-flipping:9", "is not of the form NAME[:OPTION=VALUE…]"),
        ("pixel-flipping:regions=9", "options: region, steps"),
        ("deletion:steps=many", "Expected `int`"),
    ],
)
def test_wrong_metrics_are_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=None) as error:
        metric(text)
    assert said in str(error.value)


def test_explainers_parse() -> None:
    found = Explainer.parse("lrp-eps:epsilon=0.5@blur:8")
    assert found.method is not None
    assert (found.method.parameters["epsilon"], found.baseline) == (0.5, "blur:8")
    assert Explainer.parse("lrp-eps", "mean").baseline == "mean"
    assert Explainer.parse("gradient", "mean").baseline is None
    for text, said in (("edges@blur", "takes no parameters and no baseline"), ("lrp-eps:epsilon", "is not of the form"),
                       ("lrpeps", "did you mean 'lrp-eps'")):  # fmt: skip
        with pytest.raises(UsageError) as error:
            Explainer.parse(text)
        assert said in str(error.value)


def test_the_command_writes_a_table_json_and_curves(cli: Cli, tmp_path: Path) -> None:
    ran = cli("evaluate", MODELS / "digits.onnx", SAMPLES / "digits", "--methods", "gradient,deeplift-rescale@black",
              "--metric", "pixel-flipping:steps=4", "--metric", "inside-mask", "--limit", "4", "--json")  # fmt: skip
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["schema"] == "heatcli.evaluation/1"
    assert (found["images"], found["metrics"]["pixel-flipping"]) == (4, {"region": 9, "steps": 4})
    assert {row["method"] for row in found["rows"]} == {"gradient", "deeplift-rescale@black", "random", "edges"}
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == found
    assert (tmp_path / "evaluation" / "pixel-flipping.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_needs_masks_for_the_mask(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes((SAMPLES / "wolf-on-snow.png").read_bytes())
    ran = cli("evaluate", MODELS / "animals.pt", "x.png", "--metric", "inside-mask")
    assert ran.status == 2
    assert "no image has a mask; give --masks DIR" in ran.err
    ran = cli("evaluate", MODELS / "animals.pt", "x.png", "--metric", "inside-mask", "--masks", SAMPLES / "digits")
    assert ran.status == 2
