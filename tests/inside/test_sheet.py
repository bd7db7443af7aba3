"""Sheets: every tile where it belongs, in its own colours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from heatcli.images.sheet import Block, Tile, coloured, picture_of, sheet


def test_tiles_lie_in_rows_and_keep_their_colours() -> None:
    """Five tiles in two columns are three rows; small pictures are enlarged without smoothing."""
    colours = [(255, 0, 0), (0, 200, 0), (0, 0, 255), (200, 200, 0), (0, 200, 200)]
    made = np.asarray(sheet([Block("x", [Tile(Image.new("RGB", (2, 2), c), "a\nb") for c in colours])], 2, tile=40))
    places = [np.argwhere((made == colour).all(2)) for colour in colours]
    assert [len(p) for p in places] == [1600] * 5
    corners = [tuple(p.min(0)) for p in places]
    assert corners[0][0] == corners[1][0] < corners[2][0] == corners[3][0] < corners[4][0]
    assert corners[0][1] == corners[2][1] == corners[4][1] < corners[1][1] == corners[3][1]


@pytest.mark.parametrize(("size", "shown"), [((200, 100), (80, 40)), ((1, 60), (10, 80)), ((3, 3), (80, 80))])
def test_tiles_keep_their_aspect_but_never_vanish(size: tuple[int, int], shown: tuple[int, int]) -> None:
    made = np.asarray(sheet([Block("", [Tile(Image.new("RGB", size, "red"))])], 3, tile=80))
    red = np.argwhere((made == (255, 0, 0)).all(2))
    assert tuple(np.ptp(red, axis=0)[::-1] + 1) == shown


def test_colour_scale() -> None:
    """`low` to `high` is the whole map; equal ends do not divide by zero."""
    ends = np.asarray(coloured(np.array([[-2.0, 0.0, 2.0]]), -2, 2, "bwr"))[0]
    assert ends[0].tolist() == [0, 0, 255]
    assert ends[2].tolist() == [255, 0, 0]
    assert ends[1].min() >= 253
    assert coloured(np.zeros(3), 0, 0, "viridis").size == (3, 1)
    assert picture_of(np.full((1, 2, 2), 0.5)).mode == "L"
    assert picture_of(np.full((3, 2, 2), 2.0)).getpixel((0, 0)) == (255, 255, 255)
