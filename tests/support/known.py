"""The maps of a class from all that is known of its pictures at once."""

from __future__ import annotations

from collections.abc import Iterable

from heatcli.discover.features import Columns, Known, Maps
from heatcli.discover.rows import Rows


def maps_of(label: str, known: Iterable[Known], kept: Rows) -> Maps:
    columns = Columns()
    for one in known:
        columns.add(one)
    return columns.maps(label, kept, None)
