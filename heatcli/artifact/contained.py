"""An artifact in a child process (`heatcli.artifact.sandbox`): its description and its graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import msgspec
import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact
from heatcli.artifact.described import described, unopened
from heatcli.artifact.sandbox import Limits, Sandbox
from heatcli.errors import ModelError, edge
from heatcli.graph import stored
from heatcli.graph.operator import Graph
from heatcli.system.files import stamp

Packed = tuple[list[int], str, bytes]  # a tensor: shape, dtype, content
# (input shape, input to capture on (None: noise), input to verify on) → graph, seconds spent comparing it with the
# artifact.
Capture = Callable[[tuple[int, ...], Tensor | None, Tensor | None], tuple[Graph, float]]


class Contained:
    """`loader` opens the artifact, `capturing` returns the function that captures its graphs. Both run in the child."""

    def __init__(
        self, path: Path, limits: Limits, loader: Callable[[Path], Artifact], capturing: Callable[[Artifact], Capture]
    ) -> None:
        self.path, self._loader, self._capturing = path, loader, capturing
        self._before = stamp(path)
        self._opened: Artifact | None = None
        self._capture: Capture | None = None
        self._sandbox = Sandbox(path, limits, self._answer, self._forget)

    def artifact(self, path: Path) -> Artifact:
        """The file's description of itself. This process opens the file only when its module is requested."""
        opened: list[Artifact] = []

        def open_here() -> Artifact:
            """The artifact, opened once."""
            with edge(path, "opened"):
                opened.extend([] if opened else [self._loader(path)])
            return opened[0]

        artifact = unopened(self._sandbox.ask(["artifact"]), open_here)
        return artifact if artifact.runtime is None else replace(artifact, runtime=self._run)

    def _run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """All outputs in the artifact's runtime."""
        content = self._sandbox.ask(["run", [_packed(value) for value in values]])
        found = msgspec.msgpack.decode(content.numpy().data, type=list[Packed])
        return [_unpacked(packed).clone() for packed in found]

    def graph(
        self, shape: Sequence[int], example: Tensor | None, sample: Tensor | None
    ) -> tuple[Graph | None, float]:  # fmt: skip
        """The graph captured for `shape`, None if it has no stored form; and the seconds spent comparing.

        `example`, `sample`: inputs of that shape, or None (`heatcli.model.capture.Capture`).
        """
        try:
            content = self._sandbox.ask(["graph", list(shape), _packed(example), _packed(sample)])
        except stored.NotStorableError:
            return None, 0.0
        return stored.from_bytes(content[64:]), float(content[:8].view(torch.float64))

    # --- in the child ---------------------------------------------------------------------------------------------

    def _answer(self, request: list[Any]) -> Sequence[stored.Buffer]:
        """The answer of the child to a request: a description, a runtime's outputs, or a graph. Raises `ModelError`."""
        what, *given = request
        with edge(self.path, "opened"):
            if self._opened is None:
                self._opened = self._loader(self.path)
                if stamp(self.path) != self._before:
                    raise ModelError(f"{self.path}: was changed while it was in use; run again")
            if what == "artifact":
                return [described(self._opened)]
        if what == "run":
            runtime = self._opened.runtime
            assert runtime is not None
            return [msgspec.msgpack.encode([_packed(x) for x in runtime([_unpacked(value) for value in given[0]])])]
        if self._capture is None:
            self._capture = self._capturing(self._opened)
        with edge(self.path, "captured"):
            shape, example, sample = given[0], _unpacked(given[1]), _unpacked(given[2])
            graph, seconds = self._capture(tuple(shape), example, sample)
        took = torch.tensor([seconds], dtype=torch.float64).numpy().tobytes()
        return [took + bytes(56), *stored.to_bytes(graph)]

    def _forget(self) -> None:
        """Free what was opened."""
        self._opened = self._capture = None


@overload
def _packed(tensor: Tensor) -> Packed: ...


@overload
def _packed(tensor: None) -> None: ...


def _packed(tensor: Tensor | None) -> Packed | None:
    if tensor is None:
        return None
    plain = tensor.detach().cpu().contiguous()
    return list(plain.shape), str(plain.dtype), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


@overload
def _unpacked(packed: Packed) -> Tensor: ...


@overload
def _unpacked(packed: None) -> None: ...


def _unpacked(packed: Packed | None) -> Tensor | None:
    if packed is None:
        return None
    shape, dtype, content = packed
    return torch.frombuffer(bytearray(content), dtype=stored.torch_name(dtype)).reshape(shape)
