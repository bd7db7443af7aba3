"""`heatcli fit-expert`: an expert log p(x) of a folder's pictures, for `heatcli prototype --prior rbm:FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import say, values


def command(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz file to write.")],
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Learn whole pictures, resized to this size.")
    ] = None,
    patch: Annotated[int | None, typer.Option(metavar="P", help="Learn patches of P×P pixels instead.")] = None,
    channels: Annotated[int, typer.Option(help="1 for grey pictures, 3 for colour.")] = 1,
    limit: Annotated[int, typer.Option(help="The most pictures, or patches, to learn from.")] = 60000,
    recursive: Annotated[bool, typer.Option(help="Read folders below, too.")] = False,
    hidden: Annotated[int, typer.Option(help="The number of hidden units.")] = 256,
    epochs: Annotated[int, typer.Option(help="How many times training goes through the pictures.")] = 20,
    cd: Annotated[int, typer.Option(help="The number of Gibbs steps of contrastive divergence.")] = 5,
    persistent: Annotated[
        bool,
        typer.Option(
            help="Keep the Gibbs chains from one training step to the next (persistent contrastive divergence)."
        ),
    ] = True,
    sigma: Annotated[float, typer.Option(help="The standard deviation of a pixel, pixels in 0..1.")] = 0.3,
    rate: Annotated[float, typer.Option(help="The learning rate.")] = 0.004,
    seed: Annotated[int, typer.Option(help="The same seed gives the same expert.")] = 0,
) -> None:
    """Train a Gaussian–Bernoulli RBM on pictures or patches, and write it beside a sheet of its samples."""
    from heatcli.errors import HeatcliError, UsageError
    from heatcli.prototype.fitting import FitRequest, fit
    from heatcli.prototype.rbm import Training
    from heatcli.system.files import make_folder

    how = Training(hidden, epochs, cd, persistent, sigma, rate, seed=seed)
    if (size is None) == (patch is None):
        raise UsageError("give either --size HEIGHTxWIDTH, for whole pictures, or --patch P")
    shape = values.shape(size) or (patch or 0, patch or 0)
    make_folder(output.parent)  # before the work
    request = FitRequest(folder, output, (channels, *shape), patch is None, limit, recursive, how)
    failed: list[HeatcliError] = []
    with say.progress("epochs", epochs) as advance:
        for epoch in advance(fit(request, failed)):
            say.line(
                f"epoch {epoch.number}: reconstruction error {epoch.error:.5f} a pixel, "
                f"free energy of held-out pictures {epoch.gap:+.3f}"
            )
    for error in failed:
        say.error(error)
    say.line(f"wrote {output} and {output.with_suffix('.samples.png')}")
    if failed:
        raise typer.Exit(1)
