"""An artifact in a child process (`heatcli.artifact.sandbox`): what it says of itself, and its graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact
from heatcli.artifact.cache import described, unopened
from heatcli.artifact.edge import edge
from heatcli.artifact.sandbox import Limits, Sandbox
from heatcli.errors import ModelError
from heatcli.files import stamp
from heatcli.graph import stored
from heatcli.graph.operator import Graph

if TYPE_CHECKING:
    from heatcli.artifact.model import Model

Packed = tuple[list[int], str, bytes]  # a tensor: shape, dtype, content


class Contained:
    """`loader` opens the artifact, `made` makes a model of it: both run in the child."""

    def __init__(
        self, path: Path, limits: Limits, loader: Callable[[Path], Artifact], made: Callable[[Artifact], Model]
    ) -> None:
        self.path, self._loader, self._made = path, loader, made
        self._before = stamp(path)
        self._opened: Artifact | None = None
        self._model: Model | None = None
        self._sandbox = Sandbox(path, limits, self._answer, self._forget)

    def artifact(self, path: Path) -> Artifact:
        """What the file says of itself; it is opened in this process only once its module is asked for."""
        opened: list[Artifact] = []

        def open_here() -> Artifact:
            """The artifact, opened once."""
            with edge(path, "opened"):
                opened.extend([] if opened else [self._loader(path)])
            return opened[0]

        return unopened(self._sandbox.ask(["artifact"]), open_here)

    def graph(
        self, shape: Sequence[int], example: Tensor | None, sample: Tensor | None
    ) -> tuple[Graph | None, float]:  # fmt: skip
        """What `Model.capture` yields, None where that has no stored form; and the seconds that comparing took."""
        try:
            content = self._sandbox.ask(["graph", list(shape), _packed(example), _packed(sample)])
        except stored.NotStorableError:
            return None, 0.0
        return stored.from_bytes(content[64:]), float(content[:8].view(torch.float64))

    # --- in the child ---------------------------------------------------------------------------------------------

    def _answer(self, request: list[Any]) -> Sequence[stored.Buffer]:
        what, *given = request
        with edge(self.path, "opened"):
            if self._opened is None:
                self._opened = self._loader(self.path)
                if stamp(self.path) != self._before:
                    raise ModelError(f"{self.path}: was changed while it was in use; run again")
            if what == "artifact":
                return [described(self._opened)]
        if self._model is None:
            self._model = self._made(self._opened)
        with edge(self.path, "captured"):
            shape, example, self._model.sample = given[0], _unpacked(given[1]), _unpacked(given[2])
            self._model.compared_in = 0.0
            graph = self._model.capture(tuple(shape), example)
            seconds = torch.tensor([self._model.compared_in], dtype=torch.float64).numpy().tobytes()
            return [seconds + bytes(56), *stored.to_bytes(graph)]

    def _forget(self) -> None:
        self._opened = self._model = None


def _packed(tensor: Tensor | None) -> Packed | None:
    if tensor is None:
        return None
    plain = tensor.detach().cpu().contiguous()
    return list(plain.shape), str(plain.dtype), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _unpacked(packed: Packed | None) -> Tensor | None:
    if packed is None:
        return None
    shape, dtype, content = packed
    return torch.frombuffer(bytearray(content), dtype=stored.torch_name(dtype)).reshape(shape)
