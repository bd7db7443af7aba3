"""`heatcli prototype`: the picture that a class stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, results, say


@options.loads(*options.INPUT)
def command(
    model: Annotated[Path, typer.Argument(help="TorchScript, ONNX or .pt2 artifact.")],
    target: Annotated[
        str, typer.Option(metavar="INDEX|LABEL|all", help="The class, or all for a sheet of all classes.")
    ],
    prior: Annotated[
        str, typer.Option(metavar="l2|rbm:FILE|decoder:ARTIFACT", help="The prior: what a picture should look like.")
    ] = "l2",
    weight: Annotated[
        float | None,
        typer.Option(metavar="λ", help="The weight of the prior. Default: 0.1 for l2, 0.01 for rbm, 0.1 for decoder."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="score|log-probability",
            help="What is maximised. Default: the score for l2, else the log-probability.",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="noise|zeros|mean[:FILE]|IMAGE", help="Where the search starts.")
    ] = "noise",
    steps: Annotated[int, typer.Option(help="The number of steps of gradient ascent.")] = 256,
    rate: Annotated[float, typer.Option(help="The length of the first step, in units of the network's input.")] = 0.05,
    restarts: Annotated[
        int | None,
        typer.Option(help="How many searches are made for a class; the best is kept. Default: 1 for l2, else 8."),
    ] = None,
    tv: Annotated[float, typer.Option(help="The weight of total variation. 0: none.")] = 0.0,
    jitter: Annotated[int, typer.Option(help="Shift the picture by at most this many pixels before each step.")] = 0,
    blur: Annotated[float, typer.Option(help="Blur the picture by this many pixels after every 4th step.")] = 0.0,
    scales: Annotated[
        int,
        typer.Option(
            help="At how many sizes to search. Each size is twice the one before; the last is the input's own."
        ),
    ] = 1,
    clip: Annotated[bool, typer.Option("--clip", help="Keep pixels between black and white.")] = False,
    code: Annotated[
        int | None, typer.Option(help="The length of the decoder's codes, if its file does not say.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    animate: Annotated[bool, typer.Option("--animate", help="Write the search as a GIF, too.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("prototypes"),
    json: options.Json = False,
    *,
    load: options.Load,
) -> None:
    """Search for the picture that excites a class most, by gradient ascent under a prior."""
    from heatcli.prototype.ascent import Search
    from heatcli.prototype.job import PrototypeRequest, classes, search, write
    from heatcli.prototype.priors import prior as find_prior

    how = Search(objective, restarts, steps, rate, start, tv, jitter, blur, 4, scales, clip, seed)  # type: ignore[arg-type]
    request = PrototypeRequest(target, how, out, animate)
    loaded = load(model)
    chosen = find_prior(loaded, prior, weight, code)
    with say.progress("steps", steps + 1) as advance:
        found = search(loaded, classes(loaded, target), chosen, how, advance)
    for record in write(loaded, request, chosen, found):
        named, final, shown = record["target"], record["final"], record["shown"]
        spread = shown["low"] > 0
        contrast = f" (contrast raised: {shown['low']:.3g} is black, {shown['high']:.3g} is white)" if spread else ""
        say.line(
            f"{named['label'] if named['label'] is not None else named['index']}: score {final['score']:.5g}, "
            f"log-probability {final['log_probability']:.4g}; wrote {out / record['files']['picture']}{contrast}"
        )
        if json:
            results.print_json(record)
    if target == "all":
        say.line(f"wrote {out / f'{loaded.stem}.all.{chosen.name}.png'}")
