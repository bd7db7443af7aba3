"""The report, `heatcli.report/1`: one JSON object an image. Its JSON Schema ships beside this file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import orjson
from numpy.typing import NDArray

NAME: Literal["heatcli.report/1"] = "heatcli.report/1"


class SequencePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sequence of a file: its name, and its letters, N where unknown."""

    name: str
    letters: str


class ImagePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The picture as it lay on disk; width and height after EXIF rotation.

    `path` is relative to the report's folder, or the file's name alone where the two lie far apart.
    For a sequence: the file, as wide as the sequence has letters and 1 high.
    `kind`: what it is where it is no picture. A signal or a table is as wide as it is long and 1 high; a volume has a
    `depth`, its first axis.
    `seen`: the part that the network saw: left, top, right, bottom in the picture's pixels. What lies beyond the
    picture is padding.
    """

    path: str
    sha256: str
    width: int
    height: int
    seen: tuple[float, float, float, float] | msgspec.UnsetType = msgspec.UNSET
    sequence: SequencePart | msgspec.UnsetType = msgspec.UNSET
    kind: Literal["signal", "volume", "table"] | msgspec.UnsetType = msgspec.UNSET
    depth: int | msgspec.UnsetType = msgspec.UNSET


class VerifiedPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the explained graph compares with the artifact on its own runtime, `against`, on inputs it was not made on.

    `error`: the largest difference of an output, as a share of the largest; null for one that is infinite. `agrees`:
    whether that is rounding; where it is false, the report explains another function than the artifact's.
    """

    against: str
    error: float | None
    agrees: bool


class ModelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The artifact, `path` as that of the image; `input` is how pixels became its input.

    `passes` are the rewrites its graph went through. `verified` is null where the artifact's own runtime
    cannot run it here.
    """

    path: str
    sha256: str
    format: Literal["torchscript", "onnx", "pt2", "module", "torchvision"]
    input: dict[str, Any]
    passes: list[str]
    verified: VerifiedPart | None = None


class MethodPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The method and all its parameters.

    `rules`: the table that ran, where it is not the method's own.
    `divides`: whether it divides the score: the `whole` of it, among pixels, biases and losses; a `part`, among pixels
    alone; or `no`, so that relevance has no unit.
    """

    name: str
    parameters: dict[str, Any]
    rules: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    divides: Literal["whole", "part", "no"] | msgspec.UnsetType = msgspec.UNSET


class BaselinePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the image was compared with: `none`, or a baseline and what it was made with; `pool`: several `images`."""

    name: str
    sigma: float | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET
    frequencies: list[float] | msgspec.UnsetType = msgspec.UNSET
    count: int | msgspec.UnsetType = msgspec.UNSET
    images: int | msgspec.UnsetType = msgspec.UNSET


class BoxPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A box of a detector, in the picture's pixels."""

    left: float
    top: float
    right: float
    bottom: float


class TargetPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The score explained. For a difference A-B, `minus` is B, and score and probability are differences.

    `probability` is null for a single output that ends in no activation (a regression).

    `quantity` is `logit` where a final softmax, log-softmax or sigmoid was left out, `centred-logit` where the
    mean over classes was subtracted too, `probability` where it was kept, and `output` where there was none.
    `path`: the sum of the best score of each position, not of class `index`, which wins most often. `nowhere`: the
    class wins at no position of a dense output; its score is that of the one position where it is highest.
    `expected`: the label that should come first, and `predicted`, the one that does, where somebody said so; where they
    differ, predicted less expected is explained.
    `unit`: of a regression. `boxes`: of a detector, those whose score is explained, and `box` the number of a single
    one, the best being 0. `quantity` is `coordinate` where the score is one of its numbers, as the model returns it.
    Of a pair, `quantity` is the similarity of the two embeddings, `cosine` or `dot`, and the report has a `pair`.
    """

    index: int
    label: str | None
    score: float
    probability: float | None
    quantity: Literal["logit", "centred-logit", "probability", "output", "coordinate", "cosine", "dot"]
    minus: int | msgspec.UnsetType = msgspec.UNSET
    path: bool | msgspec.UnsetType = msgspec.UNSET
    nowhere: bool | msgspec.UnsetType = msgspec.UNSET
    expected: str | msgspec.UnsetType = msgspec.UNSET
    predicted: str | msgspec.UnsetType = msgspec.UNSET
    unit: str | msgspec.UnsetType = msgspec.UNSET
    box: int | msgspec.UnsetType = msgspec.UNSET
    boxes: list[BoxPart] | msgspec.UnsetType = msgspec.UNSET


class LedgerPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """output − output_baseline = pixels + biases + absorbed + unexplained.

    `output` is the score, or of a map of some channels their share of it.
    """

    output: float
    output_baseline: float
    pixels: float
    biases: float
    absorbed: float
    unexplained: float
    relative_error: float


class ChannelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel of a layer, and its share of the score."""

    channel: int
    relevance: float


class ConceptPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The map shows what flows through `channels` of `layer` alone; the ledger divides their share of the score.

    `channels`: empty for all. `layer_relevance`: the share of all channels of the layer, without what passes it by.
    `strongest`: the channels with the largest shares, for or against.
    """

    layer: str
    channels: list[int]
    layer_relevance: float
    strongest: list[ChannelPart]


class BiasPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bias of the network: what each of its elements took; `values` are left out of reports that keep totals."""

    name: str
    operator: str
    size: int
    total: float
    positive: float
    negative: float
    values: list[float] | msgspec.UnsetType = msgspec.UNSET


class PixelsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relevance a pixel of the network's input, summed over channels: here, in `file`, or in neither.

    Of a signal each channel has its own: [channels, samples]. Of a table: [1, features]. Of a volume: [depth, height,
    width].
    """

    shape: tuple[int, ...]
    total: float
    positive: float
    negative: float
    values: list[list[float | list[float]]] | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET


class FilesPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of the files written beside the report.

    `overlay`: the figure, of whatever kind, where there is one. `arrays`: the map alone, float32 [C, H, W].
    `pair_pixels`, `pair_arrays`: the same of the other picture of a pair.
    """

    overlay: str | msgspec.UnsetType = msgspec.UNSET
    pixels: str | msgspec.UnsetType = msgspec.UNSET
    arrays: str | msgspec.UnsetType = msgspec.UNSET
    pair_pixels: str | msgspec.UnsetType = msgspec.UNSET
    pair_arrays: str | msgspec.UnsetType = msgspec.UNSET


class FigurePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the figure was drawn: its kind, which relevance of a pixel gets the full colour, and where it is cut off.

    `by`: why it is that: `percentile` `clip` of |relevance|; `share`: more, because |relevance| is less than 1 % of the
    score in all; `run`: one scale for several maps; `given`.
    """

    kind: str
    full: float
    cut: float
    by: Literal["percentile", "share", "run", "given"]
    clip: float


class SecondsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time taken: load once a run; forward and backward of the batch, divided by its images; write of this image."""

    load: float
    forward: float
    backward: float
    write: float


class ValuePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number of an input beside the picture, and its relevance."""

    name: str
    value: float
    relevance: float


class InputPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input beside the picture whose values the sidecar names; `biases` book its relevance under its name."""

    name: str
    values: list[ValuePart]


class PairPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The other picture of a pair, and the same similarity divided on it: its own pixels, biases and ledger.

    The embedding of the report's `image` is a constant here, as this picture's embedding is there. Of a network that
    takes two pictures, the report has one ledger for both, whose `pixels` are those of both, and biases once.
    """

    image: ImagePart
    ledger: LedgerPart | msgspec.UnsetType = msgspec.UNSET
    biases: list[BiasPart] | msgspec.UnsetType = msgspec.UNSET
    pixels: PixelsPart


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole report."""

    schema: Literal["heatcli.report/1"]
    version: str
    image: ImagePart
    model: ModelPart
    method: MethodPart
    baseline: BaselinePart
    target: TargetPart
    ledger: LedgerPart
    biases: list[BiasPart]
    pixels: PixelsPart
    files: FilesPart
    seconds: SecondsPart
    figure: FigurePart | msgspec.UnsetType = msgspec.UNSET
    concept: ConceptPart | msgspec.UnsetType = msgspec.UNSET
    pair: PairPart | msgspec.UnsetType = msgspec.UNSET
    inputs: list[InputPart] | msgspec.UnsetType = msgspec.UNSET


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    schema = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": NAME, **schema}


def _numbers(array: NDArray[Any]) -> msgspec.Raw:
    """An array as lists; a report has a number a pixel, and orjson writes them several times as fast.

    Raises `TypeError` for anything else that msgspec does not know.
    """
    return msgspec.Raw(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


_encoded = msgspec.json.Encoder(enc_hook=_numbers).encode_lines


def encode(report: Report) -> bytes:
    """The report as one line of JSON, newline at the end; its lists may be arrays, C-contiguous."""
    return _encoded([report])


if __name__ == "__main__":
    import json

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
