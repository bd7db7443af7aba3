"""Methods of one walk: tables of rules."""

from __future__ import annotations

from heatcli.graph.kinds import (
    AFFINE,
    CONVOLUTION,
    DENSE,
    ELEMENTWISE,
    FIRST,
    KINDS,
    LAYOUT,
    MAXIMUM,
    NORMALISER,
    PRODUCT,
    RECTIFIER,
    SOFTMAX,
    SUM,
)  # fmt: skip
from heatcli.methods.method import MULTIPLIER, SQUARE, Method
from heatcli.rules.affine import AlphaBeta, Epsilon, Gamma, ZPlus
from heatcli.rules.elementwise import Deconvnet, Guided, Slope
from heatcli.rules.first_layer import Flat, WSquare, ZBox
from heatcli.rules.maximum import Winner
from heatcli.rules.normaliser import HeldStatistics, SoftmaxTaylor
from heatcli.rules.product import Share, SignalTakesAll
from heatcli.rules.reveal_cancel import Parts, RevealCancel
from heatcli.rules.rule import Adjoint, Rule, Table

GRADIENT: Table = dict.fromkeys(KINDS, Adjoint())
LRP_0: Table = {
    AFFINE: Adjoint(),
    ELEMENTWISE: Slope(),
    MAXIMUM: Winner(),
    SUM: Adjoint(),
    PRODUCT: Share(),
    NORMALISER: HeldStatistics(),
    LAYOUT: Adjoint(),
}
LRP_EPS: Table = {**LRP_0, AFFINE: Epsilon()}
ATTNLRP: Table = {**LRP_EPS, SOFTMAX: SoftmaxTaylor()}
CP_LRP: Table = {**LRP_EPS, PRODUCT: SignalTakesAll()}
REVEAL: Table = {**LRP_0, AFFINE: Parts(), SUM: Parts(), LAYOUT: Parts(), ELEMENTWISE: RevealCancel()}


def _layers(rule: Rule) -> Table:
    """LRP-ε, with `rule` for convolutions and dense layers."""
    return {**LRP_EPS, CONVOLUTION: rule, DENSE: rule}


def _composite(convolutions: Rule, first: Rule | None = None) -> Table:
    """LRP-ε, with a rule for convolutions and, if given, one for first layers."""
    table: Table = {**LRP_EPS, CONVOLUTION: convolutions}
    return table if first is None else {**table, FIRST: first}


