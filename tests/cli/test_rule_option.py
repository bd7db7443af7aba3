"""`--rule KIND=RULE`: one entry of a method's table replaced, and every way to say it wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import SAMPLES, Cli
from networks import images, network, walked

import heatcli
from heatcli.engine.plan import plan
from heatcli.errors import UsageError
from heatcli.graph.layers import Layer
from heatcli.methods.table import METHODS, method
from heatcli.rules.affine import Epsilon, Gamma, ZPlus
from heatcli.rules.maximum import Radial, Softmax
from heatcli.rules.registry import RULES

PICTURE = SAMPLES / "wolf-on-snow.png"


def test_an_entry_is_replaced() -> None:
    found = method("lrp-eps").with_rules(["maximum=softmax:t=5", "convolution=gamma:gamma=0.5,stabilizer=0"])
    assert found.rules["maximum"] == Softmax(t=5.0)
    assert found.rules["convolution"] == Gamma(gamma=0.5, stabilizer=0.0)
    assert found.rules["affine"] == Epsilon()
    assert METHODS["lrp-eps"].rules["maximum"] != found.rules["maximum"]


def test_a_rule_for_layers_with_weights_goes_to_those() -> None:
    """z⁺ needs weights: `affine=z-plus` is convolutions and dense layers, and sums, means and scales stay."""
    found = method("lrp-eps").with_rules(["affine=z-plus"]).rules
    assert (found["convolution"], found["dense"], found["affine"]) == (ZPlus(), ZPlus(), Epsilon())
    back = method("lrp-z-plus").with_rules(["affine=epsilon"]).rules
    assert "convolution" not in back


def test_the_tables_of_methods_can_be_written_as_rules() -> None:
    """lrp-0 with other entries is another method."""
    batch = images(2).double()
    module = network("plain").double()
    for name, rules in {
        "lrp-z-plus": ["affine=epsilon", "affine=z-plus"],
        "lrp-gamma": ["affine=epsilon", "affine=gamma"],
        "deeplift-reveal-cancel": ["elementwise=reveal-cancel"],
    }.items():
        expected = walked(module, batch, method(name), batch * 0.5, 1).relevance
        found = walked(module, batch, method("lrp-0").with_rules(rules), batch * 0.5, 1).relevance
        torch.testing.assert_close(found, expected)
    for name in ("guided", "deconvnet"):
        expected = walked(module, batch, method("guided-backprop" if name == "guided" else name), None, 1).relevance
        found = walked(module, batch, method("input-x-gradient").with_rules([f"elementwise={name}"]), None, 1).relevance
        torch.testing.assert_close(found, expected)


# What does not conserve: rules that say so, and the softmax of a maximum, which has no reference where none is given.
UNBALANCED = {
    "elementwise=repeat", "rectifier=repeat", "rectifier=deconvnet", "rectifier=guided", "maximum=softmax",
}  # fmt: skip


@pytest.mark.parametrize("rule", [f"{kind}={name}" for kind, rules in RULES.items() for name in rules])
def test_every_rule_can_be_asked_for(cli: Cli, rule: str) -> None:
    """On the real model; the ledger says what it is worth."""
    ran = cli("explain", PICTURE, "--method", "lrp-0", "--rule", rule, "--json")
    assert ran.status == 0, ran.err
    assert (json.loads(ran.out)["ledger"]["relative_error"] > 1e-4) == (rule in UNBALANCED)


def test_another_rule_is_another_map(cli: Cli) -> None:
    def pixels(*more: str) -> list[list[float]]:
        found: list[list[float]] = json.loads(cli("explain", PICTURE, "--json", *more).out)["pixels"]["values"]
        return found

    assert pixels() == pixels("--rule", "affine=epsilon")
    assert pixels() != pixels("--rule", "affine=gamma")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("afine=epsilon", "unknown kind of operator or layer 'afine'; did you mean 'affine'? Known: affine, "),
        ("stage9.conv1=gamma", "unknown kind of operator or layer 'stage9.conv1'; did you mean 'stage4.conv1'?"),
        ("stem=loser", "unknown rule 'loser'"),
        ("stem=winner", "rule winner has no place at stem, which is convolution; it serves maximum"),
        ("convolution", "convolution is not of the form KIND|LAYER=RULE[:KEY=VALUE,KEY=VALUE…]"),
        ("maximum=loser", "maximum operators have no rule 'loser'; there are maximum: winner, gradient, radial, "
         "proportional, softmax-limit, softmax, telescoping"),
        ("maximum=softmax:s=3", "unknown parameter of rule softmax 's'; known: t"),
        ("maximum=softmax:t=0", "t=0 is not allowed; it must be a number > 0"),
        ("maximum=softmax:t=much", "t='much' is not a number"),
        ("maximum=radial:t=2", "rule radial takes no parameters, 't' is one too many"),
        ("affine=alpha-beta:alpha=3", "alpha=3, beta=1 is not allowed; alpha − beta must be 1"),
    ],
)  # fmt: skip
def test_what_cannot_be(cli: Cli, rule: str, message: str) -> None:
    ran = cli("explain", PICTURE, "--rule", rule)
    assert ran.status == 2
    assert message in ran.err


def test_a_rule_that_never_happens_is_an_error_not_a_gradient(cli: Cli) -> None:
    """Peers return the plain gradient here, without a word."""
    with pytest.raises(UsageError, match="would say nothing here: it has a rule for ReLUs, and this network has none"):
        method("guided-backprop").fits(walked(network("normed"), images(1), method("gradient")).graph)
    assert method("lrp-eps").with_rules(["maximum=radial"]).rules["maximum"] == Radial()
    assert cli("explain", PICTURE, "--method", "guided-backprop").status == 0


# --- layers by name -------------------------------------------------------------------------------------------------


def chosen(given: list[str]) -> dict[str, str]:
    """The class of the rule of each operator of the embedded model that has a parameter, by the parameter's module."""
    model = heatcli.load()
    graph = model.graph((1, *model.shape))
    rules = method("lrp-eps").with_rules(given).rules
    found = {}
    for step in plan(graph, rules).steps:
        names = Layer.of(step.operator).parameters
        if names and step.rule is not None:
            found[names[0].rpartition(".")[0]] = type(step.rule).__name__.removeprefix("Fast")
    return found


