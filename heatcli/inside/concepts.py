"""What the channels of a layer stand for, over a folder of pictures (Achtibat et al. 2023, CRP and RelMax).

For each channel: the pictures that it was most relevant for, the pictures that excite it most, how much each class
uses it, and which channels of a lower layer its relevance comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from heatcli.errors import HeatcliError, UsageError
from heatcli.graph.layers import Layer, one_layer
from heatcli.images.sheet import Block, png, sheet
from heatcli.inside.activations import FeatureMaps, activations, asked
from heatcli.inside.top import Best, Hit, batches, checked, cropped, strongest, tiles
from heatcli.methods.concept import by_channel, divided, names_of, sources
from heatcli.methods.method import Method
from heatcli.model.model import Model
from heatcli.system.files import make_folder, seen_from, write_atomically, write_json

CLASSES = 5  # of a channel in the record
SOURCES = 8  # of a channel in the record
TRIMMED = 0.1  # share of |gradient| cut off at each side of a crop, which so shows what matters most


@dataclass(frozen=True)
class ConceptsRequest:
    """What to look at.

    `layer`: its name, as `--layer` takes it. `method`, `target`, `baseline`: of the relevance, as in `heatcli.explain`.
    `channels`: those that are shown; empty for the `top` most used. `pictures`: how many of each channel. `below`: a
    lower layer, for the sources of each channel. `out`: the folder of the files, from which the record names pictures.
    """

    layer: str
    method: Method
    target: str | None = None
    baseline: str | None = None
    channels: tuple[int, ...] = ()
    top: int = 12
    pictures: int = 8
    below: str | None = None
    batch_size: int = 8
    out: Path = Path("concepts")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a picture: `box`, left, top, right, bottom.

    `strength`: the channel's share of |relevance|, or its activation.
    """

    image: str
    strength: float
    box: tuple[int, int, int, int]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A channel of the lower layer. `share`: of the relevance of the channel above, −1 to 1."""

    channel: int
    share: float
    name: str | msgspec.UnsetType = msgspec.UNSET


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel of the layer.

    `share`: the mean of |R_c| / Σ|R| over all pictures, of the relevance R of the layer's channels. `classes`: the mean
    of R_c / Σ|R| over the pictures explained as that class, the largest first. `relevant`, `excited`: the pictures of
    the largest R_c / Σ|R|, and of the largest activation, if they are above 0. `sources`: over the `relevant` pictures.
    """

    channel: int
    share: float
    classes: dict[str, float]
    name: str | msgspec.UnsetType = msgspec.UNSET
    relevant: list[Part] = []
    excited: list[Part] = []
    sources: list[Source] = []


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All channels of a layer, the most used first; those that were chosen have pictures."""

    schema: str = "heatcli.concepts/1"
    model: str
    layer: str
    method: str
    baseline: str
    pictures: int
    classes: dict[str, int]
    below: str | msgspec.UnsetType = msgspec.UNSET
    channels: list[Channel]


@dataclass(eq=False)
class Use:
    """Sums over pictures of the channels' shares: of |share| over all, and of the share by class. float64 [C] each."""

    magnitude: Tensor
    classes: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, shares: Tensor, labels: Sequence[str]) -> None:
        """Pictures with `shares` [N, C], explained as `labels`."""
        self.magnitude += shares.abs().sum(0)
        for row, label in zip(shares, labels, strict=True):
            self.classes[label] = self.classes.get(label, 0) + row
            self.counts[label] = self.counts.get(label, 0) + 1

    def of(self, channel: int) -> dict[str, float]:
        """The mean share of a channel in the classes that it gives most to or takes most from."""
        means = {label: float(total[channel]) / self.counts[label] for label, total in self.classes.items()}
        return dict(sorted(means.items(), key=lambda item: -abs(item[1]))[:CLASSES])


