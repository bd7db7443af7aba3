"""`heatcli activations`: feature maps of any layer, and the pictures that excite a channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options, results, say

if TYPE_CHECKING:
    from heatcli.model.model import Model


@options.loads(*options.INPUT)
def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|GLOB", help="An operator or its parameter; default: all convolutions."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many channels of each layer are shown.")] = 16,
    by: Annotated[str, typer.Option(metavar="activation|relevance", help="What is shown, and in which order.")] = (
        "activation"
    ),
    method: Annotated[
        str, typer.Option("--method", help="The method of the relevance. See `heatcli methods`.")
    ] = "lrp-eps",
    baseline: Annotated[str | None, typer.Option(help="The baseline, as in `heatcli explain`.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="top|INDEX|LABEL|A-B", help="The class that is explained.")
    ] = None,
    top_images: Annotated[
        int | None,
        typer.Option(metavar="N", help="Show the N images that excite --channel of --layer most, instead of sheets."),
    ] = None,
    channel: Annotated[int | None, typer.Option(metavar="C", help="The channel of --top-images.")] = None,
    recursive: Annotated[bool, typer.Option(help="Read folders below, too, for --top-images.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where sheets and arrays go.")] = Path("activations"),
    json: options.Json = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Show feature maps as a labelled sheet and an .npz, ordered by activation or by relevance."""
    from heatcli.errors import HeatcliError, UsageError
    from heatcli.inside.activations import CONVOLUTIONS
    from heatcli.inside.job import ActivationsRequest, run
    from heatcli.methods.table import method as find_method

    wanted = tuple(layer or CONVOLUTIONS)
    request = ActivationsRequest(tuple(images), wanted, out, top, by, find_method(method), target, baseline)  # type: ignore[arg-type]
    loaded = load(model)
    if top_images is not None or channel is not None:
        if not layer or len(layer) != 1 or channel is None or top_images is None or top_images < 1:
            raise UsageError("--top-images N goes with one --layer NAME and one --channel C")
        _top(loaded, images, layer[0], channel, top_images, recursive, out, json)
        return
    failures = 0
    with say.progress("images") as advance:
        for outcome in advance(run(loaded, request)):
            if isinstance(outcome, HeatcliError):
                failures += 1
                say.error(outcome)
                continue
            say.line(f"{outcome.path}: wrote {outcome.sheet} and {outcome.sheet.with_suffix('.npz')}")
            if json:
                results.print_json(outcome.record)
    if failures:
        raise typer.Exit(1)


def _top(
    loaded: Model, images: list[Path], layer: str, channel: int, n: int, recursive: bool, out: Path, json: bool
) -> None:
    """Write the pictures that excite a channel most."""
    from heatcli.errors import HeatcliError
    from heatcli.images.mean import images_in
    from heatcli.images.sheet import Block, png, sheet
    from heatcli.inside.top import tiles, top_images
    from heatcli.system.files import make_folder, write_atomically

    paths = images_in(images, recursive, loaded.pictures.suffixes)
    failed: list[HeatcliError] = []
    with say.progress("images") as advance:
        found, hits = top_images(loaded, advance(paths), layer, channel, n, failed)
    for error in failed:
        say.error(error)
    make_folder(out)
    path = out / f"{loaded.stem}.{found.name}.{channel}.top.png"
    write_atomically(path, png(sheet([Block(f"{found.title}, channel {channel}", tiles(loaded, hits))], 8)))
    for hit in hits:
        if json:
            results.print_json({"image": str(hit.path), "activation": hit.strength, "box": list(hit.box)})
    say.line(f"wrote {path}")
    if failed:
        raise typer.Exit(1)
