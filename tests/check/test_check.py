"""`heatcli check`: it tells the embedded models apart, every check is seen to fail once, every writer is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from PIL import Image
from subjects import FOUR, animals
from torch import nn

from heatcli.check.background import composites, painted_over
from heatcli.check.books import shares
from heatcli.check.golden import largest_difference
from heatcli.check.maps import jpeg, moved
from heatcli.check.result import Result, at_least, github, junit
from heatcli.check.spec import CHECKS, default_spec, read_spec
from heatcli.errors import UsageError

PICTURES = tuple(SAMPLES / f"{name}.png" for name in FOUR)


def checked(cli: Cli, spec: str, *args: str | Path, model: str = "animals.pt") -> tuple[int, list[dict], str]:
    """Exit status, results and stderr of a check by `spec`."""
    Path("spec.toml").write_text(spec, encoding="utf-8")
    ran = cli("check", MODELS / model, *(args or PICTURES), "--spec", "spec.toml", "--json")
    return ran.status, [json.loads(line) for line in ran.out.splitlines()], ran.err


def failed(results: list[dict]) -> set[str]:
    """What failed, as check and quantity."""
    return {f"{r['check']}: {r['quantity']}" for r in results if r["status"] == "failed"}


LOCATION = """
methods = ["deeplift-rescale@mean", "lrp-eps@blur", "deeplift-rescale"]
[inside-mask]
least = 0.05
median = 0.4
[background]
relevance = 0.55
"""


def test_the_honest_model_passes_where_the_shortcut_fails(cli: Cli) -> None:
    """Wolves and dogs, three ways to explain them: by a wide margin, with every one of them."""
    status, honest, _ = checked(cli, LOCATION)
    assert (status, failed(honest)) == (0, set()), [r for r in honest if r["status"] == "failed"]
    status, shortcut, _ = checked(cli, LOCATION, model="animals-shortcut.pt")
    assert status == 1
    assert failed(shortcut) >= {"inside-mask: median share inside", "background: share that keeps its class",
                                "background: median change of the probability"}  # fmt: skip

    def measured(results: list[dict], quantity: str) -> list[float]:
        return [r["measured"] for r in results if r["quantity"] == quantity]

    inside = zip(measured(honest, "median share inside"), measured(shortcut, "median share inside"), strict=True)
    assert all(a > 0.45 and b < 0.35 and a - b > 0.25 for a, b in inside)
    kept = [measured(results, "share that keeps its class")[0] for results in (honest, shortcut)]
    assert kept[0] == 1
    assert kept[1] < 0.6


def test_the_repositorys_own_spec_holds_for_every_key() -> None:
    """The spec that CI runs is read, and asks for what the manual says."""
    spec = read_spec(SAMPLES / "heatcheck.toml")
    assert {"inside_mask", "background", "randomisation", "ledger"} <= {
        c.name.replace("-", "_") for c in CHECKS if getattr(spec, c.name.replace("-", "_")) is not None
    }


def test_every_check_has_defaults() -> None:
    spec = default_spec()
    assert all(getattr(spec, check.name.replace("-", "_")) == check() for check in CHECKS)


FAILING = {
    "prediction": ('[prediction]\nlabels = "labels.csv"\n', "prediction: predicted"),
    "ledger": ("[ledger]\nmost = 1e-30\n", "ledger: relative error"),
    "bias-share": ("[bias-share]\nmost = 0.5\n", "bias-share: share of the biases"),
    "bias-share-layer": ("[bias-share]\nmost-layer = 0.3\n", "bias-share: share of stage4.bn2.bias"),
    "inside-mask": ("[inside-mask]\nleast = 0.9\n", "inside-mask: share inside"),
    "background": ("[background]\nrelevance = 0.1\n", "background: median relevance on the background"),
    "randomisation": ('methods = ["edges"]\n[randomisation]\n', "randomisation: cascading, |rank correlation|"),
    "stability": ("[stability]\nnoise = 0.999\n", "stability: rank correlation under noise"),
    "faithfulness": ('methods = ["edges"]\n[faithfulness]\nmargin = 0.1\nsteps = 20\n',
                     "faithfulness: AOPC above random, of the score"),
    "golden": ("[golden]\n", "golden: no stored report"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_every_check_fails_on_purpose(cli: Cli, name: str) -> None:
    """With a bound that cannot hold, or a map that knows nothing of the network, the check says so and ends with 1."""
    Path("labels.csv").write_text("image,label\nwolf-on-snow.png,cat\ndog-on-snow.png,dog\n", encoding="utf-8")
    spec, expected = FAILING[name]
    pictures = PICTURES if name == "background" else PICTURES[-2:]
    status, results, _ = checked(cli, spec, *pictures)
    assert status == 1
    assert expected in failed(results)


def test_guided_backprop_does_not_explain_the_model(cli: Cli) -> None:
    """Adebayo et al. 2018: its maps hardly change as the network loses what it learned; LRP's and DeepLIFT's do."""
    spec = 'methods = ["{}"]\n[randomisation]\n'
    for method, expected in (("guided-backprop", 1), ("gradient", 0), ("lrp-eps", 0), ("deeplift-rescale@mean", 0)):
        assert checked(cli, spec.format(method))[0] == expected, method


def test_finite_names_the_image_that_is_not(cli: Cli) -> None:
    """A network that divides by the picture's mean: a black picture gives NaN, the other is fine."""

    class Divides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x / x.mean((1, 2, 3), keepdim=True)).flatten(1)[:, :4]

    torch.jit.script(Divides()).save("divides.pt")
    Image.new("RGB", (8, 8), "black").save("black.png")
    Image.new("RGB", (8, 8), "grey").save("grey.png")
    Path("s.toml").write_text('methods = ["gradient"]\n[finite]\n', encoding="utf-8")
    ran = cli(
        "check", "divides.pt", "black.png", "grey.png", "--size", "8", "--channels", "3", "--spec", "s.toml", "-v"
    )
    assert ran.status == 1
    assert "FAILED finite: black.png: output not finite, required finite" in ran.out
    assert "PASSED finite [gradient]: grey.png" in ran.out


