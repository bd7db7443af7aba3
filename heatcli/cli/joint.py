"""`heatcli joint`: which region of one picture goes with which region of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, results, say, values


@options.loads(*options.INPUT)
def command(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The picture it is compared with.")],
    method: Annotated[
        str, typer.Option("--method", help="The method of the relevance: one that conserves, in one walk.")
    ] = "lrp-eps",
    param: options.Param = None,
    similarity: Annotated[str, typer.Option(metavar="cosine|dot", help="The similarity of the embeddings.")] = "cosine",
    grid: Annotated[int, typer.Option(metavar="G", help="Each picture is divided into G×G regions.")] = 8,
    top: Annotated[int, typer.Option(help="How many pairs of regions are drawn and listed, the strongest ones.")] = 20,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figure and the array go.")] = Path("joint"),
    json: options.Json = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Explain the similarity of two pictures by pairs of regions, one of each picture (BiLRP)."""
    from heatcli.figures.joint import lines
    from heatcli.images.sheet import picture_of, png
    from heatcli.inside.joint import joint
    from heatcli.methods.table import method as find_method
    from heatcli.system.compress import npz
    from heatcli.system.files import make_folder, write_atomically

    values.at_least_one("--top", top)
    chosen = find_method(method, **values.parameters(param))
    loaded = load(model, pair=True)
    batches = [loaded.pictures.batch(str(path)) for path in (image, other)]
    found = joint(loaded, batches[0][0], batches[1][0], chosen, similarity, grid)
    shown = [picture_of(loaded.pictures.pixels(batch)[0].cpu().numpy()) for batch, _ in batches]
    make_folder(out)
    path = out / f"{image.stem}.{other.stem}.joint.png"
    pairs = found.strongest(top)
    write_atomically(path, png(lines(shown[0], shown[1], grid, pairs)))
    arrays = {"pixels": found.pixels, "own": found.own, "other": found.other}
    write_atomically(path.with_suffix(".npz"), npz({name: value.cpu().numpy() for name, value in arrays.items()}))
    ledger = {
        "output": found.score, "pixels": float(found.pixels.sum()), "own": float(found.own.sum()),
        "other": float(found.other.sum()), "biases": found.biases, "relative_error": found.relative_error,
    }  # fmt: skip
    if json:
        listed = [{"relevance": r, "image": list(a), "other": list(b)} for r, a, b in pairs]
        results.print_json({"image": str(image), "other": str(other), "ledger": ledger, "pairs": listed})
    say.line(
        f"{similarity} {found.score:.6g} = {ledger['pixels']:.6g} pixels with pixels + {ledger['own']:.6g} pixels of "
        f"{image.name} with biases + {ledger['other']:.6g} of {other.name} + {found.biases:.6g} biases with biases "
        f"(relative error {found.relative_error:.2g})"
    )
    say.line(f"wrote {path} and {path.with_suffix('.npz')}")