BACKWARD = (
    Method(
        name="gradient",
        summary="gradient of the score with respect to the input",
        source="Simonyan et al. 2013, sec. 3",
        rules=GRADIENT,
        baseline=None,
        readout=MULTIPLIER,
        conserves=False,
    ),
    Method(
        name="sensitivity",
        summary="squared gradient",
        source="Simonyan et al. 2013; as Montavon et al. 2018, sec. 4.1",
        rules=GRADIENT,
        baseline=None,
        readout=SQUARE,
        conserves=False,
    ),
    Method(
        name="input-x-gradient",
        summary="input (minus baseline) times gradient",
        source="Shrikumar et al. 2016, arXiv 1605.01713, sec. 4",
        rules=GRADIENT,
        conserves=False,
    ),
    Method(
        name="deconvnet",
        summary="gradient, with ReLUs applied to what comes back",
        source="Zeiler & Fergus 2014, sec. 2.1",
        rules={**GRADIENT, RECTIFIER: Deconvnet()},
        baseline=None,
        readout=MULTIPLIER,
        conserves=False,
    ),
    Method(
        name="guided-backprop",
        summary="gradient, only what is positive goes back through a ReLU",
        source="Springenberg et al. 2014, sec. 3.4",
        rules={**GRADIENT, RECTIFIER: Guided()},
        baseline=None,
        readout=MULTIPLIER,
        conserves=False,
    ),
    Method(
        name="lrp-0",
        summary="layer-wise relevance propagation, biases booked, no stabiliser",
        source="Bach et al. 2015, eq. 56",
        rules=LRP_0,
    ),
    Method(
        name="lrp-eps",
        summary="layer-wise relevance propagation with the stabiliser ε on affine operators",
        source="Bach et al. 2015, eq. 58",
        rules=LRP_EPS,
    ),
    Method(
        name="blame-bias",
        summary="LRP without ε: the gradient of matrices and maxima, the slope of nonlinearities; nothing is divided",
        source="Bach et al. 2015, eq. 56, in multipliers: Shrikumar et al. 2016, arXiv 1605.01713, sec. 3",
        rules=LRP_0,
    ),
    Method(
        name="lrp-gamma",
        summary="LRP in which contributions with the sign of the output weigh more, by γ, in layers with weights",
        source="Montavon et al. 2019, sec. 10.2.3",
        rules=_layers(Gamma()),
    ),
    Method(
        name="lrp-alpha-beta",
        summary="LRP with positive contributions weighted α, negative β, α − β = 1",
        source="Bach et al. 2015, eq. 60",
        rules=_layers(AlphaBeta()),
    ),
    *(
        Method(
            name=f"lrp-alpha{alpha}-beta{alpha - 1}",
            summary=f"LRP with α = {alpha}, β = {alpha - 1}",
            source="Bach et al. 2015, eq. 60",
            rules=_layers(AlphaBeta(float(alpha), float(alpha - 1))),
        )
        for alpha in (1, 2, 3)
    ),
    Method(
        name="lrp-z-plus",
        summary="LRP of positive contributions only",
        source="Montavon et al. 2017, eq. 17",
        rules=_layers(ZPlus()),
    ),
    Method(
        name="lrp-w2",
        summary="LRP-ε, the first layer by its squared weights",
        source="Montavon et al. 2017, eq. 12",
        rules={**LRP_EPS, FIRST: WSquare()},
    ),
    Method(
        name="lrp-flat",
        summary="LRP-ε, the first layer evenly over what it sees",
        source="Lapuschkin et al. 2019, supplement",
        rules={**LRP_EPS, FIRST: Flat()},
    ),
    Method(
        name="lrp-zb",
        summary="LRP-ε, the first layer by the range of pixels",
        source="Montavon et al. 2017, eq. 19",
        rules={**LRP_EPS, FIRST: ZBox()},
    ),
    Method(
        name="deep-taylor",
        summary="z⁺ in every layer, zB in the first",
        source="Montavon et al. 2017, sec. 5",
        rules={**_layers(ZPlus()), FIRST: ZBox()},
    ),
    Method(
        name="lrp-epsilon-plus",
        summary="ε in dense layers, z⁺ in convolutions",
        source="Kohlbrenner et al. 2020; Zennit's EpsilonPlus",
        rules=_composite(ZPlus()),
    ),
    Method(
        name="lrp-epsilon-plus-flat",
        summary="ε in dense layers, z⁺ in convolutions, flat in the first",
        source="Kohlbrenner et al. 2020; Zennit's EpsilonPlusFlat",
        rules=_composite(ZPlus(), Flat()),
    ),
    Method(
        name="lrp-epsilon-alpha2-beta1",
        summary="ε in dense layers, α = 2, β = 1 in convolutions",
        source="Kohlbrenner et al. 2020; Zennit's EpsilonAlpha2Beta1",
        rules=_composite(AlphaBeta()),
    ),
    Method(
        name="lrp-epsilon-alpha2-beta1-flat",
        summary="ε in dense layers, α = 2, β = 1 in convolutions, flat in the first",
        source="Kohlbrenner et al. 2020; Zennit's EpsilonAlpha2Beta1Flat",
        rules=_composite(AlphaBeta(), Flat()),
    ),
    Method(
        name="lrp-epsilon-gamma-box",
        summary="ε in dense layers, γ in convolutions, zB in the first",
        source="Montavon et al. 2019, sec. 10.3; Zennit's EpsilonGammaBox",
        rules=_composite(Gamma(), ZBox()),
    ),
    Method(
        name="attnlrp",
        summary="LRP-ε for attention: softmax by its Taylor expansion, products shared by half",
        source="Achtibat et al. 2024, arXiv 2402.05602, sec. 3.3",
        rules=ATTNLRP,
    ),
    Method(
        name="attnlrp-gamma",
        summary="AttnLRP with γ in layers with weights",
        source="Achtibat et al. 2024, arXiv 2402.05602, sec. 3.3 and A.2.3",
        rules={**ATTNLRP, CONVOLUTION: Gamma(), DENSE: Gamma()},
    ),
    Method(
        name="cp-lrp",
        summary="LRP-ε for attention and recurrent layers: attention weights and gates are constants",
        source="Ali et al. 2022, arXiv 2202.07304, sec. 4; gates: Arras et al. 2019, sec. 3.2",
        rules=CP_LRP,
    ),
    Method(
        name="cp-lrp-gamma",
        summary="CP-LRP with γ in layers with weights",
        source="Achtibat et al. 2024, arXiv 2402.05602, A.2.3; LXT's composite for vision transformers",
        rules={**CP_LRP, CONVOLUTION: Gamma(), DENSE: Gamma()},
    ),
    Method(
        name="deeplift-rescale",
        summary="difference from a baseline, nonlinearities by their slope",
        source="Shrikumar et al. 2017, sec. 3.5.1",
        rules=LRP_0,
        baseline="zero",
    ),
    Method(
        name="deeplift-reveal-cancel",
        summary="difference from a baseline, positive and negative contributions kept apart",
        source="Shrikumar et al. 2017, sec. 3.5.3",
        rules=REVEAL,
        baseline="zero",
    ),
    Method(
        name="deeplift-genomics",
        summary="rescale behind convolutions, reveal-cancel behind dense layers",
        source="Shrikumar et al. 2017, sec. 3.5.3 and 4.2",
        rules={**REVEAL, ELEMENTWISE: RevealCancel("dense")},
        baseline="zero",
    ),
)
