"""The report, `heatcli.report/1`: a JSON object per image. The JSON Schema lies beside this file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import orjson
from numpy.typing import NDArray

NAME: Literal["heatcli.report/1"] = "heatcli.report/1"


class SequencePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sequence of a file: its name and its letters; an unknown letter is N."""

    name: str
    letters: str


class ImagePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The picture file. `width` and `height` are those after EXIF rotation.

    `path`: relative to the report's folder; the name alone if the two are far apart.
    `sequence`: for a sequence of a file; `width` is then the number of letters, and `height` is 1.
    `kind`: for inputs other than pictures. The `width` of a signal or a table is its length, and its `height` is 1. A
    volume also has a `depth`, its first axis.
    `seen`: the part that the network saw: left, top, right, bottom in the picture's pixels. Values outside the picture
    mean padding.
    """

    path: str
    sha256: str
    width: int
    height: int
    seen: tuple[float, float, float, float] | msgspec.UnsetType = msgspec.UNSET
    sequence: SequencePart | msgspec.UnsetType = msgspec.UNSET
    kind: Literal["signal", "volume", "table", "tokens"] | msgspec.UnsetType = msgspec.UNSET
    depth: int | msgspec.UnsetType = msgspec.UNSET


class VerifiedPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The comparison of the explained graph with the artifact in its own runtime, `against`, on fresh inputs.

    `error`: the largest difference of an output, divided by the largest output; null if it is infinite. `agrees`:
    whether the difference is only rounding. If false, the report explains another function than the artifact's.
    """

    against: str
    error: float | None
    agrees: bool


class ModelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model file. `path`: as that of the image. `input`: how pixels become the network's input.

    `passes`: the rewrites of the graph. `verified`: null if the artifact's own runtime cannot run it on this machine.
    """

    path: str
    sha256: str
    format: Literal["torchscript", "onnx", "pt2", "module", "torchvision"]
    input: dict[str, Any]
    passes: list[str]
    verified: VerifiedPart | None = None


class MethodPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The method and all its parameters.

    `rules`: the table of rules, if it differs from the method's own.
    `divides`: whether the method divides the score: `whole`, among pixels, biases and losses; `part`, among pixels
    only; `no`, and relevance has no unit.
    """

    name: str
    parameters: dict[str, Any]
    rules: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    divides: Literal["whole", "part", "no"] | msgspec.UnsetType = msgspec.UNSET


class BaselinePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The baseline that the image is compared with: `none`, or its name and parameters. `images`: of a `pool`.

    `token`: that every token is compared with.
    """

    name: str
    sigma: float | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET
    frequencies: list[float] | msgspec.UnsetType = msgspec.UNSET
    count: int | msgspec.UnsetType = msgspec.UNSET
    images: int | msgspec.UnsetType = msgspec.UNSET
    token: int | msgspec.UnsetType = msgspec.UNSET


class BoxPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A box of a detector, in the picture's pixels."""

    left: float
    top: float
    right: float
    bottom: float


class TargetPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The explained score. For a difference A-B, `minus` is B, and `score` and `probability` are differences.

    `probability`: null for a single output without a final activation (a regression).
    `quantity`: `logit` if a final softmax, log-softmax or sigmoid was left out; `centred-logit` if the mean over the
    classes was also subtracted; `probability` if the activation was kept; `output` if there was none; `coordinate` if
    the score is a coordinate of a box, as the model returns it.
    `path`: the score is the sum of the best score of each position; `index` is the class that wins most often.
    `nowhere`: the class wins at no position of a dense output; its score is that of the position where it is highest.
    `expected`: the label that the user expects, and `predicted`, the label that the model gives. If they differ, the
    score is that of `predicted` less that of `expected`.
    `unit`: of a regression. `boxes`: the explained boxes of a detector. `box`: the number of a single explained box;
    0 is the best one.
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

    `output`: the score; for a map of some channels, their share of the score.
    """

    output: float
    output_baseline: float
    pixels: float
    biases: float
    absorbed: float
    unexplained: float
    relative_error: float


class ChannelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel of a layer, its share of the score, and its name if it has one."""

    channel: int
    relevance: float
    name: str | msgspec.UnsetType = msgspec.UNSET


class ConceptPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The map shows only relevance that flows through `channels` of `layer`; the ledger divides their share.

    `channels`: empty for all. `layer_relevance`: the share of all channels of the layer. Relevance that bypasses the
    layer does not count. `strongest`: the channels with the largest shares, positive or negative.
    """

    layer: str
    channels: list[int]
    layer_relevance: float
    strongest: list[ChannelPart]


class BiasPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The relevance of a bias of the network. `values`: of each element; left out if the report keeps only totals."""

    name: str
    operator: str
    size: int
    total: float
    positive: float
    negative: float
    values: list[float] | msgspec.UnsetType = msgspec.UNSET


class BandPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The relevance of one band of a picture: its number from 1, its name, if the sidecar gives one, and its sums."""

    band: int
    total: float
    positive: float
    negative: float
    name: str | msgspec.UnsetType = msgspec.UNSET


class PixelsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The relevance of each pixel of the network's input, summed over channels: in `values`, in `file`, or in neither.

    Shape: [height, width]; [channels, samples] for a signal, [1, features] for a table, [1, tokens] for tokens, [depth,
    height, width] for a volume. `bands`: of a picture with other channels than one or three, what each gave, the
    largest first.
    """

    shape: tuple[int, ...]
    total: float
    positive: float
    negative: float
    values: list[list[float | list[float]]] | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET
    bands: list[BandPart] | msgspec.UnsetType = msgspec.UNSET


class FilesPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names of the files beside the report.

    `overlay`: the figure, of any kind. `pixels`: an `.npz` with the map. `arrays`: the map alone, float32 [C, H, W].
    `pair_pixels`, `pair_arrays`: the same of the other picture of a pair.
    """

    overlay: str | msgspec.UnsetType = msgspec.UNSET
    pixels: str | msgspec.UnsetType = msgspec.UNSET
    arrays: str | msgspec.UnsetType = msgspec.UNSET
    pair_pixels: str | msgspec.UnsetType = msgspec.UNSET
    pair_arrays: str | msgspec.UnsetType = msgspec.UNSET


class FigurePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The kind of the figure and its colour scale, in relevance per pixel.

    `full`: the relevance of the full colour. `cut`: the relevance from which colours do not change.
    `by`: what decided `full`: `percentile`, the percentile `clip` of |relevance|; `share`, more than the percentile,
    because the sum of |relevance| is less than 1 % of the score; `run`, one scale for several maps; `given`, the user.
    `bands`: of a picture with several, those that are shown, from 1; absent for the mean of all.
    """

    kind: str
    full: float
    cut: float
    by: Literal["percentile", "share", "run", "given"]
    clip: float
    bands: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class SecondsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times in seconds: `load` of the model; `forward` and `backward` of the batch per image; `write` of this image."""

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


def named(index: int, label: str | None, quantity: str, probability: object) -> str:
    """What an output is called: its label, else `class 3`, or `number 3` of a regression or an embedding.

    `quantity`, `probability`: as in `TargetPart`. Numbers that are no classes have neither logits nor probabilities.
    """
    if label is not None:
        return label
    return f"{'number' if probability is None and quantity == 'output' else 'class'} {index}"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    schema = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": NAME, **schema}


def _numbers(array: NDArray[Any]) -> msgspec.Raw:
    """An array as lists, written by orjson, which is several times as fast. A report has a number per pixel.

    Raises `TypeError` for other types that msgspec does not know.
    """
    return msgspec.Raw(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


_encoded = msgspec.json.Encoder(enc_hook=_numbers).encode_lines


def encode(report: Report) -> bytes:
    """The report as a line of JSON with a final line break. Its lists may also be C-contiguous numpy arrays."""
    return _encoded([report])


if __name__ == "__main__":
    import json

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
