"""The panels of `--help` and their options. The panels are shown in this order, rarely needed ones last."""

from __future__ import annotations

from collections.abc import Sequence

OPTIONS, WHAT, FILES, FIGURE, INPUT, SPEED, SAFETY, RARE = (
    "Options", "What is explained", "Where it goes", "Figures", "How a picture becomes the input",
    "Many images, speed", "Safety", "Rarely needed",
)  # fmt: skip
PANELS = (OPTIONS, WHAT, FILES, FIGURE, INPUT, SPEED, SAFETY, RARE)
_IN = {
    OPTIONS: "model method methods metric spec recommend classes",
    WHAT: "target concept concept_names output_kind confidence overlap expected baseline param layer below masks "
          "mask_out fill pair similarity grid top_images channel examples by",
    FILES: "out output_file outputs web web_runtime u8 recursive json html pixels biases arrays junit github quiet "
           "verbose against pictures maps",
    FIGURE: "figure scale figure_size cmap opacity backdrop clip top show",
    INPUT: "preset labels size mean std resize channels_order range channels axes sample_rate preprocess",
    SPEED: "resume overwrite glob shard workers batch_size device index engine limit threads repeats",
    RARE: "rule composite smooth region output with_passes without_passes head class_axis inputs compiled amp no_cache "
          "seed controls",
    SAFETY: "sandbox max_seconds max_memory max_pixels unverified debug",
}  # fmt: skip
PANEL = {name: panel for panel, names in _IN.items() for name in names.split()}  # name of a parameter → its panel


def panel_of(name: str, flags: Sequence[str]) -> str:
    """The panel of a parameter, by what the user types: `-o`, then the long flags, then the parameter's own name."""
    if "-o" in flags:
        return FILES
    known = (PANEL.get(flag.removeprefix("--").replace("-", "_")) for flag in flags)
    return next((panel for panel in known if panel is not None), PANEL.get(name, OPTIONS))
