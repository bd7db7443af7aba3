"""Inputs of two sizes in one folder: every command works on them, or refuses in one line that names two files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from kinds import AXES, WORDS, checked, module_of
from PIL import Image
from torch import nn

import heatcli
from heatcli.cli.app import app
from heatcli.evaluate import perturbation
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.metrics import Curve
from heatcli.evaluate.subjects import Subjects, subjects
from heatcli.images.dataset import Sample, read

SIZES = {"signal": ((2, 48), (2, 60)), "last": ((48, 2), (60, 2)), "volume": ((1, 6, 7, 8), (1, 8, 9, 8)),
         "tokens": ((12,), (15,))}  # fmt: skip
NAMES = "abcde"  # a, c and e have the first size, b and d the second
FORMS = [("signal", "pt"), ("signal", "onnx"), ("last", "onnx"), ("volume", "onnx"), ("tokens", "pt")]


def artifact(kind: str, folder: Path, form: str) -> Path:
    """The network of that kind, which takes any size: traced, or as ONNX with an axis for each side."""
    module, shape, path = module_of(kind), SIZES[kind][0], folder / f"{kind}.{form}"
    example = torch.randint(0, WORDS, (1, *shape)) if kind == "tokens" else torch.rand(1, *shape)
    if form == "pt":
        torch.jit.trace(module, example).save(str(path))
        return path
    channel = AXES[kind].find("C")
    axes = {"x": {i: f"d{i}" for i in range(example.dim()) if i != channel}, "y": {0: "d0"}}
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), path, dynamo=False, verbose=False, **names)
    return path


def inputs(kind: str, folder: Path, names: Sequence[str] = NAMES) -> Path:
    """A folder of inputs of two sizes; those of one name are the same in every folder."""
    folder.mkdir(parents=True)
    for name in names:
        rng, shape = np.random.default_rng(ord(name)), SIZES[kind][NAMES.index(name) % 2]
        values = rng.integers(0, WORDS, shape) if kind == "tokens" else rng.normal(size=shape).astype(np.float32)
        np.save(folder / f"{name}.npy", values)
    return folder


def subjects_of(kind: str, form: str, folder: Path) -> Subjects:
    model = heatcli.load(artifact(kind, folder, form), axes=AXES[kind])
    found = read([inputs(kind, folder / "in")], (), model.pictures.fit, None, model.pictures.reader)
    return subjects(model, [sample for sample in found if isinstance(sample, Sample)])


FEW = "pixel-flipping:steps=4"
WORK = {
    "explain": "in -m MODEL --method lrp-eps --overwrite",
    "explain, tuned": "in -m MODEL --method lrp-gamma --param gamma=auto --overwrite",
    "check": "MODEL in --json",
    "compare": "MODEL MODEL in --most-difference 1e-6",
    "compare, methods": "lrp-eps lrp-0 in -m MODEL",
    "evaluate": f"MODEL in --metric {FEW} --metric complexity --metric randomisation --metric deletion:steps=4",
    "evaluate, recommend": "MODEL in --recommend --methods lrp-eps@zero,lrp-epsilon-plus@zero",
    "activations": "in -m MODEL",
    "gallery": "heatmaps",
    "show": "heatmaps --out shown",
    "filters": "MODEL",
    "inspect": "MODEL",
}
PICTURES_ONLY = "and pictures are needed here"
REFUSED = {  # command → its arguments, the exit status, and what it says
    "explain, baseline": ("in -m MODEL --baseline in/a.npy --overwrite", 1, "in/b.npy: is ONE as input"),
    "explain, pool": ("in -m MODEL --method expected-gradients --baseline in", 2, "a.npy is "),
    "mean": ("in -m MODEL -o m.npz", 1, "and in/a.npy is "),
    "activations, top": ("in -m MODEL --layer last --channel 1 --top-images 2", 2, PICTURES_ONLY),
    "concepts": ("in -m MODEL --layer last", 2, PICTURES_ONLY),
    "discover": ("heatmaps", 2, ""),  # of a few files
}
ELSEWHERE = {  # commands that take no folder of inputs beside a model, or only of pictures
    "bench", "config", "export", "fit-expert", "help", "joint", "merge", "methods", "prototype",
}  # fmt: skip


def test_no_command_is_left_out() -> None:
    names = {command.name for command in app.registered_commands}
    assert names == {name.partition(",")[0] for name in (*WORK, *REFUSED)} | ELSEWHERE


def split(arguments: str, model: Path, kind: str) -> list[str]:
    axes = ["--axes", AXES[kind]] if "MODEL" in arguments else []
    return [*arguments.replace("MODEL", model.name).split(), *axes]


@pytest.mark.parametrize(
    ("kind", "form"), [pytest.param(*one, marks=[] if one == ("signal", "onnx") else pytest.mark.slow) for one in FORMS]
)
def test_commands_work_on_two_sizes(tmp_path: Path, cli: Cli, kind: str, form: str) -> None:
    path = artifact(kind, tmp_path, form)
    inputs(kind, tmp_path / "in")
    for name, arguments in WORK.items():
        ran = cli(name.partition(",")[0], *split(arguments, path, kind))
        assert ran.status == 0 or (name == "check" and ran.status == 1), (name, ran.err)
        assert "internal error" not in ran.err, name
        assert all(f"{one}.npy" in ran.out for one in NAMES) or name != "check", ran.out
    for name, (arguments, status, told) in REFUSED.items():
        ran = cli(name.partition(",")[0], *split(arguments, path, kind))
        assert ran.status == status, (name, ran.err)
        said = [line for line in ran.err.splitlines() if line.startswith("heatcli: ") and ": note: " not in line]
        one = "×".join(map(str, SIZES[kind][1]))
        assert told.replace("ONE", one) in said[0], (name, ran.err)
        assert len(said) == (2 if status == 1 else 1), (name, ran.err)  # one for b and one for d


@pytest.mark.parametrize(("kind", "form"), FORMS[::2])
def test_checks_find_of_each_input_what_they_find_without_the_others(
    tmp_path: Path, cli: Cli, kind: str, form: str
) -> None:
    """Of each image; and what is a mean over images is between the means of both sizes."""
    path = artifact(kind, tmp_path, form)
    both = [tmp_path / "one" / "in", tmp_path / "other" / "in"]
    folders = [inputs(kind, tmp_path / "in"), inputs(kind, both[0], "ace"), inputs(kind, both[1], "bd")]
    (tmp_path / "s.toml").write_text(
        '[finite]\n[ledger]\n[bias-share]\n[randomisation]\n[stability]\nsigma = 0\n[golden]\nmethods = ["lrp-eps"]\n'
    )
    cli("check", path, folders[0], "--axes", AXES[kind], "--spec", tmp_path / "s.toml", "--update-golden")

    def found(folder: Path) -> dict[tuple[str, ...], Any]:
        """The results by check, image, method and quantity."""
        _, results, err = checked(cli, path, folder, "--axes", AXES[kind], "--spec", tmp_path / "s.toml")
        assert results, err
        keys = [(r["check"], Path(r["image"] or "").stem, r["method"] or "", r["quantity"]) for r in results]
        return {key: r["measured"] for key, r in zip(keys, results, strict=True)}

    whole, *parts = map(found, folders)
    for key, measured in whole.items():
        own = [part[key] for part in parts if key in part]
        if key[1]:
            assert own == [measured] or own == pytest.approx([measured], abs=1e-4), key
        elif not isinstance(measured, str):
            assert measured == pytest.approx((3 * own[0] + 2 * own[1]) / 5, abs=1e-4), key
    assert {key[1] for key in whole} == {"", *NAMES}
    assert {key[0] for key in whole} == {"finite", "ledger", "bias-share", "randomisation", "stability", "golden"}


@pytest.mark.parametrize(("kind", "form"), FORMS[:2])
def test_comparisons_are_those_of_each_size(tmp_path: Path, cli: Cli, kind: str, form: str) -> None:
    path = artifact(kind, tmp_path, form)
    folders = [inputs(kind, tmp_path / "in"), inputs(kind, tmp_path / "x", "ace"), inputs(kind, tmp_path / "y", "bd")]
    found = []
    for folder in folders:
        ran = cli("compare", "lrp-eps", "lrp-epsilon-plus", folder, "-m", path, "--axes", AXES[kind], "--json")
        assert ran.status == 0, ran.err
        found.append(json.loads(ran.out))
    whole, *parts = ({Path(pair["image"]).stem: pair for pair in one["pairs"]} for one in found)
    assert whole.keys() == set(NAMES)
    for name, pair in (parts[0] | parts[1]).items():
        assert whole[name]["heatmap_difference"] == pytest.approx(pair["heatmap_difference"], rel=1e-4)
        assert whole[name]["ssim"] == pytest.approx(pair["ssim"], rel=1e-4)
    for name, mean in found[0]["biases"].items():
        assert mean["b"] == pytest.approx((3 * found[1]["biases"][name]["b"] + 2 * found[2]["biases"][name]["b"]) / 5)


def test_metrics_keep_the_order_of_the_inputs(tmp_path: Path, cli: Cli) -> None:
    """And a curve of a short signal, which runs out of regions, stays where it ended."""
    path = artifact("signal", tmp_path, "onnx")
    asked = ["--metric", "complexity", "--metric", "pixel-flipping:region=10", "--methods", "lrp-eps", "--json"]
    values = []
    for folder in (inputs("signal", tmp_path / "in"), inputs("signal", tmp_path / "y", "bd")):
        ran = cli("evaluate", path, folder, *asked)
        assert ran.status == 0, ran.err
        found = json.loads(ran.out)
        values.append({row["column"]: row["values"] for row in found["rows"] if row["method"] == "lrp-eps"})
        assert [len(curve["x"]) for curve in found["curves"]] == [7] * len(found["curves"])
        assert [Path(name).stem for name in found["names"]] == list(NAMES if folder.name == "in" else "bd")
    assert [values[0]["entropy"][i] for i in (1, 3)] == pytest.approx(values[1]["entropy"], rel=1e-5)
    curve = Curve((0, 1), torch.tensor([[3.0, 1.0]]), "", "")
    assert curve.until((0, 1, 2, 3)).tolist() == [[3, 1, 1, 1]]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_ranges_and_replaced_values_are_of_all_sizes(tmp_path: Path, kind: str, form: str) -> None:
    """A single short signal beside long ones gets values from these, too, and the same amount of noise."""
    own = subjects_of(kind, form, tmp_path)
    assert [len(part) for part in own.parts] == [3, 2]
    assert [Path(name).stem for name in own.names] == list(NAMES)
    first = own.parts[0].values
    assert first.shape[1] == sum(part.layout.first(part.batch)[:, 0].numel() for part in own.parts)
    for part in own.parts:
        assert torch.equal(part.values.sort(1).values, first.sort(1).values)
        if kind != "tokens":
            assert torch.equal(part.pixel_range, own.parts[0].pixel_range)
        assert set(perturbation.noise(part).flatten().tolist()) <= set(first.flatten().tolist())


def test_rows_keep_their_names_maps_and_order(tmp_path: Path) -> None:
    own = subjects_of("signal", "pt", tmp_path)
    explainer = Explainer.parse("lrp-eps")
    total = own.each(lambda part: part.heatmaps(explainer).flatten(1).sum(1))
    for numbers in ([0, 1, 4], [1, 3], [2], []):
        some = own.rows(torch.tensor(numbers, dtype=torch.int64))
        assert [Path(name).stem for name in some.names] == [NAMES[i] for i in numbers] if numbers else not len(some)
        assert [sample.path.stem for sample in some.samples] == [NAMES[i] for i in numbers]
        if numbers:
            found = some.each(lambda part: part.heatmaps(explainer).flatten(1).sum(1))
            assert torch.allclose(found, total[numbers])
    with pytest.raises(heatcli.ModelError, match=r"other things for .*a\.npy than for .*b\.npy"):
        own.each(lambda part: part.batch)


def pictures(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """A folder of pictures of two sizes with masks; those of one name are the same in every folder."""
    (folder / "masks").mkdir(parents=True)
    for name in names:
        width, height = ((40, 32), (52, 44))[NAMES.index(name) % 2]
        mask = np.zeros((height, width), np.uint8)
        mask[4:20, 6:24] = 255
        noise = np.random.default_rng(ord(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


def test_pictures_at_their_own_sizes(tmp_path: Path, cli: Cli) -> None:
    """Masks and backgrounds, too: what is found of a picture is found without those of the other size."""
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    torch.jit.script(net.eval()).save(str(tmp_path / "net.pt"))
    (tmp_path / "s.toml").write_text("[ledger]\n[inside-mask]\n[background]\ncount = 1\n[stability]\nsigma = 0\n")
    folders = [pictures(tmp_path / "in"), pictures(tmp_path / "x", "ace"), pictures(tmp_path / "y", "bd")]
    found = []
    for folder in folders:
        status, results, err = checked(cli, tmp_path / "net.pt", folder, "--spec", tmp_path / "s.toml")
        assert status in (0, 1), err
        found.append({(r["check"], Path(r["image"]).stem, r["method"], r["quantity"]): r["measured"]
                      for r in results if r["image"]})  # fmt: skip
    whole, *parts = found
    assert {key[0] for key in whole} == {"ledger", "inside-mask", "background", "stability"}
    assert whole.keys() == parts[0].keys() | parts[1].keys()
    for key, measured in whole.items():
        assert measured == pytest.approx((parts[0] | parts[1])[key], abs=1e-4), key
    ran = cli("compare", "net.pt", "net.pt", "in", "--most-difference", "1e-6")
    assert ran.status == 0, ran.err
    _, results, _ = checked(cli, "net.pt", "in/a.png", "in/b.png", "--spec", "s.toml")
    told = [r["measured"] for r in results if r["check"] == "background"]
    assert [f"in/{name}.png has a size of its own" in text for name, text in zip("ab", told, strict=True)] == [True] * 2
    ran = cli("check", "net.pt", "in", "--spec", _spec(tmp_path, "[unexpected-clusters]"))
    assert (ran.status, "pictures of one size; --size" in ran.err) == (2, True), ran.err


def _spec(folder: Path, text: str) -> Path:
    (folder / "t.toml").write_text(text)
    return folder / "t.toml"