def concepts(
    model: Model, paths: Iterable[Path], request: ConceptsRequest, failed: list[HeatcliError]
) -> tuple[Found, list[Block]]:
    """The channels of a layer over pictures, and what the sheet shows of them.

    In memory are `batch_size` pictures and the names of all. The errors of pictures that cannot be read are appended to
    `failed`. Raises `UsageError` for a layer or channel that is not there, for methods that do not divide the score in
    one walk, if no picture can be read, and if no channel that is shown has any; `ModelError`.
    """
    divided(request.method)
    model.pictures.need_pictures()
    graph = model.graph((model.batch_size or 1, *model.shape))
    layer = one_layer(graph, request.layer, model.path)
    below = None if request.below is None else one_layer(graph, request.below, model.path, "--below")
    count = checked(layer, request.channels, model)
    relevant, excited = Best(request.pictures), Best(request.pictures)
    use, known = Use(torch.zeros(count, dtype=torch.float64)), list[Path]()
    for pictures, batch in batches(model, paths, request.batch_size, failed):
        (maps,), goal = activations(model, batch, (layer.name,), request.method, request.target, request.baseline)
        shares = _shares(maps)
        use.add(shares, [model.called(index) for index in goal.index.tolist()])
        relevant.add(shares, strongest(maps.relevance)[1], len(known))
        excited.add(*strongest(maps.values), len(known))
        known += [Path(picture.path) for picture in pictures]
    if not known:
        raise UsageError("no image could be read, so there are no concepts")
    order = use.magnitude.argsort(descending=True, stable=True).tolist()
    chosen = request.channels or tuple(order[: request.top])
    names = names_of(model, graph, layer)
    lower = {} if below is None else names_of(model, graph, below)
    channels, blocks = [], []
    for channel in dict.fromkeys([*chosen, *order]):
        found = Channel(
            channel=channel, share=float(use.magnitude[channel]) / len(known), classes=use.of(channel),
            name=names.get(channel, msgspec.UNSET),
        )  # fmt: skip
        if channel in chosen:
            hits = [cropped(model, layer, best.hits(channel, known), TRIMMED) for best in (relevant, excited)]
            found = msgspec.structs.replace(
                found, relevant=[_part(hit, request.out) for hit in hits[0]],
                excited=[_part(hit, request.out) for hit in hits[1]],
                sources=[] if below is None or not hits[0] else _sources(model, request, layer, below, hits[0], lower),
            )  # fmt: skip
            blocks += _blocks(model, found, hits)
        channels.append(found)
    if not blocks:
        raise UsageError(f"layer {layer.name}: none of these channels has relevance or is excited on any picture")
    return Found(
        model=model.named_in(request.out), layer=layer.name, method=request.method.name,
        baseline=request.baseline or request.method.baseline or "none", pictures=len(known),
        classes=dict(sorted(use.counts.items())), below=msgspec.UNSET if below is None else below.name,
        channels=channels,
    ), blocks  # fmt: skip


def _shares(maps: FeatureMaps) -> Tensor:
    """The share of each channel in the layer's |relevance|, float64 [N, C]; 0 where there is none."""
    relevance = by_channel(maps.relevance).cpu()
    whole = relevance.abs().sum(1, keepdim=True)
    return relevance / whole.where(whole > 0, 1.0)


def _part(hit: Hit, out: Path) -> Part:
    return Part(image=seen_from(out, hit.path), strength=hit.strength, box=hit.box)


def _sources(
    model: Model, request: ConceptsRequest, layer: Layer, below: Layer, hits: Sequence[Hit], names: dict[int, str]
) -> list[Source]:
    """The channels of `below` that gave most to a channel of `layer`, over the pictures of its hits."""
    channel, given = (hits[0].channel,), list[Tensor]()
    for _, batch in batches(model, [hit.path for hit in hits], request.batch_size, []):
        batch = batch.to(model.device, model.pictures.dtype)
        for index, n in model.network.batches(batch.shape):
            with model.network.holding(batch[index]):
                question, _ = asked(model, batch[index], request.method, request.target, request.baseline)
                upper, lower = (one_layer(question.graph, one.name, model.path) for one in (layer, below))
                given.append(sources(question, request.method, upper, channel, lower)[:n].cpu())
    each = torch.cat(given)
    shares = each.sum(0) / (float(each.abs().sum()) or 1.0)
    order = shares.abs().argsort(descending=True, stable=True)[:SOURCES].tolist()
    return [Source(channel=c, share=float(shares[c]), name=names.get(c, msgspec.UNSET)) for c in order]


def _blocks(model: Model, channel: Channel, hits: Sequence[Sequence[Hit]]) -> list[Block]:
    """Two rows of the sheet: the parts of pictures that the channel was relevant for, and those that excite it."""
    name = f"channel {channel.channel}" + (f" ({channel.name})" if isinstance(channel.name, str) else "")
    used = ", ".join(f"{label} {share:+.1%}" for label, share in channel.classes.items())
    titles = f"{name}: {channel.share:.1%} of |relevance|; {used}", f"{name}: most excited by"
    return [Block(title, tiles(model, row)) for title, row in zip(titles, hits, strict=True) if row]


def write(request: ConceptsRequest, stem: str, found: Found, blocks: Sequence[Block]) -> tuple[Path, Path]:
    """Write the record and the sheet; returns their paths. Raises `UsageError`."""
    make_folder(request.out)
    table = request.out / f"{stem}.{found.layer}.concepts.json"
    picture = table.with_suffix(".png")
    write_atomically(picture, png(sheet(blocks, request.pictures)))
    write_json(table, found)
    return table, picture
