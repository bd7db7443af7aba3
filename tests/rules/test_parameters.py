"""One way to write a name with parameters, in every option and spec."""

from __future__ import annotations

import string

import pytest
from conftest import MODELS, SAMPLES, Cli
from hypothesis import given
from hypothesis import strategies as st

import heatcli
from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.metrics import metric
from heatcli.methods.table import method
from heatcli.rules.parameters import Named, assigned, listed

WORDS = st.text(string.ascii_letters + string.digits + "_-", min_size=1)
VALUES = st.text(st.characters(exclude_characters=":,", exclude_categories=("Cs",)), min_size=1)  # "=" and "." too
NAMED = st.builds(Named, WORDS, st.dictionaries(WORDS, VALUES, max_size=4))
PLAIN = st.builds(Named, WORDS, st.dictionaries(WORDS, WORDS, max_size=4))


@given(NAMED)
def test_what_is_written_is_read(named: Named) -> None:
    assert Named.parse(str(named), "FORM") == named
    name, colon, given = str(named).partition(":")
    assert Named.parse(f"{name}{colon}{':'.join(named.parameters and given.split(','))}", "FORM") == named


@given(st.lists(PLAIN))
def test_lists_are_read_item_by_item(items: list[Named]) -> None:
    assert listed(",".join(map(str, items))) == list(map(str, items))
    assert listed(",".join(f"{item}@blur:4" for item in items)) == [f"{item}@blur:4" for item in items]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    if ":" not in text:
        assert Named.parse(text, "FORM") == Named(text, {})
    try:
        named = Named.parse(text, "FORM")
    except UsageError:
        return
    assert Named.parse(str(named), "FORM") == named


@pytest.mark.parametrize("given", ["", "epsilon", "epsilon=", "=1", "epsilon=1,", "epsilon=1:stabilizer"])
def test_every_place_refuses_the_same_texts(given: str) -> None:
    said = "is not of the form"
    for place in (
        lambda: Named.parse(f"lrp-eps:{given}", "F"),
        lambda: method(f"lrp-eps:{given}"),
        lambda: method("lrp-eps").with_rules([f"affine=epsilon:{given}"]),
        lambda: metric(f"deletion:{given}"),
        lambda: Explainer.parse(f"lrp-eps:{given}@blur"),
        lambda: assigned([given.split(",")[-1]] if ":" not in given else ["epsilon"], lambda item: item, "F"),
    ):
        with pytest.raises(UsageError, match=said):
            place()


def test_a_parameter_is_given_once(cli: Cli) -> None:
    for text in ("lrp-eps:epsilon=1,epsilon=2", "lrp-eps:epsilon=1:epsilon=1"):
        with pytest.raises(UsageError, match="gives epsilon twice; give it once"):
            method(text)
    with pytest.raises(UsageError, match="epsilon is given once more"):
        method("lrp-eps:epsilon=1", epsilon=2)
    ran = cli("explain", SAMPLES / "wolf-on-snow.png", "--param", "epsilon=1", "--param", "epsilon=2")
    assert ran.status == 2
    assert "--param epsilon=2 gives epsilon twice; give it once" in ran.err


def test_every_place_takes_the_same_text(cli: Cli) -> None:
    own = method("lrp-eps", epsilon=0.5)
    assert method("lrp-eps:epsilon=0.5") == own
    assert Explainer.parse("lrp-eps:epsilon=0.5@blur").method == own
    assert method("lrp-eps").with_rules(["affine=epsilon:epsilon=0.5"]).rules["affine"] == own.rules["affine"]
    assert metric("pixel-flipping:region=3,steps=4") == metric("pixel-flipping:region=3:steps=4")
    assert heatcli.explain(heatcli.load(MODELS / "digits.onnx"), _digit(), "lrp-eps:epsilon=0.5").method == own
    digit, model = SAMPLES / "digits" / "8-a.png", MODELS / "digits.onnx"
    both = "lrp-eps:epsilon=0.5,lrp-gamma:gamma=0.1,stabilizer=0,gradient"
    ran = cli("bench", model, "--methods", both, "--repeats", "1", "--batch-size", "1", "--json")
    assert ran.status == 0, ran.err
    for name in ("lrp-eps:epsilon=0.5", "lrp-gamma:gamma=0.1,stabilizer=0"):
        assert f'"name": "{name}"' in ran.out
    ran = cli("compare", "lrp-eps:epsilon=0.5", "lrp-eps:epsilon=0.1", digit, "--model", model, "--json")
    assert ran.status == 0, ran.err


def _digit() -> object:
    import torch

    return torch.rand(1, 1, 28, 28)
