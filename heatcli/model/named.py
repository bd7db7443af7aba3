"""Networks of torchvision by name, `torchvision:NAME[:WEIGHTS]`, with the transforms and labels of their weights.

The file of weights in torch's cache stands for the artifact: its hash is the model's, and the sandbox opens it as it
does other files. Before torchvision reads it, it is read as weights only, which executes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import msgspec
import torch

from heatcli.artifact.artifact import Artifact
from heatcli.artifact.held import artifact_of
from heatcli.artifact.recognise import FileFormat
from heatcli.errors import ModelError, UsageError, first_line, reason, unknown_name
from heatcli.model.presets import of_weights
from heatcli.system.files import digest

PREFIX = "torchvision:"
WEIGHTS = "checkpoints"  # the folder of weights in torch's cache
PATIENCE = 30.0  # seconds that a server has to answer


def is_named(path: str | Path) -> bool:
    """Whether a model is given by name, not as a file."""
    return str(path).startswith(PREFIX)


def cached_in(folder: Path) -> Path:
    """Use `folder` as torch's cache in this process from now on. Returns its folder of weights."""
    torch.hub.set_dir(str(folder))
    return folder / WEIGHTS


def names() -> list[str]:
    """The names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


@dataclass(frozen=True)
class Named:
    """A classifier of torchvision: its name there, and its weights, a member of a `WeightsEnum`."""

    name: str
    weights: Any

    @property
    def path(self) -> Path:
        """The name that replaces the path of the model: the network's, with that of its weights."""
        return Path(f"{PREFIX}{self.name}:{self.weights.name}")

    @property
    def file(self) -> Path:
        """Where torchvision looks for the weights: in torch's cache."""
        return Path(torch.hub.get_dir(), WEIGHTS, PurePosixPath(urlparse(self.weights.url).path).name)

    @property
    def format(self) -> FileFormat:
        """How the file of weights becomes an artifact."""
        return FileFormat("torchvision", lambda _: False, self._load)

    def fetch(self) -> Path:
        """The file of weights, downloaded where it is not there. Raises `ModelError`."""
        file = self.file
        if file.exists():
            return file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _patient():
                torch.hub.download_url_to_file(self.weights.url, str(file), _beginning(file), progress=False)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"{self.path}: its weights {self.weights!r} are not in torch's cache and cannot be downloaded "
                f"({_reason(error)}); bring {self.weights.url} to {file}"
            ) from error
        return file

    def _load(self, file: Path) -> Artifact:
        """The artifact, whose sidecar is what the weights say."""
        from torchvision import models

        found = digest(file)
        remarks = () if found.startswith(_beginning(file)) else (
            f"has other weights than torchvision publishes: the SHA-256 of {file.name} begins with {found[:8]}",
        )  # fmt: skip
        try:
            self.weights.get_state_dict(progress=False, map_location="cpu", weights_only=True)
            with torch.random.fork_rng(devices=[]):  # torchvision draws weights before it reads them
                module = models.get_model(self.name, weights=self.weights, progress=False)
        except Exception as error:
            why = "it is no file of tensors" if isinstance(error, UnpicklingError) else first_line(error)
            raise ModelError(
                f"{file}: holds no weights of {self.name}: {why}; remove it, so that it is downloaded again"
            ) from error
        return artifact_of(module, embedded=self._sidecar(), remarks=remarks)

    def _sidecar(self) -> str:
        """The weights' own transforms and labels, as the text of a sidecar."""
        given = "".join(f"{name} = {_toml(value)}\n" for name, value in of_weights(self.weights).items())
        return f"[input]\n{given}[labels]\nnames = {_toml(self.weights.meta['categories'])}\n"


def named(path: str | Path) -> Named:
    """The network and weights of `torchvision:NAME[:WEIGHTS]`, by default torchvision's. Raises `UsageError`."""
    from torchvision import models

    name, _, wanted = str(path).removeprefix(PREFIX).partition(":")
    if name not in names():
        if name not in models.list_models():
            raise unknown_name("network of torchvision", name, names())
        what = models.get_model_builder(name).__module__.split(".")[2].replace("_", " ")
        raise UsageError(
            f"{path}: is of torchvision's {what} networks, and only its classifiers are loaded by name; export it to "
            "ONNX or TorchScript, and see heatcli help detectors"
        )
    known = models.get_model_weights(name)
    if not wanted:
        return Named(name, known.DEFAULT)
    plain = wanted.removeprefix(f"{known.__name__}.")
    if plain != "DEFAULT" and plain not in known.__members__:
        raise unknown_name(f"weights of {name}", plain, known.__members__)
    weights = known[plain]
    if not weights.meta.get("categories"):
        raise UsageError(f"{path}: these weights are of the features alone, without classes; give others")
    return Named(name, weights)


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()  # of numbers, texts and lists, the same


def _beginning(file: Path) -> str:
    """The start of the file's SHA-256, which is in its name, as in resnet50-11ad3fa6.pth; "" if it is not."""
    return file.stem.rpartition("-")[2] if "-" in file.stem else ""


def _reason(error: BaseException) -> str:
    """Why a download failed, in words."""
    if isinstance(error, HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, URLError):
        inner = error.reason
        return f"no network: {reason(inner) if isinstance(inner, BaseException) else inner}"
    return reason(error)


@contextmanager
def _patient() -> Iterator[None]:
    """A block in which connections end after `PATIENCE` seconds without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
