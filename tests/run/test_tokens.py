"""Networks that read tokens (bytes, words): explained on what their embeddings look up, position by position."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.report.schema import json_schema

pytestmark = pytest.mark.usefixtures("default_figure")

WORDS, WIDE, LONG = 20, 6, 12
FORMS = ["scripted", "traced", "onnx-old", "onnx-new", "pt2"]
METHODS = ["lrp-0", "lrp-eps", "lrp-epsilon-plus", "deeplift-rescale", "deeplift-reveal-cancel"]


class Above(nn.Module):
    """What follows the embedding: a convolution along positions, its largest values, three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv1d(WIDE, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(rows.transpose(1, 2))).amax(2))


class Text(nn.Module):
    """A text CNN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.above = nn.Embedding(WORDS, WIDE), Above()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.above(self.table(tokens))


class OneHot(Text):
    """The same by letters one-hot, and a matrix."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.above(functional.one_hot(tokens, WORDS).float() @ self.table.weight)


class Compared(Text):
    """The same, one-hot by a comparison with each token, as JAX writes it."""

    def forward(self, tokens: Tensor) -> Tensor:
        each = tokens.unsqueeze(2).expand(-1, -1, WORDS)
        return self.above((each == torch.arange(WORDS)).float() @ self.table.weight)


class Shifted(Text):
    """The same with a table that begins at token 1, as with a row for padding, and tokens clamped."""

    def forward(self, tokens: Tensor) -> Tensor:
        table = torch.cat([torch.zeros(1, WIDE), self.table.weight])
        return self.above(functional.embedding(tokens.clamp(0, WORDS - 1) + 1, table))


