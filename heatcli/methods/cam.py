"""Class activation maps: a weighted sum of the maps of one layer, enlarged to the image.

A map is enlarged to the image's size (bilinearly) and divided by the number of channels, so that the sum over channels
at a pixel is the map's value there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError
from heatcli.graph.kinds import RECTIFIER
from heatcli.graph.layers import LAST, find_map, last_map, last_maps
from heatcli.methods.backward import GRADIENT
from heatcli.methods.method import ANY, ONE, Answer, Method
from heatcli.methods.path import mean_score
from heatcli.methods.perturbation import SMOOTH, hidden
from heatcli.methods.question import Question
from heatcli.rules.elementwise import Guided
from heatcli.rules.parameters import Parameters, text
from heatcli.rules.rule import Table

NAMED = "an operator, a layer of the artifact, or last: the last one with positions that the score depends on"


def layers_of_images(question: Question, layer: str) -> list[str]:
    """For each image, the operator that `layer` names; of `last`, one that the image's score depends on.

    Several layers may be the last one on some way to the output, such as one for each scale of a detector. Then the
    gradient of the score decides. Raises `UsageError`, also where a record would have to decide so.
    """
    found, several = find_map(question.graph, layer).name, last_maps(question.graph)
    if layer != LAST or len(several) < 2:
        return [found] * len(question.batch)
    if question.tape is not None and question.tape.fixed:
        names = ", ".join(op.name for op in several)
        raise UsageError(f"the last layer depends on the score here; name one that serves all with --layer: {names}")
    return [last_map(question.graph, names).name for names in question.depends_on(GRADIENT)]


def of_layers(names: Sequence[str], make: Callable[[str, list[int] | slice], Tensor]) -> Tensor:
    """Maps [N, 1, H, W], made for the images of each layer, with `make(layer, images)`."""
    apart = dict.fromkeys(names)
    if len(apart) == 1:
        return make(names[0], slice(None))
    images = {name: [i for i, one in enumerate(names) if one == name] for name in apart}
    maps = torch.cat([make(name, rows) for name, rows in images.items()])
    return maps[torch.tensor([i for rows in images.values() for i in rows]).argsort()]


def of_images(maps: Tensor, question: Question) -> Tensor:
    """Maps [N, K, h, w] of the batch's images, with its dtype and device. Further rows are copies of an image."""
    return maps[: len(question.batch)].to(question.batch)


def positions(maps: Tensor) -> tuple[int, ...]:
    """The axes of the positions of maps [N, K, h, w]."""
    return tuple(range(2, maps.dim()))


def enlarged(maps: Tensor, question: Question) -> Tensor:
    """Maps [N, K, h, w] at the image's size, [N, K, H, W]. Raises `UsageError` if their axes are not the input's."""
    sides = question.sides
    if maps.dim() != len(sides) + 2:
        raise UsageError(f"the layer's maps {tuple(maps.shape)} have other axes than the input")
    return functional.interpolate(maps, sides, mode=SMOOTH[len(sides)], align_corners=False)


def over_channels(cam: Tensor, question: Question) -> Tensor:
    """A map [N, 1, H, W] divided evenly over the channels of the image: [N, C, H, W]."""
    whole = (cam / question.channels).expand(-1, question.channels, *question.sides)
    return question.layout.back(whole).contiguous()


