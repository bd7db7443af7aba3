"""Batches side by side: who has the network when, what is read again, and what is read once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Cli
from folders import fill, rows, whole
from hypothesis import given, settings
from hypothesis import strategies as st

import heatcli
from heatcli.methods.table import method
from heatcli.run import Done, Failed, Request, Run
from heatcli.run.work import stages
from heatcli.run.work.pipeline import Turns


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As on two cores, whatever runs the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8))
def test_batches_share_the_network(users: int) -> None:
    """At most two at once, one thread each; a lone batch has both."""
    turns, inside, seen, lock = Turns(2), list[int](), list[tuple[int, int]](), threading.Lock()
    turns.batches = set(range(users))

    def use(number: int) -> None:
        with turns.take():
            with lock:
                inside.append(number)
                seen.append((len(inside), torch.get_num_threads()))
            time.sleep(0.001)
            with lock:
                inside.remove(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == users
    for together, share in seen:
        assert together <= 2
        assert share == (1 if users > 1 else 2)


@pytest.mark.usefixtures("two_threads")
def test_side_by_side_is_as_one_by_one(tmp_path: Path, tiny: Path) -> None:
    """Order, failures at their place, and results: of one worker, of three, and of batches of other sizes."""
    fill(tmp_path / "in", [f"{i:02}.png" for i in range(23)])
    for i in (0, 7, 8, 22):
        (tmp_path / "in" / f"{i:02}.png").write_bytes(b"no picture")
    model, found = heatcli.load(tiny), []
    for workers, size in ((1, 23), (3, 4), (2, 1)):
        out = tmp_path / f"{workers}-{size}"
        request = Request((tmp_path / "in",), out, method("lrp-eps"), workers=workers, batch_size=size)
        outcomes = list(Run(model, request))
        assert [type(o) for o in outcomes] == [Failed if i in (0, 7, 8, 22) else Done for i in range(23)]
        whole(out)
        found.append(rows(out))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a["image"], a["sha256"], a["label"], a["error"]) == (
                b["image"],
                b["sha256"],
                b["label"],
                b["error"],
            )
            assert a["score"] == (b["score"] and pytest.approx(b["score"], rel=1e-5))
    assert torch.get_num_threads() == 2


def test_a_large_picture_is_not_held(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again when its overlay is written: the same overlay; gone meanwhile, it fails alone."""
    fill(tmp_path / "in", ["a.png", "b.png"])
    model = heatcli.load(tiny)
    held, again = (Request((tmp_path / "in",), tmp_path / name, method("lrp-eps")) for name in ("held", "again"))
    assert all(isinstance(o, Done) for o in Run(model, held))
    monkeypatch.setattr(stages, "LARGE", 10)
    assert all(isinstance(o, Done) for o in Run(model, again))
    for name in ("a.lrp-eps.png", "b.lrp-eps.png"):
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    explain = stages.explain

    def explain_and_lose(*arguments: object, **options: object) -> object:
        (tmp_path / "in" / "b.png").unlink()
        return explain(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "explain", explain_and_lose)
    outcomes = list(Run(model, Request((tmp_path / "in",), tmp_path / "lost", method("lrp-eps"))))
    assert [type(o) for o in outcomes] == [Done, Failed]
    assert "b.png: no such image file" in rows(tmp_path / "lost")[1]["error"]


def test_a_baseline_is_read_once(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image, and a pool; reports name them as before."""
    from heatcli.images.read import Reader

    read = list[str]()
    original = Reader.picture

    def reading(reader: Reader, path: Path | str) -> object:
        if Path(path).parent.name == "pool":
            read.append(Path(path).name)
        return original(reader, path)

    monkeypatch.setattr(Reader, "picture", reading)
    fill(tmp_path / "in", [f"{i}.png" for i in range(5)])
    fill(tmp_path / "pool", ["x.png", "y.png"])
    model = heatcli.load(tiny)
    for name, baseline, kind, files in (
        ("deep-shap", tmp_path / "pool", "pool", ["x.png", "y.png"]),
        ("deeplift-rescale", tmp_path / "pool" / "x.png", "image", ["x.png"]),
    ):
        read.clear()
        request = Request((tmp_path / "in",), tmp_path / name, method(name), baseline=str(baseline), batch_size=2)
        outcomes = list(Run(model, request))
        assert read == files
        reports = [o.report for o in outcomes if isinstance(o, Done)]
        assert [(r.baseline.name, r.baseline.file) for r in reports if r] == [(kind, str(baseline))] * 5


def test_a_wrong_baseline_is_told_before_work(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "in", ["a.png"])
    (tmp_path / "empty").mkdir()
    for name, baseline, told in (
        ("deep-shap", "empty", "baseline empty: holds no images"),
        ("deeplift-rescale", "in", "baseline in: is a directory; method deeplift-rescale compares with one image"),
        ("gradient", "in", "method gradient compares with nothing, so it takes no baseline"),
    ):
        ran = cli("explain", "in", "--model", tiny, "--out", name, "--method", name, "--baseline", baseline)
        assert (ran.status, ran.err.count("\n")) == (2, 1)
        assert told in ran.err
