"""The cache: a second load neither opens the artifact nor captures it, no bit differs, and nothing in it is trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import FORMATS, SIZE, images, network, save
from torch import Tensor, nn

import heatcli
from heatcli.artifact import formats
from heatcli.errors import ModelError
from heatcli.model import cache
from heatcli.model.model import Model

EIGHT = SAMPLES / "digits" / "8-a.png"
pytestmark = [
    pytest.mark.usefixtures("folder"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, the only one that is used."""
    monkeypatch.setenv("HEATCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the artifacts that were opened since, in order."""
    names: list[str] = []

    def watched(load: Callable[[Path], object]) -> Callable[[Path], object]:
        def run(path: Path) -> object:
            names.append(path.name)
            return load(path)

        return run

    for kind, one in list(formats.FORMATS.items()):
        monkeypatch.setitem(formats.FORMATS, kind, replace(one, load=watched(one.load)))
    return names


def _graphs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.graph"))


def _answer(model: Model, batch: Tensor, method: str = "lrp-eps") -> list[Tensor]:
    result = heatcli.explain(model, batch, method)
    return [result.outputs, result.relevance, *result.biases.values()]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- the same, sooner ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_hit_opens_nothing_and_changes_no_bit(tmp_path: Path, folder: Path, opened: list[str], form: str) -> None:
    """Scores, relevance and biases of every format, for several numbers of images, with every graph pass and none."""
    path = save(network("residual"), tmp_path, form)
    cases = [((), 1), ((), 3), (heatcli.graph.passes.DEFAULT, 1), (heatcli.graph.passes.DEFAULT, 3)]
    for passes, n in cases:
        plain = _answer(heatcli.load(path, passes=passes, size=SIZE), images(n))
        first = _answer(heatcli.load(path, passes=passes, size=SIZE, cache=True), images(n))
        before = list(opened)
        again = heatcli.load(path, passes=passes, size=SIZE, cache=True)
        assert _same(plain, first)
        assert _same(plain, _answer(again, images(n)))
        assert opened == before
    assert len(_graphs(folder)) == len(cases)


def test_another_size_is_another_graph(tmp_path: Path, folder: Path) -> None:
    path = save(network("residual"), tmp_path)
    for size in (SIZE, SIZE + 4, SIZE):
        batch = images(1, shape=(3, size, size))
        cached, plain = (heatcli.load(path, size=size, cache=kept) for kept in (True, False))
        assert _same(_answer(cached, batch), _answer(plain, batch))
    assert len(_graphs(folder)) == 2


def test_what_the_file_says_of_itself_is_known_unopened(tmp_path: Path, opened: list[str]) -> None:
    """Input names, shapes and dtypes, the sidecar inside the file, what was rewritten; then its module."""
    extra = {"heatcli.toml": "[input]\nsize = [8, 8]\nmean = 0.25\n"}
    torch.jit.script(nn.Conv2d(3, 2, 3).double()).save(str(tmp_path / "m.pt"), _extra_files=extra)
    shutil.copy(MODELS / "digits.onnx", tmp_path)
    for name in ("m.pt", "digits.onnx"):
        plain, _, known = (heatcli.load(tmp_path / name, cache=kept) for kept in (False, True, True))
        assert opened == [name, name]
        opened.clear()
        assert (known.capture.picture, known.input, known.sha256) == (plain.capture.picture, plain.input, plain.sha256)
        assert (known.artifact.embedded, known.artifact.renamed) == (plain.artifact.embedded, plain.artifact.renamed)
        shape = (1, 3, 8, 8) if name == "m.pt" else (1, 1, 28, 28)
        module = known.artifact.module_for({known.capture.picture.name: shape})
        assert opened == [name]
        assert list(known.artifact.names(module)) == list(plain.artifact.names(module))
        opened.clear()


class Two(nn.Module):
    """Scores of a picture, scaled by a second input."""

    def forward(self, image: Tensor, context: Tensor) -> Tensor:
        return image.flatten(1)[:, :3] * context + context


def test_other_inputs_and_heads_have_graphs_of_their_own(tmp_path: Path, folder: Path) -> None:
    """The value of another input is part of the graph, so another value is another graph."""
    torch.jit.script(Two()).save(str(tmp_path / "two.pt"))
    batch = torch.rand(2, 3, 2, 2)
    for _ in range(2):
        for number in (1.0, 2.0):
            context = torch.full((1, 3), number)
            model = heatcli.load(tmp_path / "two.pt", size=2, inputs={"context": context}, cache=True)
            assert torch.equal(heatcli.explain(model, batch, "lrp-0").outputs, Two()(batch, context))
    assert len(_graphs(folder)) == 2


class Flat(nn.Module):
    """Takes one image at a time, as traced code with views does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 48).tanh()


def test_a_baked_batch_size(tmp_path: Path) -> None:
    torch.jit.trace(Flat(), torch.zeros(1, 3, 4, 4)).save(str(tmp_path / "flat.pt"))
    batch = images(3, shape=(3, 4, 4))
    answers = [_answer(heatcli.load(tmp_path / "flat.pt", size=4, cache=kept), batch) for kept in (False, True, True)]
    assert _same(answers[0], answers[1])
    assert _same(answers[0], answers[2])


def test_shared_and_strided_memory_stays_so() -> None:
    """Convolution weights lie channels last, dense ones transposed, and a bias shares its memory with its offset."""
    first, again = (heatcli.load(cache=True).graph((2, 3, 64, 64)) for _ in range(2))
    for a, b in zip(first.operators, again.operators, strict=True):
        assert [c.value.stride() for c in a.constants] == [c.value.stride() for c in b.constants]
        for one, other in zip(a.offsets, b.offsets, strict=True):
            shared = [c.value.data_ptr() == one.value.data_ptr() for c in a.constants]
            assert shared == [c.value.data_ptr() == other.value.data_ptr() for c in b.constants]
        assert all(c.value.data_ptr() % 64 == 0 for c in b.constants)


def test_the_library_writes_nothing_unless_asked(folder: Path) -> None:
    heatcli.explain(heatcli.load(), torch.zeros(1, 3, 64, 64))
    assert not folder.exists()


def test_commands_keep_graphs_but_with_no_cache(cli: Cli, folder: Path, opened: list[str]) -> None:
    """The second run does not open the artifact and prints the same; --no-cache opens it and leaves nothing behind."""
    command = ("explain", EIGHT, "--model", MODELS / "digits.onnx", "--json", "--out", "o", "--no-sandbox")

    def without_times(text: str) -> str:
        return text.partition('"seconds"')[0]

    plain = cli(*command, "--no-cache")
    assert not folder.exists()
    first, second = cli(*command), cli(*command)
    assert opened == ["digits.onnx"] * 2
    assert without_times(plain.out) == without_times(first.out) == without_times(second.out) != ""
    assert folder.stat().st_mode & 0o077 == 0  # nobody else's business


def test_onnx_is_not_even_imported(process: Cli) -> None:
    """That is where the time goes."""
    assert process("explain", EIGHT, "--model", MODELS / "digits.onnx").status == 0
    code = (
        "import sys, heatcli, torch\n"
        f"m = heatcli.load({str(MODELS / 'digits.onnx')!r}, cache=True)\n"
        "heatcli.explain(m, torch.zeros(1, 1, 28, 28))\n"
        "print([n for n in ('onnx', 'onnxruntime') if n in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


# --- never trusted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_files_are_made_anew(
    tmp_path: Path, folder: Path, opened: list[str], damage: str, where: float
) -> None:
    """A flipped bit, a missing end, nothing at all, or another graph under this name."""
    path = save(network("plain"), tmp_path)
    answer = _answer(heatcli.load(path, size=SIZE, cache=True), images(1))
    _answer(heatcli.load(path, size=SIZE, cache=True, passes=()), images(1))
    assert len([*folder.iterdir()]) > 2
    for file in folder.iterdir():
        good = file.read_bytes()
        position = int(where * len(good))
        flipped = good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :]
        other = next(f for f in folder.iterdir() if f.suffix == file.suffix and (f != file or f.suffix != ".graph"))
        bad = {"flip": flipped, "cut": good[:position], "empty": b"", "other": other.read_bytes()}[damage]
        file.write_bytes(bad)
        before = len(opened)
        model = heatcli.load(path, size=SIZE, cache=True)
        assert _same(_answer(model, images(1)), answer)
        needed = file.read_bytes() != bad  # the graph of no passes was not asked for
        assert needed == (len(opened) > before)
        file.write_bytes(good)


def _forged(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the only graph in the folder, and set its checksum right."""
    (path,) = _graphs(folder)
    content = change(path.read_bytes()[64:])
    path.write_bytes(cache._checksum(path.name, [content]) + content)


@pytest.mark.parametrize(
    "name",
    ["_print.default", "save.default", "system.call", "__init__.mro", "relu.defualt", "relu_.default", "item.default"],
)
def test_foreign_operators_are_refused(tmp_path: Path, folder: Path, opened: list[str], name: str) -> None:
    """A file that names anything but an ATen operator that computes tensors is made anew, checksum or not."""
    path = save(network("plain"), tmp_path)
    answer = _answer(heatcli.load(path, size=SIZE, cache=True), images(1))
    good = _graphs(folder)[0].read_bytes()

    def renamed(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        head = content[8 : 8 + length]
        before = b"\xa4aten" + bytes([0xA0 + len("relu.default")]) + b"relu.default"
        assert before in head
        head = head.replace(before, b"\xa4aten" + bytes([0xA0 + len(name)]) + name.encode())
        body = content[8 + length + -(8 + length) % 64 :]
        return len(head).to_bytes(8, "little") + head + bytes(-(8 + len(head)) % 64) + body

    _forged(folder, renamed)
    opened.clear()
    assert _same(_answer(heatcli.load(path, size=SIZE, cache=True), images(1)), answer)
    assert opened == [path.name]
    assert _graphs(folder)[0].read_bytes() == good


def test_a_forged_file_that_is_right_is_read(tmp_path: Path, folder: Path, opened: list[str]) -> None:
    """The control for the test above: the same forger, changing nothing."""
    path = save(network("plain"), tmp_path)
    heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    _forged(folder, lambda content: content)
    opened.clear()
    heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    assert opened == []


def test_another_artifact_of_the_same_name(tmp_path: Path) -> None:
    """What counts are the bytes, not the name, nor the time, nor the size."""
    for seed in (0, 1):
        path = save(network("plain", seed), tmp_path)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        cached, plain = (heatcli.load(path, size=SIZE, cache=kept) for kept in (True, False))
        assert _same(_answer(cached, images(1)), _answer(plain, images(1)))


def test_weights_outside_the_onnx_file_count(tmp_path: Path, opened: list[str]) -> None:
    """An ONNX file whose weights lie beside it: the same file with other weights is another artifact."""
    path = tmp_path / "m.onnx"
    proto = onnx.load(MODELS / "digits.onnx")
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=100)
    batch = torch.rand(1, 1, 28, 28)
    first = _answer(heatcli.load(path, cache=True), batch)
    opened.clear()
    assert _same(_answer(heatcli.load(path, cache=True), batch), first)
    assert opened == []
    weights = np.fromfile(tmp_path / "m.data", dtype=np.float32)
    (weights * 2).tofile(tmp_path / "m.data")
    second = _answer(heatcli.load(path, cache=True), batch)
    assert _same(second, _answer(heatcli.load(path), batch))
    assert not _same(second, first)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx"):
        heatcli.load(path, cache=True)


def test_changed_while_in_use(tmp_path: Path, folder: Path) -> None:
    """An artifact that is replaced after it was hashed is neither captured nor kept under the old one's hash."""
    path = save(network("plain"), tmp_path)
    heatcli.load(path, size=SIZE, cache=True)
    known = heatcli.load(path, size=SIZE, cache=True)
    save(network("residual"), tmp_path)
    with pytest.raises(ModelError, match=r"scripted.pt: was changed while it was in use; run again"):
        known.graph((1, 3, SIZE, SIZE))
    new = heatcli.load(path, size=SIZE, cache=True)  # opened, as it is not known yet
    save(network("plain"), tmp_path)
    assert new.graph((1, 3, SIZE, SIZE)).operators
    assert _graphs(folder) == []


def test_another_version_captures_anew(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """heatcli's own version and code, torch's, the converters', and the CPU's instructions are part of the key."""
    path = save(network("plain"), tmp_path)
    for version in ("0.1.0", "9.9.9", "0.1.0"):
        monkeypatch.setattr(cache, "__version__", version)
        cache._captured_by.cache_clear()
        heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    monkeypatch.undo()
    cache._captured_by.cache_clear()
    assert len(opened) == 2
    assert any(f"torch {torch.__version__}" in part for part in cache._captured_by())


# --- a good guest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["read-only", "a file", "of nobody"])
def test_without_a_folder_nothing_is_kept(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written to is no error."""
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("")
    elif kind == "read-only":  # root may write anywhere but there
        place = Path("/proc/heatcli")
    else:
        place = Path(os.devnull)
    monkeypatch.setenv("HEATCLI_CACHE", str(place))
    for _ in range(2):
        assert heatcli.explain(heatcli.load(cache=True), torch.zeros(1, 3, 64, 64)).relevance.shape == (1, 3, 64, 64)


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEATCLI_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.folder() == tmp_path / "heatcli"
        monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user of whom the system knows nothing, as in containers
    assert cache.folder() == Path(os.devnull)


def test_two_processes_at_once(tmp_path: Path, folder: Path) -> None:
    """Both succeed with the same answer, and the folder holds whole files alone."""
    command = [sys.executable, "-m", "heatcli", "explain", str(EIGHT), "-m", str(MODELS / "digits.onnx"), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([*command, "--out", str(tmp_path / str(i))], stdout=subprocess.PIPE, env=environment)
        for i in range(2)
    ]
    answers = [process.communicate()[0].partition(b'"files"')[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] != b""
    assert sorted(p.suffix for p in folder.iterdir()) == [".artifact", ".graph"]


def test_what_was_not_used_for_longest_goes_first(folder: Path) -> None:
    """The folder is bounded; using a file keeps it; files that are not the cache's own are never touched."""
    folder.mkdir()
    names = [f"{i:064x}.graph" for i in range(4)]
    for age, name in enumerate(reversed(names)):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    left_over = folder / f".{names[0]}.12.34.tmp"
    for name in ("notes.txt", left_over.name):
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (1, 1))
    cache.make_room(folder, 250)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names[2:], "notes.txt"])


def test_a_hit_counts_as_use(tmp_path: Path, folder: Path) -> None:
    path = save(network("plain"), tmp_path)
    heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    assert all(file.stat().st_mtime > 1e9 for file in folder.iterdir())


def test_graphs_too_big_to_keep(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph never takes more than half of the room."""
    monkeypatch.setattr(cache, "LIMIT", 4000)
    path = save(network("plain"), tmp_path)
    heatcli.load(path, size=SIZE, cache=True).graph((1, 3, SIZE, SIZE))
    assert [p.suffix for p in folder.iterdir()] == [".artifact"]
