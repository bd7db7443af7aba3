"""`heatcli bench`: how fast methods are on a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heatcli.cli import options, results, say, values

METHODS = "gradient,input-x-gradient,lrp-0,lrp-eps,lrp-z-plus,lrp-epsilon-plus,deeplift-rescale"


@options.loads(*options.INPUT, "compiled", "amp")
def command(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The model. Default: the embedded animals model.")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            "--methods", "--method", metavar="A,B,…", help="Each NAME[:PARAMETER=VALUE,…]; see `heatcli methods`."
        ),
    ] = METHODS,
    batch_size: Annotated[int, typer.Option(help="How many images go through the network at once.")] = 8,
    repeats: Annotated[int, typer.Option(help="The number of rounds. Each round runs every method once, in turn.")] = 5,
    threads: Annotated[int | None, typer.Option(help="The number of threads. Default: torch's.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Measure Captum and Zennit, too, if they are installed.")
    ] = False,
    json: options.Json = False,
    *,
    load: options.Load,
) -> None:
    """Measure the speed of methods: images a second, ratio to the artifact's own gradient, peak memory."""
    import torch

    from heatcli.evaluate.speed import bench
    from heatcli.methods.table import method
    from heatcli.rules.parameters import listed

    chosen = {text: method(text) for text in listed(methods)}
    if threads is not None:
        torch.set_num_threads(values.at_least_one("--threads", threads))
    loaded = load(model)
    if loaded.network.compiler is not None:
        loaded.network.compiler.say = say.note
    timings = list(bench(loaded, chosen, batch_size, repeats, peers))
    if json:
        sys.stdout.buffer.write(results.as_json(timings))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "images/s", "× gradient", "peak memory", "note")
    for t in timings:
        numbers = ["" if t.images_per_second is None else f"{t.images_per_second:.1f}"]
        numbers += ["" if t.ratio is None else f"{t.ratio:.2f}", "" if t.peak is None else f"{t.peak / 2**20:.0f} MiB"]
        table.add_row(t.name, *numbers, f"refuses: {t.refused}" if t.refused else t.note or "")
    say.line(f"{loaded.path}, batch {batch_size}, {torch.get_num_threads()} threads, {loaded.device}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