@dataclass(frozen=True)
class GradCam(Parameters):
    """ReLU(Σ_k w_k A_k), where w_k is the mean of ∂score/∂A_k over map A_k."""

    kind: ClassVar[str] = "cam"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ANY
    keeps_values: ClassVar[bool] = True

    layer: str = text(LAST, NAMED)

    @property
    def cost(self) -> str:
        """The backward run goes all the way to the image; another one finds the layer where several may be the last."""
        return "1 forward, 1 backward; 2 of each on detectors"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of every image."""
        return Answer(over_channels(self.cam(question, method.rules), question))

    def cam(self, question: Question, rules: Table) -> Tensor:
        """The map, [N, 1, H, W]. Raises `UsageError` if the layer has no maps."""
        names = layers_of_images(question, self.layer)
        walked = question.walk_batch(rules, books=False, keep=tuple(dict.fromkeys(names)))

        def of_layer(name: str, images: list[int] | slice) -> Tensor:
            """The map of some images, by one layer."""
            values, gradients = (
                of_images(kept[name], question)[images] for kept in (walked.values, walked.multipliers)
            )
            return enlarged(self.weighted(values, gradients).sum(1, keepdim=True).relu(), question)

        return of_layers(names, of_layer)

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """The weighted maps, from maps and gradients: [N, K, h, w] each."""
        return gradients.mean(positions(gradients), keepdim=True) * values


@dataclass(frozen=True)
class GradCamPlusPlus(GradCam):
    """w_k = Σ_ij α_ij ReLU(∂S/∂A_ij), α = g² / (2g² + Σ_ab A_ab · g³); 0 where g = 0."""

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """Equations 10 and 19, from maps and gradients: [N, K, h, w] each."""
        square = gradients**2
        below = 2 * square + values.sum(positions(values), keepdim=True) * gradients**3
        alpha = torch.where(below == 0, 0, square / torch.where(below == 0, 1, below))
        return (alpha * gradients.relu()).sum(positions(alpha), keepdim=True) * values


@dataclass(frozen=True)
class LayerCam(GradCam):
    """ReLU(Σ_k ReLU(∂score/∂A_k) A_k), with a weight for each position."""

    def weighted(self, values: Tensor, gradients: Tensor) -> Tensor:
        """Equation 5, from maps and gradients: [N, K, h, w] each."""
        return gradients.relu() * values


@dataclass(frozen=True)
class GuidedGradCam(GradCam):
    """Guided backpropagation times the Grad-CAM."""

    keeps_values: ClassVar[bool] = False

    @property
    def cost(self) -> str:
        """One walk for each factor."""
        return "2 forwards, 2 backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The product of guided backpropagation, per channel, and the map."""
        cam = self.cam(question, GRADIENT)
        layout, guided = question.layout, question.walk_batch(method.rules, books=False).multiplier
        return Answer(layout.back(layout.first(guided) * cam).contiguous())


@dataclass(frozen=True)
class ScoreCam(GradCam):
    """ReLU(Σ_k w_k A_k), w the softmax over k of the scores of the image masked by A_k (scaled to 0..1, enlarged).

    The mask blends the image into the baseline.
    """

    keeps_values: ClassVar[bool] = False
    takes: ClassVar[str] = ONE

    @property
    def cost(self) -> str:
        """No backward run."""
        return "1 forward; 1 forward a channel of the layer"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of every image."""
        heatmap = over_channels(self.cam(question, method.rules), question)
        return Answer(heatmap, score0=mean_score(question))

    def cam(self, question: Question, rules: Table) -> Tensor:
        """The map, [N, 1, H, W]."""

        def of_layer(name: str, images: list[int] | slice) -> Tensor:
            """The map of some images, by one layer."""
            values = of_images(question.values(name), question)
            count = values.shape[1]
            low, high = (end(positions(values), keepdim=True) for end in (values.amin, values.amax))
            scaled = (values - low) / torch.where(high == low, 1, high - low)

            def shown(rows: Tensor, which: Tensor) -> Tensor:
                """Images masked by one of their maps."""
                return hidden(question, rows, enlarged(scaled[rows, which][:, None], question))

            each = count if isinstance(images, slice) else [count * (i in images) for i in range(len(values))]
            weights = question.scores(question.points(each, shown)).reshape(len(values[images]), count).softmax(1)
            weights = weights.to(values).reshape(*weights.shape, *(1,) * (values.dim() - 2))
            return enlarged((weights * values[images]).sum(1, keepdim=True).relu(), question)

        return of_layers(layers_of_images(question, self.layer), of_layer)


def _method(name: str, summary: str, source: str, procedure: GradCam, baseline: str | None = None) -> Method:
    """A CAM method: by the gradient, and without a ledger that balances."""
    return Method(
        name=name,
        summary=summary,
        source=source,
        rules=GRADIENT,
        baseline=baseline,
        conserves=False,
        procedure=procedure,
    )


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
