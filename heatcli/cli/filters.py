"""`heatcli filters`: the kernels of convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, say


@options.loads(*(name for name in options.INPUT if name != "device"), device="cpu")
def command(
    model: Annotated[Path | None, typer.Argument(help="The artifact; default: the embedded animals model.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME|GLOB", help="An operator or its parameter; default: all.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many filters of each layer are shown, the largest ones.")] = 32,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the sheet and the arrays go.")] = Path("filters"),
    *,
    load: options.Load,
) -> None:
    """Draw the kernels of a network's convolutions as one sheet, and write them as an .npz."""
    from heatcli.errors import UsageError
    from heatcli.images.sheet import png, sheet
    from heatcli.inside.filters import draw, filters
    from heatcli.system.compress import npz
    from heatcli.system.files import make_folder, write_atomically

    if top < 1:
        raise UsageError(f"--top {top} is not allowed; it is at least 1")
    loaded = load(model)
    found = filters(loaded, layer or [])
    make_folder(out)
    path = out / f"{loaded.stem}.filters.png"
    write_atomically(path, png(sheet([draw(kernels, top) for kernels in found], 16, tile=64)))
    arrays = {k.layer.parameters[0] if k.layer.parameters else k.layer.name: k.weight for k in found}
    write_atomically(path.with_suffix(".npz"), npz(arrays))
    say.line(f"wrote {path} and {path.with_suffix('.npz')}: {len(found)} convolutions")
