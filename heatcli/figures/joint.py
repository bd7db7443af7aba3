"""A figure of joint relevance: two pictures side by side, lines between the regions that belong together."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

SIDE, GAP = 384, 32  # pixels
FOR, AGAINST = (200, 30, 30), (30, 60, 200)
Line = tuple[float, tuple[int, int], tuple[int, int]]


def lines(first: Image.Image, second: Image.Image, grid: int, pairs: Sequence[Line]) -> Image.Image:
    """Both pictures, and a line for each pair of regions: relevance, (row, column) in the first and in the second.

    Red is relevance for the similarity, blue against; the strongest pair has the widest line.
    """
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for x, picture in ((0, first), (SIDE + GAP, second)):
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE)), (x, 0))
    layer = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    most = max((abs(relevance) for relevance, _, _ in pairs), default=1.0) or 1.0
    cell = SIDE / grid
    for relevance, one, other in reversed(pairs):  # the strongest lie on top
        colour = FOR if relevance > 0 else AGAINST
        share = abs(relevance) / most
        ends = [((c + 0.5) * cell + x, (r + 0.5) * cell) for x, (r, c) in ((0, one), (SIDE + GAP, other))]
        draw.line(ends, (*colour, round(60 + 180 * share)), max(1, round(6 * share)))
        for across, down in ends:
            box = (across - cell / 2, down - cell / 2, across + cell / 2, down + cell / 2)
            draw.rectangle(box, outline=(*colour, 200))
    return Image.alpha_composite(sheet.convert("RGBA"), layer).convert("RGB")
