"""Activation maximisation: gradient ascent on the score of a class under a prior (Simonyan et al. 2013, sec. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import ImageError, ModelError, UsageError
from heatcli.graph.outputs import is_sigmoid, quantity
from heatcli.images.baselines import gaussian_blur
from heatcli.images.mean import read_mean
from heatcli.model.model import Model
from heatcli.prototype.priors import Objective, Prior, run

STARTS = ("noise", "zeros", "mean", "mean:FILE")
NOISE = 0.1  # standard deviation of the noise at the start, in units of the network's input


@dataclass(frozen=True)
class Search:
    """The parameters of a search. All regularisers are off by default.

    `objective`: what is maximised; None for the prior's default. `restarts`: the number of searches per class, each
    from other noise, of which the best is kept; None for the prior's default. `rate`: the first step of Adam, in units
    of the network's input (or of the code); the rate falls to zero by a cosine. `start`: where the search starts.
    `tv`: the weight of total variation. `jitter`: the picture is shifted at random by at most this many pixels before
    each step. `blur`: the standard deviation in pixels of a blur after every `blur_every` steps. `scales`: the search
    starts at 1/2^(scales − 1) of the size. `clip`: keep pixels in 0..1.
    """

    objective: Objective | None = None
    restarts: int | None = None
    steps: int = 256
    rate: float = 0.05
    start: str = "noise"
    tv: float = 0.0
    jitter: int = 0
    blur: float = 0.0
    blur_every: int = 4
    scales: int = 1
    clip: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class State:
    """The state of N searches after `step` steps.

    `picture` [N, C, H, W]: the network's input. `score`, `log_probability`, `prior` (the weighted log density), `norm`
    (of the picture) and `goal` (what is maximised): each [N].
    """

    step: int
    picture: Tensor
    score: Tensor
    log_probability: Tensor
    prior: Tensor
    norm: Tensor
    goal: Tensor


def ascend(model: Model, targets: Tensor, prior: Prior, how: Search) -> Iterator[State]:
    """Search for the classes `targets`, int64 [N], at once. Yields the state at the start and after every step.

    Raises `UsageError` for parameters that are not valid, `ModelError` if the search diverges or the model's output has
    several positions.
    """
    validate(model, prior, how)
    free = start(model, targets, prior, how)
    dice = torch.Generator().manual_seed(how.seed)
    objective = how.objective or prior.objective
    done = 0
    for octave, steps in enumerate(_steps_at_scales(how.steps, how.scales)):
        free = _at_scale(model, free, how.scales - 1 - octave).detach().requires_grad_()
        optimiser = torch.optim.Adam([free], lr=how.rate, maximize=True)
        for _ in range(steps):
            optimiser.param_groups[0]["lr"] = how.rate * (1 + math.cos(math.pi * done / how.steps)) / 2
            state, goal = _evaluate(model, free, targets, prior, how, objective, dice, done)
            yield state
            (free.grad,) = torch.autograd.grad(goal.sum(), [free])
            optimiser.step()
            done += 1
            with torch.no_grad():
                if how.blur and done % how.blur_every == 0:
                    free.copy_(gaussian_blur(free, how.blur * free.shape[-1] / model.shape[-1]))
                if how.clip:
                    free.copy_(model.pictures.normalise(model.pictures.pixels(free).clamp(0, 1)))
    with torch.no_grad():
        free = _at_scale(model, free, 0) if prior.searches == "picture" else free
    yield _evaluate(model, free.detach(), targets, prior, how, objective, None, done)[0]


def _evaluate(
    model: Model, free: Tensor, targets: Tensor, prior: Prior, how: Search, objective: Objective,
    dice: torch.Generator | None, step: int,
) -> tuple[State, Tensor]:  # fmt: skip
    """The state at `free`, and the differentiable goal [N]. Without `dice` the picture is not shifted."""
    whole = _at_scale(model, free, 0) if prior.searches == "picture" else free
    picture = prior.picture(whole)
    seen = picture
    if how.jitter and dice is not None:
        shift = torch.randint(-how.jitter, how.jitter + 1, (2,), generator=dice).tolist()
        seen = torch.roll(picture, shift, (-2, -1))
    output = run(model, seen.to(model.pictures.dtype))
    if output.dim() != 2:
        raise ModelError(f"{model.path}: its output has the shape {tuple(output.shape)}; a prototype is of one score")
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"{model.path}: the search diverged at step {step}; give a smaller --rate")
    score = output.gather(1, targets[:, None])[:, 0]
    chance = log_probability(model, output, targets, len(seen))
    likely = prior.log_density(whole, picture)
    goal = (score if objective == "score" else chance) + likely
    if how.tv:
        goal = goal - how.tv * total_variation(model.pictures.pixels(picture))
    norm = picture.flatten(1).norm(dim=1)
    return State(step, *(t.detach() for t in (picture, score, chance, likely, norm, goal))), goal


def log_probability(model: Model, output: Tensor, targets: Tensor, n: int) -> Tensor:
    """log p(c|x) [N], differentiable: by the artifact's final activation, or softmax if there is none.

    `output`: [N, classes]. `targets`: int64 [N]. `n`: the batch size.
    """
    graph = model.graph((model.batch_size or n, *model.shape))
    if quantity(graph) == "probability":
        chances = output.clamp_min(torch.finfo(output.dtype).tiny).log()
    elif is_sigmoid(graph):
        chances = functional.logsigmoid(output)
    else:
        chances = output.log_softmax(1)
    return chances.gather(1, targets[:, None])[:, 0]


def total_variation(pixels: Tensor) -> Tensor:
    """The sum of |differences of neighbouring pixels| of pictures [N, C, H, W]: [N]."""
    down, across = pixels.diff(dim=-2), pixels.diff(dim=-1)
    return down.abs().flatten(1).sum(1) + across.abs().flatten(1).sum(1)


def validate(model: Model, prior: Prior, how: Search) -> None:
    """Raise `UsageError` for values out of range, and for options that a search in codes does not have."""
    numbers = (
        ("steps", how.steps, 1), ("scales", how.scales, 1), ("jitter", how.jitter, 0), ("blur", how.blur, 0),
        ("blur-every", how.blur_every, 1), ("tv", how.tv, 0),
    )  # fmt: skip
    if how.restarts is not None and (how.restarts < 1 or (how.restarts > 1 and how.start != "noise")):
        raise UsageError(f"--restarts {how.restarts} is not allowed; it is at least 1, and 1 unless --start is noise")
    for name, value, least in numbers:
        if not least <= value < float("inf"):
            raise UsageError(f"--{name} {value:g} is not allowed; it is at least {least}")
    if not 0 < how.rate < float("inf"):
        raise UsageError(f"--rate {how.rate:g} is not allowed; it is a number above 0")
    if how.objective not in (None, "score", "log-probability"):
        raise UsageError(f"--objective {how.objective} is not known; use score, log-probability")
    if how.scales > 1 and min(model.shape[1:]) >> (how.scales - 1) < 4:
        raise UsageError(f"--scales {how.scales} is too many for pictures of {'×'.join(map(str, model.shape[1:]))}")
    if prior.searches == "code":
        for name, given in (("scales", how.scales > 1), ("blur", how.blur > 0), ("clip", how.clip)):
            if given:
                raise UsageError(f"--{name} changes the picture; prior {prior.name} searches in codes")


def start(model: Model, targets: Tensor, prior: Prior, how: Search) -> Tensor:
    """The free variable at the start: pictures [N, C, H, W] or codes [N, d]. Raises `UsageError`.

    Noise depends on the seed, the class, and how often the class occurred before, but not on the other classes.
    """
    n, device = len(targets), model.device
    shape = model.shape if prior.searches == "picture" else (prior.size,)  # type: ignore[attr-defined]
    if how.start == "zeros":
        return torch.zeros(n, *shape, device=device)
    if how.start == "noise":
        width = NOISE if prior.searches == "picture" else 1.0
        sources: dict[int, torch.Generator] = {}
        rows = []
        for target in targets.tolist():
            source = sources.setdefault(target, torch.Generator().manual_seed(how.seed * 100_003 + target))
            rows.append(width * torch.randn(shape, generator=source))
        return torch.stack(rows).to(device)
    if prior.searches == "code":
        raise UsageError(f"--start {how.start} is a picture; prior {prior.name} searches in codes: use noise or zeros")
    return model.pictures.normalise(_picture(model, how.start).to(device)).expand(n, *shape).clone()


def _picture(model: Model, text: str) -> Tensor:
    """The pixels [1, C, H, W] of the mean image or of an image file. Raises `UsageError`."""
    name, _, file = text.partition(":")
    if name == "mean":
        path = Path(file) if file else model.pictures.mean_file
        if path is None:
            raise UsageError(f"{model.path}: its sidecar names no mean image; give --start mean:FILE")
        mean = torch.from_numpy(read_mean(path))[None]
        if mean.shape[1] != model.shape[0]:
            raise UsageError(f"{path}: the mean image has {mean.shape[1]} channels, the model takes {model.shape[0]}")
        return functional.interpolate(mean, model.shape[1:], mode="bilinear", antialias=True)
    try:
        return model.pictures.pixels(model.preprocess([model.pictures.reader.picture(Path(text))])).cpu()
    except ImageError as error:
        raise UsageError(f"--start is none of {', '.join(STARTS)}, nor an image: {error}") from error


def _steps_at_scales(steps: int, scales: int) -> list[int]:
    """The number of steps at each scale; the last scale has the remainder."""
    each = steps // scales
    return [*[each] * (scales - 1), steps - each * (scales - 1)]


def _at_scale(model: Model, free: Tensor, halvings: int) -> Tensor:
    """Pictures resized to the network's size divided by 2^halvings; codes [N, d] stay as they are."""
    if free.dim() < 4:
        return free
    size = [side >> halvings for side in model.shape[1:]]
    if list(free.shape[2:]) == size:
        return free
    shrinks = size[0] < free.shape[-2]
    return functional.interpolate(free, size, mode="bilinear", align_corners=False, antialias=shrinks)
