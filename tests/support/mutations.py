"""Files of ours as a bad day leaves them."""

from __future__ import annotations

import random


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A file cut short, zeroed, overwritten, with wrong values, or with its lines out of order."""
    data = bytearray(content)
    n = len(data)
    match rng.randrange(9):
        case 0:
            return bytes(data[: rng.randrange(n)])
        case 1:
            return bytes(n)
        case 2:
            at = rng.randrange(n)
            data[at : at + rng.randrange(1, 600)] = bytes(min(600, n - at))
        case 3:
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(n)] = rng.randrange(256)
        case 4:
            at = rng.randrange(n)
            data[at:at] = rng.randbytes(rng.randrange(1, 200))
        case 5:
            value = rng.choice(
                [b"null", b"1e999", b"-1", b"[]", b"{}", b'"\\ud800"', b"true", b"[" * 5000, b'"x"', b"0.5"]
            )
            colons = [i for i, byte in enumerate(data) if byte == ord(":")]
            at = rng.choice(colons or [0]) + 1
            end = min((j for j in (data.find(b",", at), data.find(b"}", at)) if j > 0), default=n)
            data[at:end] = value
        case 6:
            return rng.randbytes(rng.randrange(0, 2000))
        case 7:
            a, b = sorted(rng.randrange(n) for _ in range(2))
            del data[a:b]
        case 8:
            lines = bytes(data).splitlines(keepends=True)
            rng.shuffle(lines)
            return b"".join(lines[: rng.randrange(len(lines) + 1)] + lines[:1])
    return bytes(data)
