"""`heatcli export`: writes a model and a method as one artifact, or raises an error that says why not."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.artifact.explained import INPUT, NOTE, MethodNote, Note, Source
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.engine.record import recorded
from heatcli.errors import HeatcliError, ModelError, UsageError, first_line, unknown_name
from heatcli.export.dynamic import joined
from heatcli.export.subject import LEDGER, OUTPUTS, Subject
from heatcli.export.verify import verify, verify_record
from heatcli.export.write import WRITERS, Writer
from heatcli.graph.exportable import exportable, without_strides
from heatcli.graph.outputs import settled
from heatcli.images.baselines import is_named
from heatcli.methods.method import ANY, ONE, Method
from heatcli.methods.question import laid_out
from heatcli.methods.targets import TOP, choose
from heatcli.model.inspection import draft_sidecar
from heatcli.model.model import Model
from heatcli.report.schema import NAME as REPORT
from heatcli.rules.weights import forget
from heatcli.system.files import write_atomically
from heatcli.version import __version__

if TYPE_CHECKING:
    from torch.fx import GraphModule

DEFAULT = ("logits", "heatmap", "relevance", "biases", "ledger")
_SIZES = (2, 3)  # the two batch sizes of the records that are joined to one for any number of images


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export.

    `path`: of the artifact; its suffix is the format. `target`: top, an index, a label, A-B or `input`. `rules`: other
    entries of the method's table, as `--rule` takes them. `outputs`: names of `OUTPUTS`. `preprocess`: the artifact
    takes pictures as uint8 [N, H, W, C]. `u8`: the heatmap also as uint8, with its scale.
    """

    path: Path
    method: Method
    target: str = TOP
    rules: tuple[str, ...] = ()
    baseline: str | None = None
    outputs: tuple[str, ...] = DEFAULT
    preprocess: bool = False
    u8: bool = False


def export(model: Model, request: ExportRequest) -> Note:
    """Write the explained model to `request.path`, and return the note in the file.

    Its outputs are compared with those of torch in its own runtime before.

    Raises `UsageError`, `ModelError`, and then writes nothing.
    """
    write = _writer(model, request)
    written = recording(model, request)
    content = written.content(write)
    verify(content, written.record, written.note, written.unseen, request.path)
    write_atomically(request.path, content)
    return written.note


@dataclass(frozen=True, eq=False)
class Recording:
    """An explanation as a record.

    `record`: its graph. `example`: the inputs it was recorded on. `unseen`: other inputs. `note`: what the artifact
    says of the explanation. `sidecar`: what it says of its input. `size`: the batch size; None for any.
    """

    record: GraphModule
    example: list[Tensor]
    unseen: list[Tensor]
    note: Note
    sidecar: str
    size: int | None

    def content(self, write: Writer) -> bytes:
        """The content of the file. Raises `UsageError` if the explanation cannot be written in the format."""
        inside = {NOTE: self.note.text(), EMBEDDED: self.sidecar}
        return write(
            copy.deepcopy(self.record), self.example, self.note.inputs, self.note.outputs, inside, self.size is None
        )


def recording(model: Model, request: ExportRequest) -> Recording:
    """Record the explanation. Raises `UsageError`, `ModelError`."""
    if model.explained is not None:
        raise UsageError(f"{model.path}: explains itself already; export {model.explained.source.name} instead")
    model.pictures.need_values_between("its explanation is not exported; heatcli explain writes maps of it")
    shape = model.pictures.only_shape
    size = model.network.fixed_batch((_SIZES[0], *shape))
    if size is None:
        try:
            model.graph((_SIZES[1], *shape))
        except ModelError:  # takes the first of the two sizes alone
            size = _SIZES[0]
    subject = _subject(model, request, size or _SIZES[0])
    names = ["pixels" if request.preprocess else "input", *(["target"] if request.target == INPUT else [])]
    record, example, unseen = _record(subject, _SIZES if size is None else (size, size))
    note = _note(subject, request, names, size or _SIZES[0])
    return Recording(record, example, unseen, note, _sidecar(model, request), size)


def _sidecar(model: Model, request: ExportRequest) -> str:
    """The sidecar in the file: its input, without the baseline, which would name another file."""
    text = draft_sidecar(model).partition("\n[baseline]")[0]
    if not request.preprocess:
        return text
    lines = [line for line in text.splitlines() if not line.startswith(("mean = ", "std = ", "order = "))]
    lines.insert(lines.index("[input]") + 1, f"mean = 0.0\nstd = {1 / 255!r}  # pixels themselves, 0..255")
    return "\n".join(lines) + "\n"


