"""Sequences: FASTA and arrays in, logos and reports out; references of letters."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from conftest import MODELS, ROOT, Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import save
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import ImageError, UsageError
from heatcli.methods.table import METHODS
from heatcli.report.schema import json_schema
from heatcli.sequences.logo import logo
from heatcli.sequences.read import onehot, read_sequences
from heatcli.sequences.references import explain_sequences, references, shuffled

MOTIFS = MODELS / "motifs.onnx"
SAMPLE = ROOT / "samples" / "sequences" / "motifs.fa"
LETTERS = st.text("ACGT", min_size=2, max_size=60)


class Counts(nn.Module):
    """How often GA and how often TT occurs, for sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Conv1d(4, 2, 2)
        with torch.no_grad():
            self.pairs.weight.zero_()
            self.pairs.bias.fill_(-1)
            self.pairs.weight[0, 2, 0] = self.pairs.weight[0, 0, 1] = 1
            self.pairs.weight[1, 3] = 1

    def forward(self, onehot: Tensor) -> Tensor:
        return torch.relu(self.pairs(onehot)).sum(2)


def test_fasta(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_text(">one a comment\nACGT\nacg\n>two\nNNT\n\n>three\nUUA\n")
    found = read_sequences(path, "ACGT")
    assert [(s.name, s.letters, s.alone) for s in found] == [
        ("one", "ACGTACG", False), ("two", "NNT", False), ("three", "TTA", False)
    ]  # fmt: skip
    assert found[0].onehot.argmax(0).tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert found[1].onehot[:, 0].tolist() == [0.25] * 4


def test_arrays(tmp_path: Path) -> None:
    hot = onehot("ACGTT", "ACGT")
    for name, array in (("a", hot), ("b", hot.T), ("c", hot[None])):
        np.save(tmp_path / f"{name}.npy", array)
        (found,) = read_sequences(tmp_path / f"{name}.npy", "ACGT")
        assert found.letters == "ACGTT"
        assert np.array_equal(found.onehot, hot)
    np.save(tmp_path / "soft.npy", 0.5 * hot)
    assert read_sequences(tmp_path / "soft.npy", "ACGT")[0].letters == "NNNNN"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no FASTA file: it does not start with >NAME"),
        (b"ACGT", "is no FASTA file: it does not start with >NAME"),
        (b"\xff\xfe", "is no FASTA file"),
        (b">x\n", "sequence x is empty"),
        (b">x\nACXT", "sequence x holds 'X'; the model reads ACGT (and N)"),
        (b">x\nACT", "sequence x has 3 letters, the model takes 4"),
    ],
)
def test_what_is_no_sequence(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(ImageError) as error:
        read_sequences(path, "ACGT", 4)
    assert text in str(error.value)


@given(LETTERS, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_shuffling_keeps_pairs(letters: str, seed: int) -> None:
    """The shuffle has the same letters and the same pairs of neighbours, and the same ends."""
    hot = onehot(letters, "ACGT")
    made = "".join("ACGT"[i] for i in shuffled(hot, np.random.default_rng(seed)).argmax(0))
    assert Counter(pairwise(letters)) == Counter(pairwise(made))
    assert (made[0], made[-1]) == (letters[0], letters[-1])


@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
def test_every_format_reads_sequences(form: str, tmp_path: Path) -> None:
    """LRP-0 gives each GA its letters, in all formats; what the artifact does not say, the sidecar does."""
    path = save(Counts(), tmp_path, form, shape=(4, 9))
    path.with_suffix(".toml").write_text('[input]\nalphabet = "ACGT"\n')
    model = heatcli.load(path)
    batch = torch.from_numpy(onehot("CGATTGACC", "ACGT"))[None]
    result = explain_sequences(model, batch, METHODS["lrp-0"], target=0)
    assert result.outputs.tolist() == [[2.0, 1.0]]
    assert result.relevance.sum(1)[0].tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert result.biases["pairs.bias"].sum().item() == pytest.approx(-2)


def test_references_and_the_mean_over_shuffles() -> None:
    """Background frequencies and shuffles cancel biases; the mean over shuffles keeps the ledger exact."""
    model = heatcli.load(MOTIFS)
    batch = torch.from_numpy(np.stack([s.onehot for s in read_sequences(SAMPLE, "ACGT")]))
    (background,) = references(model, batch, "background").batches
    assert background[0, :, 7].tolist() == pytest.approx([0.3, 0.2, 0.2, 0.3])
    (own,) = references(model, batch, "background:0.1,0.2,0.3,0.4").batches
    assert own[0, :, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    for baseline in ("background", "shuffle:3", "zero"):
        result = explain_sequences(model, batch, METHODS["deeplift-rescale"], "GATA", baseline)
        assert result.reference.name == baseline.split(":")[0]
        assert float(result.ledger.relative_error.max()) < 1e-5
        assert float(result.ledger.biases.abs().max()) == 0
    parts = [
        heatcli.explain(model, batch, "deeplift-rescale", "GATA", one)
        for one in references(model, batch, "shuffle:3").batches
    ]
    mean = explain_sequences(model, batch, METHODS["deeplift-rescale"], "GATA", "shuffle:3")
    assert torch.allclose(mean.relevance, sum(p.relevance for p in parts) / 3, atol=1e-6)
    for text in ("blur", "shuffle:0", "background:1,2", "background:x"):
        with pytest.raises(UsageError):
            references(model, batch, text)


def test_planted_motifs_get_the_relevance() -> None:
    """DeepLIFT against the background puts most of its positive relevance on planted GATA motifs."""
    model = heatcli.load(MOTIFS)
    found = [s for s in read_sequences(SAMPLE, "ACGT") if "GATA" in s.name]
    places = dict(line[1:].split(" ", 1) for line in SAMPLE.read_text().splitlines() if line.startswith(">"))
    batch = torch.from_numpy(np.stack([s.onehot for s in found]))
    result = explain_sequences(model, batch, METHODS["deeplift-rescale"], "GATA", "background")
    for one, relevance in zip(found, result.relevance.sum(1).clamp(min=0), strict=True):
        starts = [int(p[5:]) for p in places[one.name].split() if p.startswith("GATA@")]
        inside = torch.zeros(200, dtype=torch.bool)
        for start in starts:
            inside[start : start + 10] = True
        share = float(relevance[inside].sum() / relevance.sum())
        assert share > 4 * float(inside.float().mean()), one.name


def test_explain_writes_logos_and_reports(cli: Cli, tmp_path: Path) -> None:
    ran = cli("explain", SAMPLE, "--model", MOTIFS, "--target", "GATA", "--baseline", "shuffle:2",
                  "--method", "deeplift-rescale", "--json")  # fmt: skip
    assert ran.status == 0, ran.err
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert len(reports) == 5
    for report in reports:
        jsonschema.validate(report, json_schema())
        assert report["pixels"]["shape"] == [1, 200]
        assert report["baseline"] == {"name": "shuffle", "count": 2}
        assert report["image"]["width"] == len(report["image"]["sequence"]["letters"]) == 200
        assert sum(report["pixels"]["values"][0]) == pytest.approx(report["ledger"]["pixels"], abs=1e-5)
        with Image.open(tmp_path / "heatmaps" / report["files"]["overlay"]) as picture:
            assert picture.width > 1200
    assert reports[0]["files"]["overlay"] == "motifs.0-GATA.deeplift-rescale.png"


def test_the_logo_is_as_high_as_the_relevance() -> None:
    """Letters fill their own box: a positive column above the line, a negative one below, nothing for 0."""
    import io

    pixels = np.asarray(Image.open(io.BytesIO(logo("TNA", np.array([2.0, 0.0, -1.0]), "x"))).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    green = (pixels[..., 1] > 120) & (pixels[..., 0] < 60)
    red_rows, green_rows = (np.flatnonzero(mask.any(1)) for mask in (red, green))
    assert red_rows.max() <= green_rows.min() + 2
    assert np.ptp(red_rows) / np.ptp(green_rows) == pytest.approx(2, rel=0.1)


def test_errors_and_other_commands(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.fa").write_text(">a\nACGT\n")
    (tmp_path / "twice.fa").write_text(f">a\n{'ACGT' * 50}\n>a\n{'ACGT' * 50}\n")
    (tmp_path / "empty").mkdir()
    for command, status, text in (
        (["explain", "short.fa", "--model", MOTIFS], 1, "sequence a has 4 letters, the model takes 200"),
        (["explain", "no.fa", "--model", MOTIFS], 1, "no.fa: no such file"),
        (["explain", "empty", "--model", MOTIFS], 2, "empty: no sequences in this folder"),
        (["explain", "twice.fa", "--model", MOTIFS], 2, "would both write heatmaps/twice.a.lrp-eps.png"),
        (["explain", SAMPLE, "--model", MOTIFS, "--baseline", "blur"], 2, "unknown baseline for sequences 'blur'"),
        (["explain", SAMPLE, "--model", MOTIFS, "--method", "gradient", "--baseline", "zero"], 2, "takes no baseline"),
        (["explain", SAMPLE, "--model", MOTIFS, "--target", "SOX"], 2, "unknown label 'SOX'"),
        (["activations", SAMPLE, "--model", MOTIFS], 2, "reads sequences of ACGT, and pictures are needed here"),
    ):
        ran = cli(*command)
        assert (ran.status, ran.err.count("\n")) == (status, 1), ran.err
        assert text in ran.err
    ran = cli("explain", SAMPLE, "--model", MOTIFS, "--pixels", "npz", "--out", "o")
    assert ran.status == 0
    with np.load(tmp_path / "o" / "motifs.1-TAL.lrp-eps.npz") as arrays:
        assert arrays["relevance"].shape == (4, 200)
    assert cli("filters", MOTIFS).status == 0
    assert json.loads(cli("inspect", MOTIFS, "--json").out)["input"]["shape"] == [None, 4, 200]
