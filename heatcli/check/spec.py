"""The spec, `heatcheck.toml`: a table per check, and keys that the checks share."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from heatcli.artifact.layout import Layout
from heatcli.check.background import Background
from heatcli.check.books import BiasShare, Finite, Found, Ledger, Prediction
from heatcli.check.golden import Golden
from heatcli.check.groups import UnexpectedClusters
from heatcli.check.maps import Faithfulness, InsideMask, Randomisation, Stability
from heatcli.check.work import Check
from heatcli.errors import UsageError, boundary, first_line, unknown_name
from heatcli.system.files import TEXT, read_regular

CHECKS: tuple[type[Check], ...] = (
    Prediction, Found, Finite, Ledger, BiasShare, InsideMask, Background, Randomisation, Stability, Faithfulness,
    Golden, UnexpectedClusters,
)  # fmt: skip
"""All checks, in the order in which they run."""


class _Shared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The keys that all checks share."""

    methods: tuple[str, ...] | None = None
    baseline: str | None = None
    target: str | None = None
    masks: str | None = None
    seed: int = 0


Spec = msgspec.defstruct(
    "Spec",
    [(check.name.replace("-", "_"), check | None, None) for check in CHECKS],
    bases=(_Shared,),
    frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab",
)  # fmt: skip
"""The content of the file: `methods`, `baseline`, `target`, `masks`, `seed`, and a table for each check to run."""


def _as_spec(made: object) -> _Shared:
    """The object, which `Spec` made; for type checkers, since `Spec` is made at run time."""
    assert isinstance(made, _Shared)
    return made


def checks(spec: _Shared) -> list[Check]:
    """The checks in a spec, in the order of `CHECKS`."""
    found = (getattr(spec, check.name.replace("-", "_")) for check in CHECKS)
    return [check for check in found if check is not None]


def methods_of(spec: _Shared, layout: Layout) -> tuple[str, ...]:
    """The methods of the spec, or those for that kind of input: tables and tokens have no blur."""
    if spec.methods is not None:
        return spec.methods
    return (f"lrp-eps@{'zero' if layout.separate else 'blur'}", "deeplift-rescale")


def default_spec() -> _Shared:
    """The spec of all checks with their defaults."""
    return _as_spec(Spec(**{check.name.replace("-", "_"): check() for check in CHECKS}))


_FIELD = re.compile(r"unknown field `([^`]+)`(?: - at `\$\.([^`]+)`)?")


def _bad(path: Path, why: str) -> UsageError:
    """The error for a spec that is not valid; for an unknown name, with the most similar known one."""
    checks = {check.name: [field.replace("_", "-") for field in check.__struct_fields__] for check in CHECKS}
    if found := _FIELD.search(why):
        name, table = found.groups()
        if table in checks:
            return UsageError(f"{path}: {unknown_name(f'key of [{table}]', name, checks[table])}")
        shared = [field.replace("_", "-") for field in _Shared.__struct_fields__]
        return UsageError(f"{path}: {unknown_name('check or key', name, [*checks, *shared])}")
    return UsageError(f"{path}: bad spec: {why}; the checks are {', '.join(checks)}")


def read_spec(path: Path) -> _Shared:
    """The spec in a file. Raises `UsageError` that names the table and the key."""
    with boundary(path, UsageError, "the spec cannot be read"):
        content = read_regular(path, TEXT)
    with boundary(path, UsageError, "is not TOML"):
        try:
            spec = _as_spec(msgspec.toml.decode(content, type=Spec))
        except msgspec.ValidationError as error:
            raise _bad(path, first_line(error)) from error
    if not checks(spec) or spec.methods == ():
        raise UsageError(f"{path}: asks for nothing; name at least one check, such as [inside-mask], and one method")
    return spec