class Bytes(nn.Module):
    """Bytes as numbers: 2·x/255 at the first position, nothing elsewhere."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([2 * (tokens.float() / 255)[:, 0], torch.zeros(len(tokens))], 1)


class Bag(nn.Module):
    """A linear network: the sum of what each token is worth."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 2)
        with torch.no_grad():
            self.table.weight.copy_(torch.stack([torch.arange(WORDS) ** 1.5, torch.zeros(WORDS)], 1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens).sum(1)


class Reversed(Text):
    """The tokens are moved before they are looked up."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.above(self.table(tokens.flip(1)))


class Masked(Text):
    """Padding, token 0, is left out by a mask, which is held as it is."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.above(self.table(tokens) * (tokens != 0).unsqueeze(2).float())


def tokens(rows: int = 1) -> Tensor:
    return torch.randint(1, WORDS, (rows, LONG), generator=torch.Generator().manual_seed(7))


def saved(module: nn.Module, folder: Path, form: str = "traced") -> Path:
    """The network of tokens, saved; of any number of positions where the format tells."""
    module, example = module.eval(), tokens()
    path = folder / f"network.{'onnx' if 'onnx' in form else 'pt2' if form == 'pt2' else 'pt'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "scripted":
            torch.jit.script(module).save(str(path))
        elif form == "traced":
            torch.jit.trace(module, example).save(str(path))
        elif form == "pt2":
            torch.export.save(torch.export.export(module, (example,)), path)
        else:
            more: dict[str, Any] = {"dynamic_axes": {"tokens": {0: "n", 1: "t"}}} if form == "onnx-old" else {}
            torch.onnx.export(
                module, (example,), path, input_names=["tokens"], dynamo=form == "onnx-new", verbose=False, **more
            )  # fmt: skip
    return path


def on_rows(module: Text, batch: Tensor, method: str, baseline: Tensor | None) -> Tensor:
    """The relevance of each position, [N, T], where the explained network begins behind the embedding."""
    behind = heatcli.load(module.above.eval(), example=torch.zeros(1, LONG, WIDE), axes="NLC")
    start = None if baseline is None else module.table(baseline).detach()
    rows = module.table(batch).detach()
    return heatcli.explain(behind, rows, method, 1, "none" if start is None else start).relevance.sum(2)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_relevance_of_the_rows(tmp_path: Path, form: str) -> None:
    """The relevance of a token is that of its row of the table, summed over the row."""
    module = Text()
    model = heatcli.load(saved(module, tmp_path, form))
    found = heatcli.explain(model, tokens(), "lrp-eps", 1)
    assert torch.allclose(found.relevance, on_rows(module, tokens(), "lrp-eps", None), atol=1e-6)
    assert float(found.ledger.relative_error.max()) < 1e-5
    assert found.relevance.abs().max() > 0.01


@pytest.mark.parametrize("token", [None, 0, 5])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_one_walk_does(tmp_path: Path, method: str, token: int | None) -> None:
    """Against no baseline, against token 0, and against another one, which the input holds, too."""
    module, batch = Text(), tokens(3)
    batch[0, 4] = 5
    model = heatcli.load(saved(module, tmp_path))
    baseline = None if token is None else torch.full((1, LONG), token)
    if token is None and method.startswith("deeplift"):
        return
    found = heatcli.explain(model, batch, method, 1, "none" if token is None else str(token))
    assert torch.allclose(found.relevance, on_rows(module, batch, method, baseline), atol=1e-5)
    assert float(found.ledger.relative_error.max()) < 1e-5
    if token == 5:
        assert float(found.relevance[0, 4]) == 0


@pytest.mark.parametrize("network", [OneHot, Compared, Shifted])
def test_other_ways_to_look_up(tmp_path: Path, network: type[Text]) -> None:
    module = network()
    found = heatcli.explain(heatcli.load(saved(module, tmp_path), axes="NT"), tokens(), "lrp-0", 1, "3")
    expected = on_rows(module, tokens(), "lrp-0", torch.full((1, LONG), 3))
    assert torch.allclose(found.relevance, expected, atol=1e-5)


def test_a_mask_is_held_and_what_it_hides_has_no_relevance(tmp_path: Path) -> None:
    batch = tokens()
    batch[0, 8:] = 0
    found = heatcli.explain(heatcli.load(saved(Masked(), tmp_path)), batch, "lrp-0", 1)
    assert not found.relevance[0, 8:].any()
    assert found.relevance[0, :8].abs().max() > 0.01


def test_bytes_as_numbers(tmp_path: Path, cli: Cli) -> None:
    path = saved(Bytes(), tmp_path, "onnx-old")
    Path("program.bin").write_bytes(bytes(range(51, 51 + LONG)))
    ran = cli("explain", "program.bin", "-m", path, "--target", "0", "--json")
    assert ran.status == 0, ran.err
    values = json.loads(ran.out)["pixels"]["values"]
    assert np.allclose(values, [[0.4] + [0.0] * (LONG - 1)], atol=1e-6)


@pytest.mark.parametrize("method", ["occlusion", "kernel-shap", "input-x-gradient", "lrp-eps"])
def test_a_linear_network_is_divided_exactly(tmp_path: Path, cli: Cli, method: str) -> None:
    """Each token's worth less that of token 2."""
    path, batch = saved(Bag(), tmp_path), tokens()
    np.save("t.npy", batch[0].numpy())
    few = ["--param", "samples=200"] if method == "kernel-shap" else []
    given = ["t.npy", "-m", path, "--target", "0", "--method", method, "--baseline", "2", *few]
    ran = cli("explain", *given, "--json")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    jsonschema.validate(report, json_schema())
    worth = batch[0].numpy() ** 1.5 - 2**1.5
    assert report["image"]["kind"] == "tokens"
    assert report["baseline"] == {"name": "token", "token": 2}
    assert np.allclose(report["pixels"]["values"], [worth], rtol=1e-3, atol=1e-3)


def test_a_folder_of_files_of_any_length(tmp_path: Path, cli: Cli) -> None:
    """The default compares with token 0; rows and columns of numbers are read; figures are drawn and drawn again."""
    path = saved(Text(), tmp_path)
    (tmp_path / "in").mkdir()
    np.save("in/a.npy", tokens()[0].numpy())
    Path("in/b.csv").write_text(",".join(map(str, range(15))))
    Path("in/c.csv").write_text("token\n" + "\n".join(map(str, range(18))))
    ran = cli("explain", "in", "-m", path, "--out", "out")
    assert ran.status == 0, ran.err
    reports = [json.loads(Path(f"out/{name}.lrp-eps.json").read_text()) for name in "abc"]
    assert [report["pixels"]["shape"] for report in reports] == [[1, LONG], [1, 15], [1, 18]]
    assert {report["baseline"]["name"] for report in reports} == {"zero"}
    ran = cli("show", "out/a.lrp-eps.json", "-o", "again.png", "--figure", "panel")
    assert ran.status == 0, ran.err
    shown = np.asarray(Image.open("again.png").convert("RGB")).astype(int)
    assert (shown.max(2) - shown.min(2) > 100).any(), "colours"


def test_what_cannot_be_is_one_line(tmp_path: Path, cli: Cli) -> None:
    path = saved(Text(), tmp_path)
    np.save("good.npy", tokens()[0].numpy())
    np.save("beyond.npy", np.array([1, 2, WORDS]))
    np.save("part.npy", np.array([0.5, 1.0]))
    np.save("below.npy", np.array([-1, 1]))
    Path("table.csv").write_text("1,2\n3,4\n")
    told = {
        "beyond.npy": f"beyond.npy: holds the token {WORDS}, and the model knows 0 to {WORDS - 1}",
        "part.npy": "part.npy: holds numbers that are no tokens; those are whole, from 0",
        "below.npy": "below.npy: holds numbers that are no tokens",
        "table.csv": "table.csv: holds 2 rows; a file is one row or one column of tokens",
        "missing.bin": "missing.bin: no such",
    }
    for name, words in told.items():
        ran = cli("explain", name, "-m", path)
        assert (ran.status, words in ran.err) == (1, True), ran.err
    for given, words in (
        (["--baseline", "99"], "the baseline holds the token 99, and the model knows 0 to 19"),
        (["--baseline", "blur"], "nothing is between tokens; give --baseline a token, such as 0, or a file"),
        (["--method", "gradient"], "method gradient asks for values between tokens, and there are none; use lrp-eps"),
        (["--method", "integrated-gradients", "--baseline", "0"], "asks for values between tokens"),
        (["--method", "rise", "--baseline", "0"], "asks for values between tokens"),
    ):
        ran = cli("explain", "good.npy", "-m", path, *given)
        assert (ran.status, words in ran.err) == (2, True), ran.err


class Letters(Bag):
    """Each of 256 bytes is worth its number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 2)
        with torch.no_grad():
            self.table.weight.copy_(torch.stack([torch.arange(256.0), torch.zeros(256)], 1))


@pytest.mark.parametrize("form", FORMS)
def test_a_text_is_its_bytes(tmp_path: Path, cli: Cli, form: str) -> None:
    """Of a linear network each byte has its own worth: beyond ASCII, with the line's end; alone and in a folder."""
    path, long = saved(Letters(), tmp_path, form), LONG - 4
    content = ("n" * long + "é\r\n").encode()
    (tmp_path / "in").mkdir()
    Path("in/a.txt").write_bytes(content)
    np.save("in/b.npy", np.frombuffer(content, np.uint8))
    given = ["-m", path, "--target", "0", "--method", "lrp-0", "--baseline", "zero", "--axes", "NT"]
    ran = cli("explain", "in/a.txt", *given, "--json")
    assert ran.status == 0, ran.err
    assert "a.txt: is read as bytes, each a token" in ran.err
    values = json.loads(ran.out)["pixels"]["values"]
    assert np.allclose(values, [list(content)], rtol=1e-5)
    assert not Path("heatmaps/index.jsonl").exists(), "one input"
    ran = cli("explain", "in", *given, "--out", "out")
    assert ran.status == 0, ran.err
    one, other = (json.loads(Path(f"out/{name}.lrp-0.json").read_text())["pixels"] for name in "ab")
    assert one == other


def test_a_text_of_more_bytes_than_the_network_knows(tmp_path: Path, cli: Cli) -> None:
    path = saved(Text(), tmp_path)
    Path("t.txt").write_text("some words\n")
    for ran in (cli("explain", "t.txt", "-m", path), cli("check", path, "t.txt")):
        assert ran.status == 1
        assert f"t.txt: holds the token 119, and the model knows 0 to {WORDS - 1}, too few for the bytes of" in ran.err


def test_a_list_of_files_has_another_name_where_texts_are_read(tmp_path: Path, cli: Cli) -> None:
    path = saved(Text(), tmp_path)
    np.save("a.npy", tokens()[0].numpy())
    Path("list.txt").write_text("a.npy\n")
    ran = cli("explain", "list.txt", "-m", path)
    assert ran.status == 2
    assert "list.txt: is a text for this network, and looks like a list of files; name it LIST.lst" in ran.err
    Path("list.lst").write_text("a.npy\n")
    assert cli("explain", "list.lst", "-m", path, "--out", "out").status == 0
    assert Path("out/a.lrp-eps.json").exists()


def test_whole_numbers_that_are_no_tokens_are_refused(tmp_path: Path, cli: Cli) -> None:
    """A picture of whole numbers is none, nor is a network that moves its tokens before it looks them up."""
    ran = cli("inspect", saved(Reversed(), tmp_path))
    assert "only by way of whole numbers or comparisons" in ran.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("export", "-o", "explained.onnx"), "its explanation is not exported"),
        (("prototype", "--target", "1"), "there is no prototype"),
        (("bench",), "there is no gradient to time"),
    ],
)
def test_commands_that_need_values_between_tokens_say_so(
    tmp_path: Path, cli: Cli, command: tuple[str, ...], told: str
) -> None:
    name, *more = command
    ran = cli(name, saved(Text(), tmp_path), *more)
    assert (ran.status, ran.err.count("\n")) == (2, 1), ran.err
    assert f"reads tokens, and nothing lies between two of them, so {told}" in ran.err
