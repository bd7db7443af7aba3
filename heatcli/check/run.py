"""Running the checks of a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatcli.check.books import Found
from heatcli.check.result import Result
from heatcli.check.spec import checks, default_spec, methods_of, read_spec
from heatcli.check.work import Work
from heatcli.errors import printable
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import NoBoxError
from heatcli.evaluate.subjects import subjects
from heatcli.images.dataset import Sample, read
from heatcli.model.model import Model


@dataclass(frozen=True)
class CheckRequest:
    """What to check.

    `spec`: the file; None runs every check with its defaults. `masks`, `methods`: override those of the spec.
    `update_golden`: store the reports of the golden check instead of checking.
    """

    images: tuple[Path, ...]
    spec: Path | None = None
    masks: Path | None = None
    methods: tuple[str, ...] = ()
    update_golden: bool = False
    batch_size: int | None = None


def run(model: Model, request: CheckRequest, told: Callable[[str], None] = lambda _: None) -> Iterator[Result]:
    """The results, check after check. `told`: called with the name of each check before it runs.

    A picture that cannot be read is a failed result. So is a required share of pictures that have the box, if none has.
    Raises `UsageError`, `ModelError`.
    """
    spec = default_spec() if request.spec is None else read_spec(request.spec)
    folder = Path() if request.spec is None else request.spec.parent
    named = request.methods or methods_of(spec, model.pictures.layout)
    explainers = tuple(Explainer.parse(text, spec.baseline) for text in named)
    if model.explained is not None and not request.methods and request.spec is None:
        explainers = (Explainer.shared([model], None),)
    masks = request.masks or (None if spec.masks is None else folder / spec.masks)
    samples: list[Sample] = []
    for sample in read(request.images, model.labels, model.pictures.fit, masks, model.pictures.reader):
        if isinstance(sample, Sample):
            samples.append(sample)
        else:
            path, error = sample
            yield Result(check="image", quantity="cannot be read", status="failed", image=printable(str(path)),
                         measured=str(error).removeprefix(f"{path}: "))  # fmt: skip
    if not samples:
        return
    every = checks(spec)
    required = next((check for check in every if isinstance(check, Found) and check.least), None)
    try:
        own = subjects(model, samples, spec.target, request.batch_size, spec.seed)
    except NoBoxError as error:
        if required is None:
            raise
        yield from required.share(0, error.without)
        return
    work = Work(own, explainers, spec.baseline, folder, request.spec is not None, request.update_golden)
    if own.boxes and not any(isinstance(check, Found) for check in every):
        every = [Found(), *every]
    for check in every:
        if request.update_golden and check.name != "golden":
            continue
        told(check.name)
        for result in check(work):
            yield _of_file(result, work)


def _of_file(result: Result, work: Work) -> Result:
    """The result with the path of its image, and apart from that the number of its box."""
    boxes, names = work.subjects.boxes, work.subjects.names
    if not boxes or result.image not in names:
        return result
    row = names.index(result.image)
    return msgspec.structs.replace(result, image=str(work.subjects.samples[row].path), box=boxes[row])