def test_folders_named_after_classes_are_expected_labels(cli: Cli, tmp_path: Path) -> None:
    for label, picture in (("wolf", "wolf-on-snow"), ("dog", "dog-on-grass"), ("cat", "pig-on-sand")):
        (tmp_path / "in" / label).mkdir(parents=True)
        shutil.copy(SAMPLES / f"{picture}.png", tmp_path / "in" / label)
    status, results, _ = checked(cli, "[prediction]\nleast = 0.6\n", "in")
    assert status == 0
    assert [(r["measured"], r["required"]) for r in results[:3]] == [("pig", "cat"), ("dog", "dog"), ("wolf", "wolf")]
    Path("labels.json").write_text('{"in/wolf/wolf-on-snow.png": "wolf", "dog-on-grass.png": 1}', encoding="utf-8")
    status, results, _ = checked(cli, '[prediction]\nlabels = "labels.json"\n', "in")
    assert (status, len(results)) == (0, 3)


def test_golden_reports_are_stored_agreed_with_and_missed(cli: Cli, tmp_path: Path) -> None:
    spec = 'methods = ["lrp-eps", "deeplift-rescale@blur:4"]\n[golden]\nfolder = "g"\n'
    Path("spec.toml").write_text(spec, encoding="utf-8")
    assert cli("check", MODELS / "animals.pt", *PICTURES[2:], "--spec", "spec.toml", "--update-golden").status == 0
    names = sorted(p.name for p in (tmp_path / "g").iterdir())
    assert names[0] == "wolf-on-grass.deeplift-rescale-blur-4.json"
    assert len(names) == 4
    status, results, _ = checked(cli, spec, *PICTURES[2:])
    assert (status, {r["status"] for r in results}) == (0, {"passed"})
    shutil.copy(tmp_path / "g" / "wolf-on-snow.lrp-eps.json", tmp_path / "g" / "wolf-on-grass.lrp-eps.json")
    status, results, _ = checked(cli, spec, *PICTURES[2:])
    assert (status, len(failed(results))) == (1, 1)
    (tmp_path / "g" / "wolf-on-snow.lrp-eps.json").write_text("{}")
    status, _, err = checked(cli, spec, *PICTURES[2:])
    assert status == 2
    assert "wolf-on-snow.lrp-eps.json: is no report, or a damaged one; check --update-golden writes one" in err


