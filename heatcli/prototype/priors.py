"""Priors: how likely a picture is, and in which space the search runs.

A prior maps the free variable of the search (a picture, or a code) to the network's input, and computes its log
density. All of it is differentiable torch code, so the gradient of the objective is one backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from heatcli.engine.forward import forward
from heatcli.errors import UsageError, unknown_name
from heatcli.graph.passes import DEFAULT
from heatcli.model.model import Model, load
from heatcli.prototype import rbm

Objective = Literal["score", "log-probability"]


class Prior(Protocol):
    """The interface of priors. `searches`: the free variable. `objective`, `restarts`: the defaults of the search."""

    name: ClassVar[str]
    searches: ClassVar[Literal["picture", "code"]]
    objective: ClassVar[Objective]
    restarts: ClassVar[int]

    def picture(self, free: Tensor) -> Tensor:
        """The network's input [N, C, H, W] for the free variable: pictures [N, C, H, W] or codes [N, d]."""
        ...

    def log_density(self, free: Tensor, picture: Tensor) -> Tensor:
        """The log density without its constant, times `weight`: [N]. `free`, `picture`: as for `picture`."""
        ...

    def details(self) -> dict[str, Any]:
        """The parameters of the prior, for the record."""
        ...


@dataclass(frozen=True, eq=False)
class L2:
    """−λ‖I‖² for the network's input I, which is the normalised picture (Simonyan et al. 2013, eq. 1)."""

    weight: float
    name: ClassVar[str] = "l2"
    searches: ClassVar[Literal["picture", "code"]] = "picture"
    objective: ClassVar[Objective] = "score"
    restarts: ClassVar[int] = 1

    def picture(self, free: Tensor) -> Tensor:
        """The free variable is the picture [N, C, H, W]."""
        return free

    def log_density(self, free: Tensor, picture: Tensor) -> Tensor:
        """−λ‖I‖²: [N], for a picture [N, C, H, W]."""
        return -self.weight * picture.square().flatten(1).sum(1)

    def details(self) -> dict[str, Any]:
        """The name and λ."""
        return {"name": self.name, "weight": self.weight}


@dataclass(frozen=True, eq=False)
class RBM:
    """λ·log p(x) of an expert, for pixels x in 0..1 (Montavon et al. 2018, sec. 3.1)."""

    weight: float
    expert: rbm.Expert
    model: Model
    file: Path
    name: ClassVar[str] = "rbm"
    searches: ClassVar[Literal["picture", "code"]] = "picture"
    objective: ClassVar[Objective] = "log-probability"
    restarts: ClassVar[int] = 8

    def picture(self, free: Tensor) -> Tensor:
        """The free variable is the picture [N, C, H, W]."""
        return free

    def log_density(self, free: Tensor, picture: Tensor) -> Tensor:
        """λ·log p(x): [N], for a picture [N, C, H, W]."""
        return self.weight * self.expert.log_density(self.model.pictures.pixels(picture))

    def details(self) -> dict[str, Any]:
        """λ and the expert's file."""
        return {"name": self.name, "weight": self.weight, "file": str(self.file)}


@dataclass(frozen=True, eq=False)
class Decoder:
    """−λ‖z‖² of a code z; the network's input is the decoded picture g(z) (Nguyen et al. 2016, eq. 2).

    With λ = ½ this is the log density of a standard normal code, the code distribution of adversarial autoencoders.
    """

    weight: float
    decoder: Model
    model: Model
    size: int
    name: ClassVar[str] = "decoder"
    searches: ClassVar[Literal["picture", "code"]] = "code"
    objective: ClassVar[Objective] = "log-probability"
    restarts: ClassVar[int] = 8

    def picture(self, free: Tensor) -> Tensor:
        """g(z) for codes [N, d], normalised as the network's input."""
        pixels = run(self.decoder, free).reshape(len(free), *self.model.shape)
        return self.model.pictures.normalise(pixels.to(self.model.device))

    def log_density(self, free: Tensor, picture: Tensor) -> Tensor:
        """−λ‖z‖²: [N], for codes `free` [N, d]."""
        return -self.weight * free.square().sum(1)

    def details(self) -> dict[str, Any]:
        """λ, the decoder's file, and the length of its codes."""
        return {"name": self.name, "weight": self.weight, "file": str(self.decoder.path), "code": self.size}


WEIGHTS = {"l2": 0.1, "rbm": 0.01, "decoder": 0.1}
FORMS = "l2, rbm:FILE, decoder:ARTIFACT"


def run(model: Model, batch: Tensor) -> Tensor:
    """The graph's differentiable output for `batch` [N, …], computed in the batch sizes that the artifact takes."""
    parts = []
    for index, n in model.network.batches(batch.shape):
        rows = batch[index]
        parts.append(forward(model.graph(rows.shape), rows, differentiable=True).output[:n])
    return torch.cat(parts)


def prior(model: Model, text: str, weight: float | None = None, code: int | None = None) -> Prior:
    """The prior for `l2`, `rbm:FILE` or `decoder:ARTIFACT`. `weight`: λ. `code`: the length of the decoder's codes.

    Raises `UsageError` for an unknown prior and for one with another shape than the model's input, `ModelError` for a
    decoder that cannot be loaded.
    """
    name, _, file = text.partition(":")
    if name not in WEIGHTS or bool(file) != (name != "l2"):
        raise (
            UsageError(f"prior {text!r} is not one of {FORMS}")
            if name in WEIGHTS
            else unknown_name("prior", text, FORMS.split(", "))
        )
    weight = WEIGHTS[name] if weight is None else weight
    if not 0 <= weight < float("inf"):
        raise UsageError(f"--weight {weight:g} is not allowed; it is a number ≥ 0")
    if name == "l2":
        return L2(weight)
    if name == "rbm":
        return RBM(weight, _fitting(rbm.read(Path(file)), model, Path(file)), model, Path(file))
    return _decoder(model, Path(file), weight, code)


def _fitting(expert: rbm.Expert, model: Model, path: Path) -> rbm.Expert:
    """The expert, if it fits the model's input. Raises `UsageError` otherwise."""
    channels, height, width = model.shape
    own = "×".join(map(str, expert.shape))
    fits = expert.shape == model.shape if expert.whole else (
        expert.shape[0] == channels and expert.shape[1] <= height and expert.shape[2] <= width
    )  # fmt: skip
    if not fits:
        raise UsageError(
            f"{path}: this expert judges {'pictures' if expert.whole else 'patches'} of {own}, "
            f"{model.path.name} takes {channels}×{height}×{width}; fit one that does with heatcli fit-expert"
        )
    return expert


def _decoder(model: Model, path: Path, weight: float, code: int | None) -> Decoder:
    """The decoder in a file. Raises `UsageError`, `ModelError`."""
    passes = tuple(name for name in DEFAULT if name != "logit")  # keeps a final sigmoid, which makes the pixels
    decoder = load(path, device=str(model.device), passes=passes, cache=model.capture.cache is not None)
    shape = decoder.pictures.declared
    size = code or (shape[1] if shape is not None and len(shape) == 2 else None) or decoder.input.channels
    if size is None:
        raise UsageError(f"{path}: does not say how long its codes are; give --code N")
    made = decoder.graph((decoder.batch_size or 1, size)).output_shape
    if made[1:] != model.shape and tuple(made[1:]) != (1, *model.shape) and made[1:] != (_count(model.shape),):
        raise UsageError(
            f"{path}: decodes to {'×'.join(map(str, made[1:]))}, {model.path.name} takes "
            + "×".join(map(str, model.shape))
        )
    return Decoder(weight, decoder, model, size)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
