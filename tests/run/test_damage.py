"""What bad days leave in a folder, and disks and memory that are full: one line, nothing lost, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import Cli
from folders import fill, rows, whole
from mutations import mutated
from torch import nn

import heatcli
from heatcli.errors import UsageError
from heatcli.methods.table import method
from heatcli.run import Done, Request
from heatcli.run.index.index import Index, Row, images, line_of
from heatcli.run.index.record import read_record
from heatcli.run.work.plan import plan_outputs
from heatcli.run.work.worker import Worker


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder `in` of six pictures, and `out` with their explanations."""
    from heatcli.run import Run

    folder = tmp_path_factory.mktemp("finished")
    fill(folder / "in", [f"{i}.png" for i in range(6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        list(Run(heatcli.load(tiny), Request(("in",), "out", method("lrp-eps"), baseline="blur")))
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path, tiny: Path) -> list[str]:
    """The command that goes on with a copy of that folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return ["explain", "in", "--model", str(tiny), "--out", "out", "--resume"]


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """This process with less of something."""
    before = resource.getrlimit(what)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("file", ["2.lrp-eps.json", "2.lrp-eps.png"])
def test_files_of_other_content_are_not_done(file: str, again: list[str], cli: Cli) -> None:
    """Zeros at the full size, as a power cut leaves them, and one byte that is another."""
    path = Path("out", file)
    sound = path.read_bytes()
    for content in (bytes(len(sound)), sound[:100] + b"?" + sound[101:]):
        path.write_bytes(content)
        ran = cli(*again)
        assert "5 images are done already, 1 are left" in ran.err
        assert path.read_bytes()[:8] == sound[:8]
        whole(Path("out"))


def test_a_folder_may_be_named_otherwise(again: list[str], cli: Cli, tmp_path: Path) -> None:
    """Absolutely, through a link, or from another folder: what is done stays done."""
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "elsewhere").mkdir()
    for given in (tmp_path / "in", Path("link"), Path("./in/../in")):
        assert "6 images are done already, 0 are left" in cli("explain", given, *again[2:]).err
    os.chdir("elsewhere")
    assert "6 images are done already, 0 are left" in cli(
        "explain", "../in", *again[2:4], "--out", "../out", "--resume"
    ).err  # fmt: skip


def test_other_pictures_of_the_same_names_are_refused(again: list[str], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").rename(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    fill(tmp_path / "new", [f"{i}.png" for i in (5, 4, 3, 2, 1, 0)])  # the same pictures in another order
    ran = cli("explain", "new", *again[2:])
    assert ran.status == 2
    assert "was written for in/0.png, not for new/0.png" in ran.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no record of a run, or a damaged one"),
        (bytes(400), "is no record of a run, or a damaged one"),
        (b"[" * 100_000, "is no record of a run, or a damaged one"),
        (b'{"schema":"heatcli.run/1","version":"1","parameters":{"model":"\xff"}}', "or a damaged one"),
        (b'{"schema":"heatcli.run/1","version":1,"parameters":[]}', "or a damaged one"),
        (
            b'{"schema":"heatcli.run/2","version":"1","parameters":{}}',
            "is of another version of heatcli",
        ),
        (None, "out/index.jsonl: has no run.json beside it"),
    ],
)
def test_a_damaged_record_says_so(content: bytes | None, said: str, again: list[str], cli: Cli) -> None:
    if content is None:
        Path("out/run.json").unlink()
    else:
        Path("out/run.json").write_bytes(content)
    ran = cli(*again)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert said in ran.err
    assert "give another folder" in ran.err


@pytest.mark.parametrize(
    ("damage", "said", "done"),
    [
        (lambda lines: [b"\0" * 50 + b"\n", *lines[1:]], "line 1 is damaged and left out", 5),
        (lambda lines: [b"\0" * sum(map(len, lines))], "line 1 is damaged", 0),
        (
            lambda lines: [*lines[:2], b"?" + lines[2], b"[]\n", *lines[3:]],
            "2 lines (3, 4) are damaged and left out",
            5,
        ),
        (lambda lines: [line.replace(b'"bytes":', b'"bytes":null,"x":') for line in lines], "6 lines (1, 2, 3", 0),
        (lambda lines: [lines[0].replace(b'"sha256":"', b'"x":"\xff'), *lines[1:]], "line 1 is damaged", 5),
        (lambda _: [], "out/index.jsonl: is not there or empty; every image counts as not done", 0),
        (lambda lines: [*lines[:5], lines[5][:-9]], "", 5),  # what an interrupted write leaves
    ],
)
def test_a_damaged_index_says_so(damage: object, said: str, done: int, again: list[str], cli: Cli) -> None:
    index = Path("out/index.jsonl")
    index.write_bytes(b"".join(damage(index.read_bytes().splitlines(keepends=True))))  # type: ignore[operator]
    ran = cli(*again)
    assert ran.status == 0
    assert said in ran.err
    assert bool(said) == ("note:" in ran.err)
    assert not done or f"{done} images are done already, {6 - done} are left" in ran.err
    assert sorted(row["image"] for row in rows(Path("out"))) == [f"in/{i}.png" for i in range(6)]
    whole(Path("out"))


def test_an_index_of_another_version_is_left_alone(again: list[str], cli: Cli) -> None:
    index = Path("out/index.jsonl")
    index.write_bytes(index.read_bytes().replace(b"heatcli.index/1", b"heatcli.index/2"))
    before = index.read_bytes()
    for command in (again, ["merge", "out", "-o", "joined.jsonl"]):
        ran = cli(*command)
        assert (ran.status, ran.err.count("\n")) == (2, 1)
        assert "out/index.jsonl: is of another version of heatcli, heatcli.index/2, not heatcli.index/1" in ran.err
    assert index.read_bytes() == before
    assert not Path("joined.jsonl").exists()


def test_readers_take_anything(finished: Path, tmp_path: Path) -> None:
    """Rows of whole images, or one line that names the file; `tests/measure/reliability` tries more."""
    rng = random.Random(0)
    ended = dict[bool, int]()
    for name, read in (("index.jsonl", lambda path: [*images(path)]), ("run.json", read_record)):
        content, path = (finished / "out" / name).read_bytes(), tmp_path / name
        for _ in range(400):
            path.write_bytes(mutated(rng, content))
            said = ""
            try:
                read(path)
            except UsageError as error:
                said = str(error)
            assert not said or (said.startswith(f"{path}: ") and "\n" not in said)
            ended[bool(said)] = ended.get(bool(said), 0) + 1
    assert min(ended.values()) > 100


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """What did not fit is taken back; a line that a killed process has not ended is ended by the next one."""
    (tmp_path / "lock").touch()
    index = Index(tmp_path, tmp_path / "lock", str(tmp_path))
    index.append([Row(image="a", stem="a")])
    whole_lines = index.path.read_bytes()
    with limited(resource.RLIMIT_FSIZE, len(whole_lines) + 20), pytest.raises(UsageError, match="cannot be written"):
        index.append([Row(image="b", stem="b")])
    assert index.path.read_bytes() == whole_lines
    index.path.write_bytes(whole_lines + b'{"image":"c",')
    index.append([Row(image="d", stem="d")])
    damaged: list[int] = []
    assert [found[0][0].image for found in images(index.path, damaged)] == ["a", "d"]
    assert damaged == [2]


def test_a_run_on_a_full_disk_goes_on_later(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "in", [f"{i}.png" for i in range(40)])
    command = ["explain", "in", "--model", tiny, "--out", "out", "--batch-size", "4"]
    with limited(resource.RLIMIT_FSIZE, 12_000):  # reports are smaller, the index becomes larger
        ran = cli(*command)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "out/index.jsonl: cannot be written: File too large" in ran.err
    assert 0 < len(rows(tmp_path / "out")) < 40
    assert cli(*command, "--resume").status == 0
    assert len(rows(tmp_path / "out")) == 40
    whole(tmp_path / "out")


def test_names_that_are_no_unicode_or_too_long(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """A name that our suffix makes too long is that image's failure; a line of the index takes any name."""
    fill(tmp_path / "in", ["a.png", "z" * 245 + ".png"])
    ran = cli("explain", "in", "--model", tiny, "--out", "out", "--target", "top:2")
    assert ran.status == 1
    assert "cannot be written: File name too long" in ran.err
    assert [(row["image"][:4], row["rank"]) for row in rows(tmp_path / "out")] == [
        ("in/a", 1), ("in/a", 2), ("in/z", None),
    ]  # fmt: skip
    Path("other").mkdir()
    (tmp_path / "in" / "a.png").rename(tmp_path / "other" / os.fsdecode(b"\xff.png"))
    for _ in range(2):
        ran = cli("explain", "other", "--model", tiny, "--out", "names", "--resume")
        assert (ran.status, ran.err.count("its name is not UTF-8; rename it")) == (1, 1)
        assert [row["image"] for row in rows(tmp_path / "names")] == ["other/\\xff.png"]
    line = line_of(Row(image=os.fsdecode(b"\xff.png"), stem="x", error="bad"))
    assert json.loads(line)["image"] == "\\xff.png"


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path) -> None:
    """Real memory: less than a batch of 32 needs, and enough for some images."""
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    torch.jit.script(net.eval()).save(tmp_path / "wide.pt")
    fill(tmp_path / "in", [f"{i:02}.png" for i in range(32)])
    model = heatcli.load(tmp_path / "wide.pt", size=(160, 160), preset="none")
    request = Request((tmp_path / "in",), tmp_path / "out", method("gradient"), pixels="none", batch_size=32)
    (tmp_path / "out").mkdir()
    worker = Worker(model, request, 0.0, lambda: False)
    jobs = list(plan_outputs(request))
    assert len(list(worker.explain(jobs[:2]))) == 2  # captured and compared, with all memory
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, in_use + (140 << 20)):
        outcomes = list(worker.explain(jobs))
    assert [outcome.job.path for outcome in outcomes] == [job.path for job in jobs]
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    notes = [note for note in model.notes if "memory is too small for 32 images at once; on with 16" in note]
    assert len(notes) == 1