def test_a_layer_a_glob_and_a_block_have_their_own_rules() -> None:
    plain = chosen([])
    one = chosen(["stem=zb", "stage4.conv2=gamma:gamma=0.1"])
    assert (one["stem"], one["stage4.conv2"]) == ("ZBox", "Gamma")
    assert {name for name in plain if plain[name] != one[name]} == {"stem", "stage4.conv2"}
    block = chosen(["stage3=z-plus"])
    assert {name for name in plain if block[name] == "ZPlus"} == {
        f"stage3.{n}" for n in ("conv1", "conv2", "shortcut.0")
    }
    assert chosen(["stage3.*=z-plus"]) == block
    assert chosen(["stage?.conv1=z-plus"])["stage2.conv1"] == "ZPlus"


def test_a_layer_goes_before_its_kind_and_a_later_entry_before_an_earlier() -> None:
    assert chosen(["stem=gamma", "convolution=z-plus"])["stem"] == "Gamma"
    assert chosen(["stage3=gamma", "stage3.conv1=z-plus"])["stage3.conv1"] == "ZPlus"
    assert chosen(["stage3.conv1=z-plus", "stage3=gamma"])["stage3.conv1"] == "Gamma"
    assert chosen(["stage3=gamma", "stage3.conv1=z-plus", "stage3=gamma"])["stage3.conv1"] == "Gamma"


def test_a_composite_is_what_its_rules_are_one_by_one(cli: Cli, tmp_path: Path) -> None:
    """The report says which table ran; the ledger closes."""
    file = tmp_path / "composite.toml"
    file.write_text('[rules]\nconvolution = "z-plus"\n"stem" = "zb"\n"fc" = "gamma:gamma=0.1"\n')
    ran = cli("explain", PICTURE, "--composite", file, "--json")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    rules = ["--rule", "convolution=z-plus", "--rule", "stem=zb", "--rule", "fc=gamma:gamma=0.1"]
    other = json.loads(cli("explain", PICTURE, *rules, "--json").out)
    assert report["pixels"] == other["pixels"]
    assert report["method"]["rules"]["stem"] == "zb:stabilizer=1e-06"
    assert report["method"] == other["method"]
    assert report["ledger"]["relative_error"] < 1e-5
    assert "rules" not in json.loads(cli("explain", PICTURE, "--json").out)["method"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "composite.toml: cannot be read as a composite in TOML: No such file"),
        ("[rules", "composite.toml: cannot be read as a composite in TOML"),
        ("rules = 3", "composite.toml: must hold a table [rules] alone"),
        ("[rules]\nconvolution = 3", "composite.toml: the rule of convolution must be text in quotes"),
        ('[rules]\nconvolution = "gama"', "convolution operators have no rule 'gama'"),
    ],
)
def test_a_composite_that_is_none(cli: Cli, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "composite.toml").write_text(content)
    ran = cli("explain", PICTURE, "--composite", "composite.toml")
    assert ran.status == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
