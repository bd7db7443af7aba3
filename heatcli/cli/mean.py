"""`heatcli mean`: the mean image of a folder, for `--baseline mean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, say
from heatcli.errors import counted


@options.loads(*(name for name in options.INPUT if name != "device"), device="cpu")
def command(
    folder: Annotated[Path, typer.Argument(help="A folder with any number of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz file to write.")],
    recursive: Annotated[bool, typer.Option(help="Read folders below, too.")] = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Write the mean image of a folder, at the size of the model's input, before normalisation."""
    from heatcli.errors import HeatcliError, UsageError
    from heatcli.images.mean import image_files, mean_image, write_mean
    from heatcli.system.files import is_folder, make_folder

    if not is_folder(folder):
        raise UsageError(f"{folder}: is not a folder")
    if output.suffix != ".npz":
        raise UsageError(f"{output}: a mean image is an .npz file; name it so")
    make_folder(output.parent)  # before the work
    loaded = load(model)
    failed: list[HeatcliError] = []
    mean, count = mean_image(
        image_files(folder, recursive, loaded.pictures.suffixes), loaded.pictures.fit, failed, loaded.pictures.reader
    )
    write_mean(output, mean, count)
    for error in failed:
        say.error(error)
    say.line(f"wrote {output}: the mean of {counted(count, 'image')}, {'×'.join(map(str, mean.shape))}")
    if failed:
        raise typer.Exit(1)
