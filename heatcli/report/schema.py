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

    For a sequence: the file, as wide as the sequence has letters and 1 high.
    """

    path: str
    sha256: str
    width: int
    height: int
    sequence: SequencePart | msgspec.UnsetType = msgspec.UNSET


class VerifiedPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the explained graph compares with the artifact on its own runtime, `against`, on inputs it was not made on.

    `error`: the largest difference of an output, as a share of the largest; null for one that is infinite. `agrees`:
    whether that is rounding; where it is false, the report explains another function than the artifact's.
    """

    against: str
    error: float | None
    agrees: bool


class ModelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The artifact; `input` is how pixels became its input, `passes` the rewrites its graph went through.

    `verified` is null where the artifact's own runtime cannot run it here.
    """

    path: str
    sha256: str
    format: Literal["torchscript", "onnx", "pt2"]
    input: dict[str, Any]
    passes: list[str]
    verified: VerifiedPart | None = None


class MethodPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The method and all its parameters."""

    name: str
    parameters: dict[str, Any]


class BaselinePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the image was compared with: `none`, or a baseline and what it was made with; `pool`: several `images`."""

    name: str
    sigma: float | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET
    frequencies: list[float] | msgspec.UnsetType = msgspec.UNSET
    count: int | msgspec.UnsetType = msgspec.UNSET
    images: int | msgspec.UnsetType = msgspec.UNSET


class TargetPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The score explained. For a difference A-B, `minus` is B, and score and probability are differences.

    `probability` is null for a single output that ends in no activation (a regression).

    `quantity` is `logit` where a final softmax, log-softmax or sigmoid was left out, `centred-logit` where the
    mean over classes was subtracted too, `probability` where it was kept, and `output` where there was none.
    `path`: the sum of the best score of each position, not of class `index`, which wins most often. `nowhere`: the
    class wins at no position of a dense output; its score is that of the one position where it is highest.
    """

    index: int
    label: str | None
    score: float
    probability: float | None
    quantity: Literal["logit", "centred-logit", "probability", "output"]
    minus: int | msgspec.UnsetType = msgspec.UNSET
    path: bool | msgspec.UnsetType = msgspec.UNSET
    nowhere: bool | msgspec.UnsetType = msgspec.UNSET


class LedgerPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """output − output_baseline = pixels + biases + absorbed + unexplained."""

    output: float
    output_baseline: float
    pixels: float
    biases: float
    absorbed: float
    unexplained: float
    relative_error: float


class BiasPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bias of the network: what each of its elements took."""

    name: str
    operator: str
    size: int
    total: float
    positive: float
    negative: float
    values: list[float]


class PixelsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relevance a pixel of the network's input, summed over channels: here, in `file`, or in neither."""

    shape: tuple[int, int]
    total: float
    positive: float
    negative: float
    values: list[list[float]] | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET


class FilesPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of the files written beside the report."""

    overlay: str
    pixels: str | msgspec.UnsetType = msgspec.UNSET


class SecondsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time taken: load once a run; forward and backward of the batch, divided by its images; write of this image."""

    load: float
    forward: float
    backward: float
    write: float


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
