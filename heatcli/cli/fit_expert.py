"""`heatcli fit-expert`: an expert log p(x) of a folder's pictures, for `heatcli prototype --prior rbm:FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options


def command(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz file to write.")],
    size: Annotated[str | None, typer.Option(metavar="N|HxW", help="Whole pictures, resized to this.")] = None,
    patch: Annotated[int | None, typer.Option(metavar="P", help="Instead: patches of P×P pixels.")] = None,
    channels: Annotated[int, typer.Option(help="1 for grey pictures, 3 for colour.")] = 1,
    limit: Annotated[int, typer.Option(help="Pictures, or patches, to learn from at most.")] = 60000,
    recursive: Annotated[bool, typer.Option(help="Images in folders below, too.")] = False,
    hidden: Annotated[int, typer.Option(help="Hidden units.")] = 256,
    epochs: Annotated[int, typer.Option(help="Times through the pictures.")] = 20,
    cd: Annotated[int, typer.Option(help="Gibbs steps of contrastive divergence.")] = 5,
    persistent: Annotated[bool, typer.Option(help="Chains go on from step to step.")] = True,
    sigma: Annotated[float, typer.Option(help="Width of a pixel's distribution, pixels in 0..1.")] = 0.3,
    rate: Annotated[float, typer.Option(help="Of learning.")] = 0.004,
    seed: Annotated[int, typer.Option(help="The same seed gives the same expert.")] = 0,
) -> None:
    """Train a Gaussian–Bernoulli RBM on pictures or patches, and write it beside a sheet of its samples."""
    from heatcli.errors import HeatcliError, UsageError
    from heatcli.files import make_folder
    from heatcli.prototype.fitting import Request, fit
    from heatcli.prototype.rbm import Training

    how = Training(hidden, epochs, cd, persistent, sigma, rate, seed=seed)
    if (size is None) == (patch is None):
        raise UsageError("give either --size HEIGHTxWIDTH, for whole pictures, or --patch P")
    shape = options.shape(size) or (patch or 0, patch or 0)
    make_folder(output.parent)  # before the work
    request = Request(folder, output, (channels, *shape), patch is None, limit, recursive, how)
    failed: list[HeatcliError] = []
    with options.progress("epochs", epochs) as advance:
        for epoch in advance(fit(request, failed)):
            print(
                f"epoch {epoch.number}: reconstruction error {epoch.error:.5f} a pixel, "
                f"free energy of held-out pictures {epoch.gap:+.3f}",
                file=sys.stderr,
            )
    for error in failed:
        print(f"heatcli: {error}", file=sys.stderr)
    print(f"wrote {output} and {output.with_suffix('.samples.png')}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