def _writer(model: Model, request: ExportRequest) -> Writer:
    """The function that writes the format of the path. Raises `UsageError` if the path cannot be written to."""
    path = request.path
    if path.suffix not in WRITERS:
        raise UsageError(f"{path}: an explained model is a .onnx, .pt2 or .pt file; name it so")
    if path.exists() and path.samefile(model.file):
        raise UsageError(f"{path}: is the model itself; give -o another name")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; give -o a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {path.parent} cannot be written to; give -o another")
    for name in request.outputs:
        if name not in OUTPUTS:
            raise unknown_name("output", name, OUTPUTS)
    twice = next((name for name in request.outputs if request.outputs.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--outputs names {twice} twice; name it once")
    return WRITERS[path.suffix]


def _subject(model: Model, request: ExportRequest, images: int) -> Subject:
    """The explanation to record. Raises `UsageError` if it cannot be recorded."""
    method, shape = request.method.with_rules(request.rules), model.pictures.only_shape
    if request.preprocess and len(shape) != 3:
        raise UsageError(f"{model.path}: takes no pictures, so --preprocess makes no sense")
    if "seed" in method.parameters:
        raise UsageError(f"method {method.name} draws at random, and a graph cannot; choose a method without a seed")
    if method.kind == "perturbation" or method.procedure.takes not in (ANY, ONE):
        raise UsageError(f"method {method.name} asks the network about many images; a graph is written of walks alone")
    graph = settled(model.graph((images, *shape)), model.path)
    if graph.guards:
        raise UsageError(
            f"{model.path}: decides by the picture (operator {graph.guards[0][0].output}), which a graph cannot"
        )
    if graph.chosen_on is not None:
        raise UsageError(f"{model.path}: chooses by the picture where to look again, which a graph cannot")
    method.fits(graph)
    example = model.capture.noise((images, *shape), 0)
    if request.target != INPUT:
        choose(request.target, laid_out(torch.zeros(graph.output_shape)), model.labels)
    reference = method.reference(request.baseline, model.pictures, example)
    moving = request.baseline or "" if reference.batch is not None and not reference.shared else ""
    head = graph.returned[model.network.wanted.head].name if graph.returned else ""
    extra = ("heatmap_u8", "heatmap_scale") if request.u8 else ()
    return Subject(
        model=model, method=method, target=request.target, reference=reference, baseline=moving,
        outputs=(*request.outputs, *extra), own=_FREE if head in ("", *OUTPUTS, *extra) else head,
        preprocess=request.preprocess,
    )  # fmt: skip


_FREE = "output"  # the name of the model's own output, if it has none, or its name is that of another output


def _record(subject: Subject, sizes: tuple[int, int]) -> tuple[GraphModule, list[Tensor], list[Tensor]]:
    """The explanation, recorded for two batch sizes and joined, and the inputs of both. Raises `UsageError`."""
    found: list[GraphModule] = []
    examples: list[list[Tensor]] = []
    for seed, n in enumerate(sizes):
        inputs = subject.example(n, seed)
        shape = (n, *subject.model.pictures.only_shape)
        forget()
        try:
            found.append(recorded(subject.function(shape), inputs, exportable(), without_strides()))
        except HeatcliError:
            raise
        except Exception as error:  # torch raises several classes if control flow depends on a value
            raise UsageError(
                f"method {subject.method.name} cannot be written down for this model: {first_line(error, 160)}"
            ) from error
        examples.append(inputs)
    one, other = found
    record, unseen = joined(one, other, *sizes), examples[1]
    verify_record(record, subject.function((sizes[1], *subject.model.pictures.only_shape)), subject.names, unseen)
    return record, examples[0], unseen


def _note(subject: Subject, request: ExportRequest, inputs: Sequence[str], images: int) -> Note:
    """The note in the artifact: the model, the method, the target, inputs and outputs."""
    model, method = subject.model, subject.method
    graph = model.graph((images, *model.pictures.only_shape))
    reference = subject.reference
    return Note(
        report_schema=REPORT,
        heatcli=__version__,
        source=Source(name=model.path.name, sha256=model.sha256, format=model.format),
        method=MethodNote(
            name=method.name,
            paper=method.source,
            parameters={key: value for key, value in request.method.parameters.items() if _is_plain(value)},
            rules=request.rules,
        ),
        asked=Path(request.baseline).name if request.baseline and not is_named(request.baseline) else
        request.baseline or method.baseline or "none",
        baseline={"name": reference.name, **_without_folders(reference.details)},
        target=subject.target,
        inputs=tuple(inputs),
        outputs=subject.names,
        ledger=LEDGER,
        biases={name: size for name, (_, size) in graph.offsets.items()},
        labels=tuple(model.labels),
        preprocess=request.preprocess,
    )  # fmt: skip


def _is_plain(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _without_folders(details: dict[str, Any]) -> dict[str, Any]:
    """The details of a baseline; a file by its name without folders."""
    return {
        key: Path(value).name if key == "file" and not is_named(str(value)) else value for key, value in details.items()
    }
