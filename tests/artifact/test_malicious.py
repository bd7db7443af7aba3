"""Malicious and damaged archives are refused in one line, or what is hidden in them is left out."""

from __future__ import annotations

import io
import pickle
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SAMPLES, Cli
from malice import EXAMPLE, MODULE, WRITTEN, Attack, Small, attacks, bombs, damaged, entries_of, honest, in_folder
from torch import Tensor

import heatcli
from heatcli.artifact import archive, program, script
from heatcli.errors import HeatcliError, ModelError
from heatcli.graph.permitted import permitted

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
KINDS = (
    "zip, torchscript", "zip, pt2", "pickle, pt2", "call, pt2", "name, pt2", "pickle, torchscript",
    "call, torchscript", "loop while loading",
)  # fmt: skip


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    """The honest archive of either format."""
    return honest()


@pytest.fixture(scope="module")
def some(good: dict[str, bytes]) -> dict[str, list[Attack]]:
    """A twelfth of the grammar, by kind; all of it is for `slow`."""
    found: dict[str, list[Attack]] = {kind: [] for kind in KINDS}
    for i, attack in enumerate(attack for attack in attacks(good) if not attack.harmless):
        if i % 12 == 0 or not found[attack.kind]:
            found[attack.kind].append(attack)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where attacks would write; in the end nothing was written or imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    in_folder(tmp_path)
    before = set(tmp_path.iterdir())
    yield tmp_path
    found = {path for path in tmp_path.iterdir() if path.suffix != ".pt"} - before
    assert not found
    assert MODULE not in sys.modules


def _outcome(path: Path, attack: Attack) -> str:
    """`refused` or `loaded`; nothing was written. Any other error, or one of several lines, fails."""
    path.write_bytes(attack.content)
    outcome, message = "loaded", ""
    try:
        heatcli.load(path, size=8, channels=3)
    except ModelError as error:
        outcome, message = "refused", str(error)
    assert "\n" not in message, attack.name
    assert not Path(WRITTEN).exists(), attack.name
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_are_refused(folder: Path, some: dict[str, list[Attack]], kind: str) -> None:
    assert some[kind]
    for attack in some[kind]:
        assert _outcome(folder / "bad.pt", attack) == "refused", attack.name


@pytest.mark.slow
def test_all_attacks(folder: Path, good: dict[str, bytes]) -> None:
    """What is left out of an archive does not keep it from being loaded, and explained rightly."""
    count = 0
    for attack in attacks(good):
        assert _outcome(folder / "bad.pt", attack) == ("loaded" if attack.harmless else "refused"), attack.name
        if attack.harmless:
            result = heatcli.explain(heatcli.load(folder / "bad.pt", size=8), EXAMPLE, "gradient", target=0)
            assert torch.allclose(result.outputs, Small().eval()(EXAMPLE), atol=1e-6)
        count += 1
    assert count > 500


def test_commands_refuse_them(cli: Cli, folder: Path, some: dict[str, list[Attack]]) -> None:
    """One of each kind, by `inspect` and `explain`: status 3 and one line."""
    (folder / "picture.png.pt").write_bytes((SAMPLES / "wolf-on-snow.png").read_bytes())
    for kind, group in some.items():
        (folder / "bad.pt").write_bytes(group[0].content)
        for command in (["inspect", "bad.pt"], ["explain", "picture.png.pt", "--model", "bad.pt", "--size", "8"]):
            ran = cli(*command)
            assert ran.status == 3, (kind, group[0].name, ran)
            assert len(ran.err.strip().splitlines()) == 1, (kind, group[0].name, ran)


@pytest.mark.usefixtures("folder")
def test_the_bombs_are_live() -> None:
    """Unpickled, they do what they are for; else the tests above would show nothing."""
    for name in ("system-0", "system-2", "exec-4"):
        pickle.loads(bombs()[name])
        assert Path(WRITTEN).exists(), name
        Path(WRITTEN).unlink()


def test_the_honest_ones_are_explained(folder: Path, good: dict[str, bytes]) -> None:
    for content in good.values():
        (folder / "good.pt").write_bytes(content)
        result = heatcli.explain(heatcli.load(folder / "good.pt", size=8), EXAMPLE, "gradient", target=0)
        assert torch.allclose(result.outputs, Small().eval()(EXAMPLE), atol=1e-6)


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_what_torch_gets_holds_what_was_allowed(tmp_path: Path, good: dict[str, bytes], format: str) -> None:
    """The archive that is written anew has the kept entries, byte by byte, and is a sound zip archive."""
    (tmp_path / "m").write_bytes(good[format])
    entries = archive.read(tmp_path / "m")
    assert {name: bytes(content) for name, content in entries.items()} == entries_of(good[format])
    kept = (script if format == "torchscript" else program).checked(entries)
    anew = archive.written(kept)
    with zipfile.ZipFile(io.BytesIO(anew)) as found:
        assert found.testzip() is None
        assert {n.removeprefix("archive/"): found.read(n) for n in found.namelist()} == {
            name: bytes(content) for name, content in kept.items()
        }


@pytest.mark.parametrize(
    "name",
    ["from_file", "save", "_print", "set_", "set_data", "backward", "manual_seed", "_reshape_alias", "no_such_one"],
)
def test_operators_that_do_more_are_not_permitted(name: str) -> None:
    assert not permitted("aten", name)
    assert not permitted("image", "read_file")


def _check_damaged(path: Path, content: bytes, seeds: range) -> int:
    """Every damaged copy is refused, or answers as the whole one does; how many were refused."""
    expected: Tensor = Small().eval()(EXAMPLE)
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(content, random.Random(seed)))
        outputs, message = expected, ""
        try:
            model = heatcli.load(path, size=8, channels=3)
            outputs = heatcli.explain(model, EXAMPLE, "gradient", target=0).outputs
        except HeatcliError as error:
            message = str(error)
            refused += 1
        assert "\n" not in message, seed
        assert torch.allclose(outputs, expected, atol=1e-6), seed
    return refused


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_damaged_files(tmp_path: Path, good: dict[str, bytes], format: str) -> None:
    assert _check_damaged(tmp_path / "m.pt", good[format], range(60)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_damaged_files_of_all_kinds(tmp_path: Path, good: dict[str, bytes], format: str) -> None:
    assert _check_damaged(tmp_path / "m.pt", good[format], range(60, 3000)) > 2000


def test_the_checksum_is_named(tmp_path: Path, good: dict[str, bytes]) -> None:
    weights = entries_of(good["torchscript"])["data/0"]
    at = good["torchscript"].index(weights) + 3
    content = bytearray(good["torchscript"])
    content[at] ^= 0x40
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"m\.pt: is damaged: the checksum of \S*data/0 is wrong; export or copy it anew"
    ):
        heatcli.load(tmp_path / "m.pt", size=8)
