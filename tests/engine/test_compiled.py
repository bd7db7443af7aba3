"""`--compile`: what is recorded computes what the walk computes, and what is compiled says what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLES, needs_compiler
from networks import NETWORKS, graph_of, images, load, network, save
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from heatcli.engine.compiled import Baseline, Compiler, record
from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books
from heatcli.engine.values import values_of
from heatcli.engine.walk import walk
from heatcli.explanation import explain
from heatcli.graph.kinds import mark_first
from heatcli.graph.mixed_precision import mixed_precision
from heatcli.graph.operator import Graph
from heatcli.methods.table import METHODS, Method, method

BACKWARD = [name for name, m in METHODS.items() if m.kind == "backward"]


def assert_recorded(graph: Graph, x: Tensor, chosen: Method, baseline: Baseline) -> None:
    """Both halves, run operator by operator, are the forward run and the walk."""
    ends = (torch.full((1, 3, 1, 1), -4.0), torch.full((1, 3, 1, 1), 4.0))
    given, form = pytree.tree_flatten(() if baseline is None else baseline)
    halves = record(graph, [x, *given], form, chosen.rules, ends)
    tape, books = forward(graph, x, baseline, rules=chosen.rules), Books.open(graph, x)
    tape.bound(*ends)
    seed = torch.randn_like(tape.output)
    with torch.no_grad():
        output, *rest = halves.run(x, *given)
        returned = halves.back(seed, x, *given, *rest[halves.outputs - 1 :])
    multiplier, direct, *booked = pytree.tree_unflatten(returned, halves.form)
    torch.testing.assert_close(output, tape.output)
    if tape.reference_output is not None and halves.outputs > 1:
        torch.testing.assert_close(rest[0], tape.reference_output)
    torch.testing.assert_close(multiplier, walk(tape, chosen.rules, seed, books))
    if books.direct is None:
        assert direct is None
    else:
        torch.testing.assert_close(direct, books.direct)
    for found, entries in zip(booked, (books.biases, books.absorbed, books.unexplained), strict=True):
        assert all(not bool(found[name].any()) for name in found.keys() - entries.keys())
        torch.testing.assert_close({name: found[name] for name in entries}, dict(entries))


@pytest.mark.parametrize("name", BACKWARD)
def test_every_method_of_one_walk_is_recorded(name: str) -> None:
    """From reference 0 where it can be, and from a baseline an image."""
    x, chosen = images(2, 3), method(name)
    graph = graph_of(network("residual"), x)
    assert_recorded(graph, x, chosen, None if chosen.baseline in (None, "none") else images(2, 5))


@pytest.mark.parametrize("which", list(NETWORKS))
@pytest.mark.parametrize("name", ["lrp-eps", "lrp-z-plus", "deeplift-rescale"])
def test_every_kind_of_operator_is_recorded(name: str, which: str) -> None:
    """With every value of a baseline that all images share."""
    x, chosen = images(2, 3), method(name)
    shared = values_of(graph_of(network(which), x[:1]), torch.zeros_like(x[:1]))
    assert_recorded(graph_of(network(which), x), x, chosen, shared if "deeplift" in name else None)


@pytest.mark.parametrize("name", ["lrp-eps", "deep-taylor", "deeplift-rescale"])
def test_mixed_precision_is_recorded(name: str) -> None:
    x, chosen = images(2, 3), method(name)
    graph = mixed_precision(graph_of(network("residual"), x))
    assert_recorded(mark_first(graph), x, chosen, torch.zeros_like(x) if "deeplift" in name else None)


@pytest.fixture(scope="module", autouse=True)
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Machine code is kept in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("code")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder


def shallow() -> nn.Module:
    """A network of two layers, so that little is compiled."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
