"""`heatcli discover`: groups of heatmaps within a class, ranked for a person to look at."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options, results, say, values
from heatcli.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heatcli.discover.asking import Asked
    from heatcli.discover.cover import Covered, Effect
    from heatcli.model.model import Model


@options.loads(*options.INPUT)
def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="DIR|MODEL", help="A folder that heatcli explain wrote to; or a model."),
    ],
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="FOLDER...", help="Pictures that MODEL explains first, of folders and those below."),
    ] = None,
    maps: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the explanations of MODEL go. A second run goes on there.")
    ] = Path("heatmaps"),
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="The method of MODEL's explanations, as in `heatcli explain`.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Their baseline, as in `heatcli explain`.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="LABEL", help="Cluster this class; default: every class.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many clusters are listed.")] = 10,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where clusters.json and clusters.png go. Default: DIR/discover.")
    ] = None,
    mask_out: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER", help="Cover the places of this cluster in every picture, and ask the model again."
        ),
    ] = None,
    fill: Annotated[
        str, typer.Option(metavar="blur[:SIGMA]|mean|black|zero|IMAGE", help="What --mask-out puts in these places.")
    ] = "blur",
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Masks DIR/NAME.png of the objects: with a model, look for backgrounds, too."),
    ] = None,
    counter: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Backgrounds that the objects of --masks are laid on, to ask again."),
    ] = None,
    treat: Annotated[
        bool, typer.Option(help="With a model, ask it about blurred, compressed, noisy and other treated pictures.")
    ] = True,
    json: options.Json = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Group the maps of each class, to find pictures that the model recognises by something unusual."""
    from heatcli.discover.asking import explanations
    from heatcli.discover.cover import cover
    from heatcli.discover.job import discover
    from heatcli.discover.write import FOLDER, write, write_spec
    from heatcli.errors import UsageError, unknown_name
    from heatcli.system.files import write_atomically

    values.at_least_one("--top", top)
    if counter is not None and (masks is None or not (model or folders)):
        raise UsageError("--counter needs --masks DIR and a model: objects are laid on its backgrounds")
    failures = 0
    if folders:
        failures = _explained(load, run, folders, maps, method, baseline)
        model, run = run, maps
    elif method or baseline:
        raise UsageError(f"{run}: was explained already; --method and --baseline are for MODEL FOLDER")
    asked = [] if model is None else _asked(load(model), run, masks, counter, treat, seed)
    with say.progress("explanations") as advance:
        found, shown = discover(run, tuple(classes or ()), seed, say.note, advance, masks, asked)
    table, picture = write(out or run / FOLDER, found, shown)
    if mask_out is not None:
        say.line(f"wrote {table} and {picture}")
        chosen = next((cluster for cluster in found.clusters if cluster.name == mask_out), None)
        if chosen is None:
            raise unknown_name("cluster", mask_out, [cluster.name for cluster in found.clusters])
        with say.progress("pictures") as advance:
            covered = cover(load(model), run, chosen, advance(explanations(run)), fill, seed)
        file = table.with_name(f"mask-out.{mask_out.replace('/', '-')}.json")
        write_atomically(file, results.as_json(covered))
        spec = file.with_suffix(".toml")
        write_spec(spec, table, chosen)
        if json:
            results.print_json(covered)
        else:
            _print(covered)
        say.line(f"wrote {file}, and {spec} for heatcli check")
    elif json:
        results.print_json(found)
    else:
        for cluster in found.clusters[:top]:
            size = counted(cluster.size, "picture")
            larger = f", mostly in {cluster.within}, too" if cluster.within else ""
            print(f"{cluster.suspicion:6.1%}  {cluster.name}: {size}, {cluster.share:.0%} of its class{larger}")
            for reason in cluster.why:
                print(f"        {reason}")
        if not any(cluster.suspicion for cluster in found.clusters):
            print("no group has relevance at places of its own, a pattern, a telling background, or a treatment")
    if mask_out is None:
        say.line(f"wrote {table} and {picture}")
    if failures:
        raise typer.Exit(1)


def _asked(
    model: Model, run: Path, masks: Path | None, counter: Path | None, treat: bool, seed: int
) -> list[Asked]:  # fmt: skip
    """What the model says of the backgrounds of a run, if there are masks, and of treated pictures of it."""
    from heatcli.discover.asking import explanations
    from heatcli.discover.background import backgrounds
    from heatcli.discover.treated import treated

    found: list[Asked] = []
    if masks is not None:
        with say.progress("backgrounds") as advance:
            found.append(backgrounds(model, run, advance(explanations(run)), masks, counter, say.note))
    if treat:
        with say.progress("treated pictures") as advance:
            answers = treated(model, run, say.note, advance, seed)
        found += [] if answers is None else [answers]
    return found


def _explained(
    load: options.Load, model: Path, folders: Sequence[str], maps: Path, method: str | None, baseline: str | None
) -> int:
    """Explain pictures into the folder `maps`, as far as this was not done before; how many failed."""
    from heatcli.cli.asked import baseline_of, methods_of
    from heatcli.cli.running import explained
    from heatcli.figures.draw import NONE, Style
    from heatcli.run import Request

    named, started = [method] if method else [], time.perf_counter()
    request = Request(
        tuple(folders), maps, methods_of(named, {}, None)[0], baseline=baseline_of(baseline, named), pixels="npz",
        biases="totals", style=Style(NONE), recursive=True, resume=True, processes=True, device=load.device,
    )  # fmt: skip
    return explained(load(model), request, time.perf_counter() - started, json=False, keep=False)[1]


def _print(covered: Covered) -> None:
    """The effects, in a table: on the cluster's pictures, on its class, on all other classes by name."""
    from rich.console import Console
    from rich.table import Table

    print(f"{covered.cluster}: {covered.area:.1%} of each picture is covered ({covered.fill})")
    expects = covered.members.right is not None
    table = Table("", "pictures", "same answer", "covered elsewhere", "score", "elsewhere")
    for name in ("right before", "right after") if expects else ():
        table.add_column(name)
    rows: list[tuple[str, Effect]] = [(covered.cluster, covered.members), *covered.classes.items()]
    for name, effect in rows:
        right = [f"{share or 0:.0%}" for share in (effect.right, effect.right_covered)] if expects else []
        table.add_row(
            name, str(effect.pictures), f"{effect.kept:.0%}", f"{effect.kept_elsewhere:.0%}", f"{effect.change:+.2f}",
            f"{effect.change_elsewhere:+.2f}", *right,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
