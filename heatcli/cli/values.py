"""The values of options, read from what the user wrote. None: the option was left out."""

from __future__ import annotations

from typing import Any

from heatcli.errors import UsageError, boundary

AUTO = "auto"  # the value of a parameter that heatcli finds


def sides(text: str | None) -> tuple[int, ...] | int | None:
    """The value of `--size N|HxW|DxHxW`: the lengths of the sides, or one number for all. Raises `UsageError`."""
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"--size {text} is not a size; give HEIGHTxWIDTH, such as 224x224, or one number")
    return tuple(map(int, parts)) if len(parts) > 1 else int(parts[0])


def shape(text: str | None) -> tuple[int, int] | None:
    """The value of `--size N|HxW` as (height, width). Raises `UsageError`."""
    found = sides(text)
    if found is None or isinstance(found, int):
        return None if found is None else (found, found)
    if len(found) > 2:
        raise UsageError(f"--size {text} is not a size of pictures; give HEIGHTxWIDTH, such as 224x224, or one number")
    return found[0], found[-1]


def channels_order(text: str | None) -> str | None:
    """The value of `--channels-order`. Raises `UsageError`."""
    if text not in (None, "rgb", "bgr"):
        raise UsageError(f"--channels-order {text} is not known; use rgb or bgr")
    return text


def numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas, one a channel. Raises `UsageError`."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} {text} is not a list of numbers; give one a channel, such as 0.5,0.5,0.5") from error


def positive(flag: str, value: float | None) -> float | None:
    """The value if it is above 0 and below 1e9. Raises `UsageError` otherwise."""
    if value is not None and not 0 < value < 1e9:
        raise UsageError(f"{flag} {value:g} is not allowed; it is more than 0")
    return value


def at_least_one(flag: str, value: int) -> int:
    """The value if it is at least 1. Raises `UsageError` otherwise."""
    if value < 1:
        raise UsageError(f"{flag} {value} is not allowed; it is at least 1")
    return value


def memory_size(text: str | None) -> int | None:
    """The value of `--max-memory`, such as 800M, 12G or 1.5G, in bytes. Raises `UsageError`."""
    if text is None:
        return None
    number, unit = text[:-1], "KMGT".find(text[-1:].upper())
    try:
        size = float(number) * 1024 ** (unit + 1)
    except ValueError:
        size = 0.0
    if unit < 0 or not 1 <= size < 1 << 60:
        raise UsageError(f"--max-memory {text} is not a size; give such as 800M or 12G")
    return int(size)


def shard(text: str | None) -> tuple[int, int] | None:
    """The value of `--shard K/N` as (K, N), K from 1. Raises `UsageError`."""
    if text is None:
        return None
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UsageError(f"--shard {text} is not a part; give K/N with K from 1 to N, such as 3/16")
    return int(k), int(n)


def parameters(given: list[str] | None) -> dict[str, str]:
    """The values of `--param NAME=VALUE` as a dictionary. Raises `UsageError`."""
    return _assignments("--param", given, "name=value")


def sought(parameters: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The parameters with a value, and the names of those that `auto` asks heatcli to find a value for."""
    names = [name for name, value in parameters.items() if value == AUTO]
    return {name: value for name, value in parameters.items() if name not in names}, names


def arrays(given: list[str] | None) -> dict[str, Any]:
    """The values of `--input NAME=FILE.npy` as tensors, in the shapes and dtypes of the files. Raises `UsageError`."""
    found: dict[str, Any] = {}
    for name, file in _assignments("--input", given, "NAME=FILE.npy").items():
        import torch

        from heatcli.system.compress import MOST_BYTES, read_array
        from heatcli.system.files import read_regular

        with boundary(f"--input {name}={file}", UsageError, f"{file} cannot be read as an array"):
            found[name] = torch.from_numpy(read_array(read_regular(file, MOST_BYTES)))
    return found


def _assignments(flag: str, given: list[str] | None, form: str) -> dict[str, str]:
    """Repeated `NAME=VALUE` as a dictionary. `form`: how an error says it. Raises `UsageError`."""
    from heatcli.rules.parameters import assigned

    return assigned(given or [], lambda item: f"{flag} {item}", form)