@pytest.mark.parametrize(
    ("module", "name", "more"),
    [
        (shallow, "lrp-eps", {}),
        *(
            pytest.param(module, name, more, marks=pytest.mark.slow, id=f"{which}-{name}")
            for which, module in (("shallow", shallow), ("excited", partial(network, "excited")))
            for name, more in (("lrp-eps", {}), ("deeplift-rescale", {}), ("integrated-gradients", {"steps": 16}))
        ),
    ],
)
def test_what_is_compiled_says_the_same(
    tmp_path: Path, code_folder: Path, module: Callable[[], nn.Module], name: str, more: dict[str, int]
) -> None:
    """From the second batch of a shape on; the last, smaller one of a folder is not worth it."""
    assert code_folder.is_dir()
    plain, fast = load(module(), tmp_path), load(module(), tmp_path)
    said: list[str] = []
    fast.network.compiler = Compiler(said.append)
    for i, x in enumerate((images(3, 1), images(3, 2), images(3, 3), images(1, 4))):
        own, other = (explain(model, x, name, **more) for model in (fast, plain))
        torch.testing.assert_close(own.relevance, other.relevance, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(own.outputs, other.outputs)
        for part in ("biases", "absorbed", "unexplained"):
            torch.testing.assert_close(getattr(own, part), getattr(other, part), rtol=1e-4, atol=1e-6)
        assert float(own.ledger.relative_error.max()) < 1e-5 or not METHODS[name].conserves
        assert len(said) == (i > 0 or "steps" in more)
    assert said[0].startswith("compiling a walk for batches of ")


def test_one_image_pays_for_nothing(tmp_path: Path) -> None:
    """Asked once, it compiles nothing."""
    model = load(network("plain"), tmp_path)
    said: list[str] = []
    model.network.compiler = Compiler(said.append)
    for name in ("lrp-eps", "lrp-0", "deeplift-rescale", "taylor"):  # the last walks from a point other than the image
        explain(model, images(1), name)
    assert not said


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    """In one line, at the second batch; what was done stays."""
    names = ["1.png", "2.png", "3.png"]
    picture = SAMPLES / "wolf-on-snow.png"
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(picture, tmp_path / "in" / name)
    ran = explained(tmp_path, "--compile", "--workers", "1", *small(tmp_path), CXX=str(tmp_path / "no-compiler"))
    assert ran.returncode == 2
    *_, last = ran.stderr.splitlines()
    assert last.startswith("heatcli: --compile fails here: ")
    assert last.endswith("install a C++ compiler such as g++, or leave --compile out")
    index = (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    done = [Path(json.loads(line)["image"]).name for line in index]
    assert done[0] == "1.png"
    assert "2.png" not in done


def explained(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`heatcli explain in` as a process of its own, one image a batch."""
    arguments = ["explain", str(folder / "in"), "--out", str(folder / "out"), "--batch-size", "1", *flags]
    known = os.environ | environment
    return subprocess.run(
        [sys.executable, "-m", "heatcli", *arguments], env=known, text=True, capture_output=True, check=False
    )


def small(folder: Path) -> list[str]:
    """The options for a network of two layers."""
    return ["--model", str(save(shallow(), folder)), "--size", "96", "--channels", "3", "--preset", "none"]


@needs_compiler
@pytest.mark.parametrize("model", ["shallow", pytest.param("animals", marks=pytest.mark.slow)])
def test_the_command(tmp_path: Path, model: str) -> None:
    """Maps of a folder are the same, but for rounding."""
    samples = sorted(SAMPLES.glob("*.png"))[:4]
    more = small(tmp_path) if model == "shallow" else []
    (tmp_path / "in").mkdir()
    for sample in samples:
        shutil.copy(sample, tmp_path / "in" / sample.name)
    found = []
    for flags in (["--compile"], []):
        ran = explained(tmp_path, "--workers", "1", "--pixels", "npz", *more, *flags)
        assert ran.returncode == 0, ran.stderr
        assert ("compiling a walk for batches of 1×3×96×96" in ran.stderr) == bool(flags)
        files = sorted((tmp_path / "out").glob("*.npz"))
        assert len(files) == len(samples)
        found.append([np.load(file)["relevance"] for file in files])
        shutil.rmtree(tmp_path / "out")
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-5)
