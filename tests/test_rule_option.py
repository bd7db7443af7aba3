"""`--rule KIND=RULE`: one entry of a method's table replaced, and every way to say it wrongly."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import SAMPLES, Cli
from networks import images, network, walked

from heatcli.errors import UsageError
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


@pytest.mark.parametrize("rule", [f"{kind}={name}" for kind, rules in RULES.items() for name in rules])
def test_every_rule_can_be_asked_for(cli: Cli, rule: str) -> None:
    """On the real model; the ledger says what it is worth. What never happens in it is refused, not ignored."""
    ran = cli("explain", PICTURE, "--method", "lrp-0", "--rule", rule, "--json")
    if ran.status == 2:
        assert "would say nothing here" in ran.err
        return
    assert ran.status == 0, ran.err
    ledger = json.loads(ran.out)["ledger"]
    free = rule.split("=")[1] in ("gradient", "repeat", "deconvnet", "guided") and "affine" not in rule
    if not free and "pass" not in rule and "=softmax" not in rule:
        assert ledger["relative_error"] < 1e-4


def test_another_rule_is_another_map(cli: Cli) -> None:
    def pixels(*more: str) -> list[list[float]]:
        found: list[list[float]] = json.loads(cli("explain", PICTURE, "--json", *more).out)["pixels"]["values"]
        return found

    assert pixels() == pixels("--rule", "affine=epsilon")
    assert pixels() != pixels("--rule", "affine=gamma")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("pooling=winner", "unknown kind of operator 'pooling'; did you mean 'convolution'? Known: affine, "
         "convolution, dense, elementwise, first, maximum, normaliser, product, rectifier"),
        ("maximum=loser", "maximum operators have no rule 'loser'; there are maximum: winner, gradient, radial, "
         "proportional, softmax-limit, softmax, telescoping"),
        ("maximum=softmax:s=3", "unknown parameter of rule softmax 's'; known: t"),
        ("maximum=softmax:t=0", "t=0 is not allowed; it must be a number > 0"),
        ("maximum=softmax:t=much", "t='much' is not a float"),
        ("maximum=radial:t=2", "rule radial takes no parameters, 't' is one too many"),
        ("affine=alpha-beta:alpha=3", "alpha=3, beta=1 is not allowed; alpha − beta must be 1"),
    ],
)  # fmt: skip
def test_what_cannot_be(cli: Cli, rule: str, message: str) -> None:
    ran = cli("explain", PICTURE, "--rule", rule)
    assert ran.status == 2
    assert ran.err.strip() == f"heatcli: {message}" or message in ran.err, ran.err


def test_a_rule_that_never_happens_is_an_error_not_a_gradient(cli: Cli) -> None:
    """Peers return the plain gradient here, without a word."""
    with pytest.raises(UsageError, match="would say nothing here: it has a rule for ReLUs, and this network has none"):
        method("guided-backprop").fits(walked(network("normed"), images(1), method("gradient")).graph)
    assert method("lrp-eps").with_rules(["maximum=radial"]).rules["maximum"] == Radial()
    assert cli("explain", PICTURE, "--method", "guided-backprop").status == 0
