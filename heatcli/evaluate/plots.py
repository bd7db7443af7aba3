"""The curves of an evaluation as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from heatcli.evaluate.run import CurveRow, Evaluation

CROWD = 10  # more curves than these are drawn without intervals


def pictures(evaluation: Evaluation) -> dict[str, bytes]:
    """File name → PNG: a picture per metric, a panel per curve, a line per method."""
    found = {}
    for metric in dict.fromkeys(curve.metric for curve in evaluation.curves):
        found[f"{metric}.png"] = _picture([c for c in evaluation.curves if c.metric == metric])
    return found


def _picture(curves: Sequence[CurveRow]) -> bytes:
    """The curves of a metric as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(curve.curve for curve in curves))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    methods = len({curve.method for curve in curves})
    figure = Figure(figsize=(5.2 * columns + 1.8, max(3.8 * rows, 0.19 * methods + 0.4)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, panels, strict=False):
        _panel(axis, panel, [c for c in curves if c.curve == panel])
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _panel(axis: Any, title: str, curves: Sequence[CurveRow]) -> None:
    """Draw the curves of one title, a line per method."""
    from matplotlib import colormaps

    colours = colormaps["tab20" if len(curves) > 10 else "tab10"]
    for i, curve in enumerate(curves):
        named = isinstance(curve.x[0], str)
        x = list(range(len(curve.x))) if named else list(curve.x)
        style = {"color": colours(i % colours.N), "linestyle": ("-", "--", ":")[i // colours.N % 3], "linewidth": 1.4}
        axis.plot(x, curve.mean, label=curve.method, marker="." if named else "", **style)
        if len(curves) <= CROWD:
            axis.fill_between(x, curve.low, curve.high, color=colours(i % colours.N), alpha=0.10, linewidth=0)
        if named:
            axis.set_xticks(x, curve.x, rotation=60, ha="right", fontsize=7)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(curves[0].x_label, fontsize=9)
    axis.set_ylabel(curves[0].y_label, fontsize=9)
    axis.grid(alpha=0.3)
