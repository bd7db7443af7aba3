"""What a walk carries to a value z [N, …] of the network.

Usually a multiplier, a tensor m with z's shape: the relevance of z is m·(z − z0). A rule may return a `Carried`, a
more detailed form. It is turned into a multiplier where the next rule does not accept it.
"""

from __future__ import annotations

from torch import Tensor

from heatcli.rules.rule import Carried, Step


def at_output(carried: Tensor | Carried, step: Step) -> tuple[Tensor, Tensor | None]:
    """The multiplier of `step`'s output, and relevance [N] that no multiplier can carry (None: none is lost)."""
    return (carried, None) if isinstance(carried, Tensor) else carried.at_output(step)


class Arrivals:
    """The accumulated relevance of each value, by name: the sum over the operators that read the value."""

    def __init__(self, output: str, seed: Tensor, in_place: bool) -> None:
        self._known: dict[str, Tensor | Carried] = {output: seed}
        self._summed: set[str] = set()  # values whose sum was allocated here, so that it can be added to in place
        self._in_place = in_place

    def add(self, name: str, part: Tensor | Carried | None) -> None:
        """Add what one reader sends to the value called `name`, of the value's shape; None adds nothing."""
        known = self._known.get(name)
        if part is None or known is None:
            self._known.update({} if part is None else {name: part})
        elif name in self._summed and isinstance(known, Tensor) and isinstance(part, Tensor):
            known += part
        else:
            self._known[name] = known + part
            self._summed.update({name} if self._in_place else ())

    def pop(self, name: str) -> Tensor | Carried | None:
        """Remove and return the sum for the value; None if nothing arrived."""
        return self._known.pop(name, None)