def test_golden_finds_the_kind_that_differs() -> None:
    report = {
        "target": {"index": 1}, "pixels": {"shape": [1, 2], "values": [[1.0, -4.0]]},
        "ledger": {"output": 2.0, "output_baseline": 0.0, "pixels": -3.0, "biases": 5.0},
        "biases": [{"name": "b", "size": 2, "values": [3.0, 2.0]}],
    }  # fmt: skip

    def changed(change: dict) -> tuple[str, float]:
        return largest_difference(report, {**report, **change})

    assert changed({}) == ("the ledger", 0)
    assert changed({"pixels": {"shape": [1, 2], "values": [[1.0, -3.0]]}}) == ("the pixels", 0.25)
    assert changed({"biases": [{"name": "b", "size": 2, "values": [3.0, 2.3]}]}) == ("the biases", pytest.approx(0.1))
    assert changed({"target": {"index": 0}}) == ("the target", float("inf"))
    assert changed({"biases": [{"name": "c", "size": 2, "values": [3.0, 2.0]}]})[1] == float("inf")


def test_without_a_spec_what_lacks_material_is_skipped(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "digits" / "8-a.png", tmp_path / "x.png")
    ran = cli("check", MODELS / "digits.onnx", "x.png", "--json")
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert {r["check"] for r in results} == {check.name for check in CHECKS}
    assert {r["check"] for r in results if r["status"] == "skipped"} == {
        "prediction", "found", "inside-mask", "background", "golden", "unexpected-clusters",
    }  # fmt: skip


