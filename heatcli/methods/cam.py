"""Class activation maps: which maps of one layer speak for the class, laid over the image.

A map is enlarged to the image's size (bilinearly) and shared evenly over its channels, so that the sum over channels
at a pixel is the map's value there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError
from heatcli.graph.kinds import RECTIFIER
from heatcli.graph.layers import LAST, find_layer
from heatcli.methods.backward import GRADIENT
from heatcli.methods.method import ANY, ONE, Answer, Method
from heatcli.methods.path import mean_score
from heatcli.methods.question import Question
from heatcli.parameters import Parameters, text
from heatcli.rules.base import Table
from heatcli.rules.elementwise import Guided

NAMED = "an operator, a layer of the artifact, or last: before the image is pooled away"


def layer_name(question: Question, layer: str) -> str:
    """The operator that `layer` names. Raises `UsageError`."""
    if question.batch.dim() != 4:
        raise UsageError(f"CAM methods take pictures [N, C, H, W]; this input is {tuple(question.batch.shape)}")
    return find_layer(question.graph, layer).name


def enlarged(maps: Tensor, question: Question) -> Tensor:
    """Maps [N, K, h, w] at the size of the image: [N, K, H, W]."""
    return functional.interpolate(maps, question.batch.shape[-2:], mode="bilinear", align_corners=False)


def over_channels(cam: Tensor, question: Question) -> Tensor:
    """A map [N, 1, H, W] shared evenly over the channels of the image."""
    channels = question.batch.shape[1]
    return (cam / channels).expand_as(question.batch).contiguous()


@dataclass(frozen=True)
class GradCam(Parameters):
    """ReLU(Σ_k w_k A_k), w_k the mean of ∂score/∂A_k over map A_k."""

    kind: ClassVar[str] = "cam"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ANY

    layer: str = text(LAST, NAMED)

    @property
    def cost(self) -> str:
        """The walk back goes through to the image."""
        return "1 forward, 1 backward"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of every image."""
        return Answer(over_channels(self.cam(question, method.rules), question))

    def cam(self, question: Question, rules: Table) -> Tensor:
        """The map, [N, 1, H, W]."""
        name = layer_name(question, self.layer)
        walked = question.walk_batch(rules, books=False, keep=(name,))
        values, gradients = (kept[name].to(question.batch) for kept in (walked.values, walked.multipliers))
        return enlarged(self.weighted(values, gradients).sum(1, keepdim=True).relu(), question)

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """Each map [N, K, h, w] with its weight."""
        return gradients.mean((2, 3), keepdim=True) * values


@dataclass(frozen=True)
class GradCamPlusPlus(GradCam):
    """w_k = Σ_ij α_ij ReLU(∂S/∂A_ij), α = g² / (2g² + Σ_ab A_ab · g³); 0 where g = 0."""

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """Equations 10 and 19."""
        square = gradients**2
        below = 2 * square + values.sum((2, 3), keepdim=True) * gradients**3
        alpha = torch.where(below == 0, 0, square / torch.where(below == 0, 1, below))
        return (alpha * gradients.relu()).sum((2, 3), keepdim=True) * values


@dataclass(frozen=True)
class LayerCam(GradCam):
    """ReLU(Σ_k ReLU(∂score/∂A_k) A_k), each place with its own weight."""

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """Equation 5."""
        return gradients.relu() * values


@dataclass(frozen=True)
class GuidedGradCam(GradCam):
    """Guided backpropagation times the Grad-CAM."""

    @property
    def cost(self) -> str:
        """One walk for each of the two."""
        return "2 forwards, 2 backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The product of the two, a channel."""
        cam = self.cam(question, GRADIENT)
        return Answer(question.walk_batch(method.rules, books=False).multiplier * cam)


@dataclass(frozen=True)
class ScoreCam(GradCam):
    """ReLU(Σ_k w_k A_k), w the softmax over k of the scores of the image where A_k (scaled to 0..1, enlarged) is high.

    What a map hides is replaced by the baseline.
    """

    takes: ClassVar[str] = ONE

    @property
    def cost(self) -> str:
        """No walk."""
        return "1 forward; 1 forward a channel of the layer"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of every image."""
        found = over_channels(self.cam(question, method.rules), question)
        return Answer(found, score0=mean_score(question))

    def cam(self, question: Question, rules: Table) -> Tensor:
        """The map, [N, 1, H, W]."""
        name = layer_name(question, self.layer)
        values = question.values(name).to(question.batch)
        count = values.shape[1]
        flat = values.flatten(2)
        low, high = flat.amin(2)[..., None, None], flat.amax(2)[..., None, None]
        scaled = (values - low) / torch.where(high == low, 1, high - low)
        x, start = question.batch, question.reference.batch
        assert start is not None

        def shown(rows: Tensor, which: Tensor) -> Tensor:
            """Images under a map of theirs."""
            mask = enlarged(scaled[rows, which][:, None], question)
            return start[rows] + mask * (x[rows] - start[rows])

        weights = question.scores(question.points(count, shown)).reshape(len(x), count).softmax(1)
        return enlarged((weights.to(values)[..., None, None] * values).sum(1, keepdim=True).relu(), question)


def _method(name: str, summary: str, source: str, procedure: GradCam, baseline: str | None = None) -> Method:
    return Method(name, summary, source, GRADIENT, baseline, conserves=False, procedure=procedure)


CAM = (
    _method(
        "grad-cam", "maps of a layer weighted by their mean gradient", "Selvaraju et al. 2017, eq. 1 and 2", GradCam()
    ),
    _method(
        "grad-cam-plus-plus", "maps weighted by their positive gradients, places by their share",
        "Chattopadhyay et al. 2018, eq. 10 and 19", GradCamPlusPlus(),
    ),
    _method("layer-cam", "maps weighted place by place by positive gradients", "Jiang et al. 2021, eq. 5", LayerCam()),
    _method(
        "score-cam", "maps weighted by the score of what they show of the image", "Wang et al. 2020, alg. 1",
        ScoreCam(), "zero",
    ),
    Method(
        name="guided-grad-cam",
        summary="guided backpropagation times Grad-CAM",
        source="Selvaraju et al. 2017, sec. 3.3",
        rules={**GRADIENT, RECTIFIER: Guided()},
        baseline=None,
        conserves=False,
        procedure=GuidedGradCam(),
    ),
)  # fmt: skip
