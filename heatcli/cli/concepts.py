"""`heatcli concepts`: what the channels of a layer stand for, over a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options, results, say, values

if TYPE_CHECKING:
    from heatcli.inside.concepts import Channel, Source


@options.loads(*options.INPUT, "concept_names")
def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    layer: Annotated[
        str, typer.Option(metavar="NAME", help="The layer: an operator, a parameter or a module; last: before pooling.")
    ] = "last",
    channel: Annotated[
        list[int] | None,
        typer.Option(metavar="C", help="Show this channel, instead of the most used; repeat it for more."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many channels are shown, the most used first.")] = 12,
    examples: Annotated[int, typer.Option(help="How many pictures are shown of each channel.")] = 8,
    below: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A lower layer: list which of its channels a channel's relevance comes from."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="The method of the relevance. See `heatcli methods`.")
    ] = "lrp-epsilon-plus",
    baseline: Annotated[str | None, typer.Option(help="The baseline, as in `heatcli explain`.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="top|INDEX|LABEL|A-B", help="The class that is explained.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Read folders below, too.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the record and the sheet go.")] = Path("concepts"),
    batch_size: options.BatchSize = None,
    json: options.Json = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Show what each channel of a layer stands for: the pictures it matters for, and the classes that use it."""
    from heatcli.errors import HeatcliError
    from heatcli.images.mean import images_in
    from heatcli.inside.concepts import ConceptsRequest, concepts, write
    from heatcli.methods.table import method as find_method

    request = ConceptsRequest(
        layer, find_method(method), target, baseline, tuple(channel or ()),
        values.at_least_one("--top", top), values.at_least_one("--examples", examples), below, batch_size or 8, out,
    )  # fmt: skip
    loaded = load(model)
    paths = list(images_in(images, recursive, loaded.pictures.suffixes))
    failed: list[HeatcliError] = []
    with say.progress("images", len(paths)) as advance:
        found, blocks = concepts(loaded, advance(paths), request, failed)
    for error in failed:
        say.error(error)
    table, picture = write(request, loaded.stem, found, blocks)
    if json:
        results.print_json(found)
    else:
        for one in found.channels[: len(request.channels) or top]:
            print(f"{one.share:6.1%}  channel {_named(one)}: "
                  + ", ".join(f"{label} {share:+.1%}" for label, share in one.classes.items()))  # fmt: skip
            if one.sources:
                print("        from " + ", ".join(f"{_named(s)} {s.share:+.1%}" for s in one.sources))
    say.line(f"wrote {table} and {picture}")
    if failed:
        raise typer.Exit(1)


def _named(one: Channel | Source) -> str:
    return f"{one.channel} ({one.name})" if isinstance(one.name, str) else str(one.channel)