def test_asked_for_what_is_not_there_is_wrong_usage(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(PICTURES[0], tmp_path / "x.png")
    for spec, said in (
        ("[inside-mask]\n", "no image has a mask"),
        ("[background]\n", "no image has a mask"),
        ("[prediction]\n", "no image has an expected label; give labels = FILE"),
        ('[prediction]\nlabels = "none.csv"\n', "none.csv: the expected labels cannot be read"),
    ):
        status, _, err = checked(cli, spec, "x.png")
        assert status == 2
        assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[inside-musk]\n", "unknown check or key 'inside-musk'; did you mean 'inside-mask'?"),
        ("[inside-mask]\nleats = 1\n", "unknown key of [inside-mask] 'leats'; did you mean 'least'?"),
        ('[ledger]\nmost = "small"\n', "Expected `float`, got `str` - at `$.ledger.most`"),
        ("methods = []\n[ledger]\n", "asks for nothing"),
        ("", "asks for nothing"),
        ("[ledger", "is not TOML"),
    ],
)
def test_wrong_specs_are_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "spec.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_spec(tmp_path / "spec.toml")
    assert said in str(error.value)
    assert str(tmp_path / "spec.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreadable_image_fails_and_the_others_are_checked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    status, results, _ = checked(cli, "[ledger]\n", "a.png", PICTURES[0])
    assert status == 1
    assert failed(results) == {"image: cannot be read"}
    assert {r["check"] for r in results if r["status"] == "passed"} == {"ledger"}


RESULTS = [
    at_least("inside-mask", "share inside", 0.25, 0.1, image="a,b.png", method="lrp-eps"),
    at_least("inside-mask", "share inside", 0.05, 0.1, image="100%.png", method="lrp-eps"),
    at_least("bias-share", "share of <fc>", 0.5, None),
    Result(check="golden", quantity="not checked", status="skipped", measured="no stored reports"),
]


def test_junit() -> None:
    root = ElementTree.fromstring(junit(RESULTS, 1.5))
    assert (root.get("tests"), root.get("failures")) == ("3", "1"), "a quantity that is only reported is no test"
    suites = {suite.get("name"): suite for suite in root}
    failure = suites["inside-mask"].find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "inside-mask [lrp-eps]: 100%.png: share inside 0.05, required ≥ 0.1"
    assert suites["golden"].find("testcase/skipped") is not None
    assert [child.tag for child in suites["bias-share"]] == ["system-out"]
    assert "share of <fc>" in (suites["bias-share"].findtext("system-out") or "")


def test_github_annotations_escape_what_they_must() -> None:
    assert github(RESULTS) == (
        "::error file=100%25.png,title=heatcli inside-mask::"
        "inside-mask [lrp-eps]: 100%25.png: share inside 0.05, required ≥ 0.1\n"
    )


def test_the_writers_of_the_command(cli: Cli, tmp_path: Path) -> None:
    Path("spec.toml").write_text("[inside-mask]\nleast = 0.99\n", encoding="utf-8")
    ran = cli("check", MODELS / "animals.pt", PICTURES[3], "--spec", "spec.toml", "--junit", "r.xml", "--github")
    assert ran.status == 1
    assert f"::error file={PICTURES[3]},title=heatcli inside-mask::" in ran.out
    assert f"FAILED inside-mask [lrp-eps@blur]: {PICTURES[3]}: share inside 0." in ran.out
    assert "required ≥ 0.99" in ran.out
    assert ElementTree.fromstring((tmp_path / "r.xml").read_bytes()).get("failures") == "2"
    assert "2 failed" in ran.err


def test_bias_shares_in_closed_form() -> None:
    whole, own = shares({"a": torch.tensor([[1.0, -3.0]]), "b": torch.tensor([[5.0]])}, torch.tensor([-3.0]))
    assert whole.tolist() == [0.7]
    assert {name: float(value) for name, value in own.items()} == {"a": 0.2, "b": 0.5}


def test_painting_over_leaves_the_rest_and_hides_the_object() -> None:
    """Outside the grown mask nothing changes; a white square on grey becomes grey."""
    batch = torch.full((1, 3, 48, 48), 0.4)
    mask = torch.zeros(1, 48, 48)
    mask[:, 10:30, 12:32] = 1
    batch[:, :, 10:30, 12:32] = 1
    assert torch.allclose(painted_over(batch, mask), torch.full_like(batch, 0.4), atol=1e-5)
    subject = animals()
    clean = painted_over(subject.batch, subject.mask)
    far = torch.nn.functional.max_pool2d(subject.mask[:, None], 9, 1, 4) == 0
    assert torch.equal(clean[far.expand_as(clean)], subject.batch[far.expand_as(clean)])


def test_composites_keep_the_object_and_change_the_background() -> None:
    subject = animals()
    made = composites(subject, None, count=2)
    assert made.of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    inside = (made.subject.mask == 1)[:, None].expand_as(made.subject.batch)
    assert torch.equal(made.subject.batch[inside], subject.batch[made.of][inside])
    outside = (made.subject.mask == 0)[:, None].expand_as(made.subject.batch)
    assert float((made.subject.batch - subject.batch[made.of])[outside].abs().mean()) > 0.05


def test_given_backgrounds_are_used(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b" / "noise.png")
    status, results, _ = checked(cli, '[background]\nbackgrounds = ["b"]\nkept = 0.0\nchange = 0.0\n', PICTURES[0])
    assert status == 1
    assert "background: median change of the probability" in failed(results)


def test_shifts_and_jpeg() -> None:
    batch = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert moved(batch, 1, 0)[0, 0, :, 0].tolist() == [0, 0, 4, 8]
    assert moved(batch, 0, -1)[0, 0, 0].tolist() == [1, 2, 3, 3]
    assert torch.equal(moved(moved(batch, 1, 1), -1, -1)[..., :3, :3], batch[..., :3, :3])
    subject = animals()
    best, worst = jpeg(subject, 95), jpeg(subject, 5)
    assert best is not None
    assert worst is not None
    assert float((best - subject.batch).abs().mean()) < 0.1 < float((worst - subject.batch).abs().mean())
