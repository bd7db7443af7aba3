"""Standard streams that take nothing: a run goes on, and the exit status tells of results that were lost."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MODELS, SAMPLES
from folders import whole

from heatcli.cli.streams import Stream, told_by_status


@pytest.fixture(params=["full", "broken", "closed"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.TextIOWrapper]:
    """A stream that takes nothing, of that kind."""
    if request.param == "broken":
        reader, writer = os.pipe()
        os.close(reader)
        made = os.fdopen(writer, "w", encoding="utf-8")
    else:
        made = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115
    with contextlib.closing(made):
        if request.param == "closed":
            made.close()
        yield made


WHY = {"full": errno.ENOSPC, "broken": errno.EPIPE, "closed": errno.EBADF}


def test_what_a_stream_does_not_take_is_dropped(stream: io.TextIOWrapper, request: pytest.FixtureRequest) -> None:
    tried = Stream(stream)
    for _ in range(3):
        print("text", file=tried)
        tried.buffer.write(b"bytes")
        tried.flush()
    assert tried.lost
    assert tried.error is not None
    assert tried.error.errno == WHY[request.node.callspec.params["stream"]]


def test_what_an_encoding_lacks_is_escaped() -> None:
    taken = io.BytesIO()
    stream = Stream(io.TextIOWrapper(taken, encoding="ascii"))
    print("B − A, ü, \udcff", file=stream)
    stream.buffer.write('{"é"}\n'.encode())
    stream.flush()
    assert taken.getvalue().decode() == 'B \\u2212 A, \\xfc, \\udcff\n{"é"}\n'


@pytest.mark.parametrize("prints", [True, False])
def test_the_status_tells_of_lost_results(
    stream: io.TextIOWrapper, prints: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that was ended early says nothing, as its reader knows; it has the status of SIGPIPE."""
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(taken, encoding="utf-8", write_through=True))
    with pytest.raises(SystemExit) as end:
        told_by_status(lambda: print("result") if prints else None)()
    kind = request.node.callspec.params["stream"]
    assert end.value.code == ((141 if kind == "broken" else 1) if prints else 0)
    assert taken.getvalue().startswith(b"heatcli: stdout: cannot be written: ") == (prints and kind != "broken")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "status"),
    [("{} > /dev/full", 1), ("{} 2> /dev/full", 0), ("{} <&- >&- 2>&-", 1), ("{} | true; exit ${{PIPESTATUS[0]}}", 141),
     ("PYTHONIOENCODING=ascii LC_ALL=C {}", 0)],
)  # fmt: skip
def test_a_run_loses_nothing_on_disk(tmp_path: Path, shell: str, status: int) -> None:
    (tmp_path / "ü").mkdir()
    for path in sorted((SAMPLES / "digits").glob("*.png"))[:2]:
        (tmp_path / "ü" / f"é{path.name}").write_bytes(path.read_bytes())
    command = f"{sys.executable} -m heatcli explain ü --model {MODELS / 'digits.onnx'} --out out --json"
    done = subprocess.run(
        ["bash", "-c", shell.format(command)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "internal error" not in done.stderr
    whole(tmp_path / "out")
