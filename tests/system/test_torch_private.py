"""torch's private names, one by one: a test that fails says what of heatcli breaks with this torch."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, needs_compiler
from torch import Tensor, nn
from torch.nn import functional

from heatcli.system import torch_private

ATEN = torch.ops.aten
SOURCES = sorted((ROOT / "heatcli").rglob("*.py"))
# Attributes of torch's objects that torch does not document.
UNDOCUMENTED = ("_schema", "_opname", "_overloadname", "_execution_engine", "run_backward", "overloadpacket")


def chain(node: ast.AST) -> list[str]:
    """`torch.ops.aten.relu` as its parts; empty for anything but names joined by dots."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (before := chain(node.value)):
        return [*before, node.attr]
    return []


def attributes(path: Path) -> Iterator[list[str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield chain(node) or ["", node.attr]


def private(path: Path) -> set[str]:
    """The private names of torch in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        for parts in (name.split(".") for name in names):
            if parts[0] == "torch" and ("experimental" in parts or any(p.startswith("_") for p in parts)):
                found.add(".".join(parts))
    for parts in attributes(path):
        is_kernel = parts[-1].endswith("_backward") and parts[-2].lower().endswith("aten")
        hidden = any(p.startswith("_") and not p.endswith("__") for p in parts)
        is_inside = parts[0] == "torch" and "ops" not in parts and hidden
        if parts[-1] in UNDOCUMENTED or is_kernel or is_inside:
            found.add(".".join(parts))
    return found


def test_no_other_file_has_private_names_of_torch(tmp_path: Path) -> None:
    here = ROOT / "heatcli" / "system" / "torch_private.py"
    assert {str(p.relative_to(ROOT)): names for p in SOURCES if p != here and (names := private(p))} == {}
    known = private(here)
    assert {"torch._ops.OpOverload", "torch._C._jit_get_schemas_for_operator", "operator._schema"} <= known
    bad = tmp_path / "bad.py"
    bad.write_text("from torch.utils import _pytree\ntorch._C.x\ntorch.ops.aten.tanh_backward(m, y)\nf()._schema\n")
    assert private(bad) >= {"torch.utils._pytree", "torch._C.x", "torch.ops.aten.tanh_backward", "._schema"}


def test_every_aten_operator_named_in_the_source_exists() -> None:
    """Else the import of that file fails, or a pass never applies."""
    named = {
        tuple(parts[parts.index(begin) + 1 :])
        for path in SOURCES
        for parts in attributes(path)
        for begin in ("_ATEN", "aten")
        if begin in parts and not parts[-1].startswith("__")
    }
    assert len(named) > 100
    for name in sorted(named):
        reduce(getattr, name, ATEN)


@pytest.mark.parametrize("library", ["aten", "prim", "torchvision"])
def test_every_operator_that_artifacts_may_call_exists(library: str) -> None:
    """A name that torch gave up says nothing; the operator that took its place is refused.

    A process of its own asks, for torch's list of operators changes with what has run. One operator may be lacking: on
    some machines the list of the same torch has no `aten::_is_tracing`, for a reason not found.
    """
    if library == "torchvision":
        pytest.importorskip("torchvision")
    code = (
        f"import {'torchvision' if library == 'torchvision' else 'torch'}\n"
        "from heatcli.graph import permitted; from heatcli.system.torch_private import schemas_of\n"
        f"names = permitted._INTERNAL if {library == 'aten'} else permitted._OTHERS['{library}']\n"
        f"print(*sorted(n for n in names if not schemas_of('{library}::' + n)))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    lacking = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    # TorchScript's interpreter has `prim::isinstance`, without a schema.
    assert lacking - {"_is_tracing"} == ({"isinstance"} if library == "prim" else set())


# --- a name, a test ---------------------------------------------------------------------------------------------------


def test_pytree() -> None:
    """The recorder finds the tensors in nested arguments by it; `capture` names outputs by their keys in a mapping."""
    tree = torch_private.pytree
    x, nested = torch.ones(1), {"a": [torch.zeros(1), (2, None)]}
    nested["b"] = x  # type: ignore[assignment]
    leaves, form = tree.tree_flatten(nested)
    assert leaves[1] == 2
    assert leaves[-1] is x
    assert tree.tree_unflatten(leaves, form) == nested
    assert tree.tree_leaves((x, [3])) == [x, 3]
    assert tree.tree_map_only(Tensor, lambda _: "t", nested) == {"a": ["t", (2, None)], "b": "t"}
    assert tree.tree_map(lambda leaf: leaf is x, [x, 3]) == [True, False]
    ((_, first), _, _, (path, last)), _ = tree.tree_flatten_with_path(nested)
    assert last is x
    assert [key.key for key in path if isinstance(key, tree.MappingKey)] == ["b"]
    assert isinstance(first, Tensor)


def test_the_classes_of_operators() -> None:
    """A stored graph names ATen's operators and no other callables; the recorder refuses torch.cond and its like."""
    assert isinstance(ATEN.add.Tensor, torch_private.OpOverload)
    assert isinstance(ATEN.add, torch_private.OpOverloadPacket)
    assert "Tensor" in ATEN.add.overloads()
    assert isinstance(torch.ops.higher_order.cond, torch_private.HigherOrderOperator)
    assert not isinstance(ATEN.add.Tensor, torch_private.HigherOrderOperator)


def test_names_with_their_library() -> None:
    """Operators of quantised TorchScript are told from ATen's of the same name."""
    assert torch_private.library_name_of(ATEN.add.Tensor) == "aten::add"
    assert torch_private.library_name_of(torch.ops.quantized.add.default) == "quantized::add"
    assert torch_private.library_name_of(torch.ops.higher_order.cond) == ""


class Watching(torch_private.DispatchMode):
    """Keeps the names of all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(torch_private.name_of(func))
        return func(*args, **(kwargs or {}))


def test_unrecorded() -> None:
    """Weights of quantised layers become real numbers without a mode that would record how."""
    with Watching() as watching:
        x = torch.ones(2) + 1
        with torch_private.unrecorded():
            x = x * 2
        x - 1
    assert watching.calls[-2:] == ["add", "sub"]


def test_a_dispatch_mode_sees_every_call() -> None:
    """Nothing is captured without: a ScriptModule's calls are seen nowhere else."""
    module = torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True)).eval())
    with torch.no_grad(), Watching() as watching:
        module(torch.ones(1, 3, 2, 2))
    assert [name for name in watching.calls if "conv" in name or "relu" in name] == ["convolution", "relu_"]


def test_a_dispatch_mode_sees_cond() -> None:
    """`heatcli.graph.fused` decides which branch is captured, and on what."""
    x = torch.ones(2)
    with torch.no_grad(), Watching() as watching:
        torch.ops.higher_order.cond(x.sum() > 0, torch.relu, torch.neg, (x,))
    assert watching.calls[-1] == "cond"


def test_a_dispatch_mode_imports_no_dynamo() -> None:
    """An import of dynamo costs a second at each start."""
    code = (
        "import sys, torch; from heatcli.graph.recorder import Recorder\n"
        "with torch.no_grad(), Recorder() as recorder: torch.ones(2).relu()\n"
        "assert str(recorder.calls[-1].target) == 'aten.relu.default', recorder.calls\n"
        "assert not [m for m in sys.modules if m.startswith('torch._dynamo.')], 'dynamo is imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_names_and_schemas_of_operators() -> None:
    """By these the recorder knows what a call writes to, and a graph which argument is called what."""
    assert torch_private.name_of(ATEN.add_.Tensor) == "add_"
    assert torch_private.name_of(ATEN._softmax.default) == "_softmax"
    assert torch_private.name_of(torch.ops.higher_order.cond) == "cond"
    schema = torch_private.schema_of(ATEN.add_.Tensor)
    assert schema.is_mutable
    first, second, alpha = schema.arguments
    assert first.alias_info is not None
    assert first.alias_info.is_write
    assert (first.name, str(first.type), second.alias_info) == ("self", "Tensor", None)
    assert (alpha.name, alpha.kwarg_only, alpha.default_value) == ("alpha", True, 1)
    assert [str(r.type) for r in schema.returns] == ["Tensor"]
    assert ATEN.view.default.is_view
    for tag, op in {
        torch.Tag.inplace_view: ATEN.squeeze_.default, torch.Tag.out: ATEN.add.out,
        torch.Tag.nondeterministic_seeded: ATEN.dropout.default, torch.Tag.dynamic_output_shape: ATEN.nonzero.default,
    }.items():  # fmt: skip
        assert tag in op.tags


def test_schemas_without_loading() -> None:
    """What an artifact may call is decided by them, before anything is loaded."""
    assert {str(s.returns[0].type) for s in torch_private.schemas_of("aten::relu")} == {"Tensor"}
    assert torch_private.schemas_of("prim::device")
    assert torch_private.schemas_of("aten::no_such_operator") == []


FUNCTIONS = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": functional.silu, "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
}  # fmt: skip


def values(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points on both sides of 0 and of every kink, and a multiplier for each."""
    g = torch.Generator().manual_seed(seed)
    return torch.linspace(-5, 5, 101, dtype=torch.float64), torch.randn(101, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("missing", [False, True])
def test_run_backward(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators without a closed form have their product from a tape. By torch.autograd.grad it is the same."""
    assert torch_private._ENGINE is not None, "slower: torch.autograd.grad imports sympy (1 s)"
    if missing:
        monkeypatch.setattr(torch_private, "_ENGINE", None)
    x, m = values()
    x, unread = x.requires_grad_(), torch.ones(2, requires_grad=True)
    y = functional.mish(x)
    for differentiable in (False, True):
        found, none = torch_private.run_backward(y, (x, unread), m, differentiable)
        (expected,) = torch.autograd.grad(y, x, m, retain_graph=True)
        assert none is None
        assert found is not None
        torch.testing.assert_close(found, expected)
        assert found.requires_grad == differentiable
    assert x.grad is None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_backward_kernels(name: str) -> None:
    """Without the kernel the walk is as right, and keeps a tape."""
    kernels = {**torch_private.BACKWARD_BY_OUTPUT, **torch_private.BACKWARD_BY_INPUT}
    assert name in kernels, f"torch has no {name}_backward: walks over {name} keep a tape, and take more memory"
    x, m = values()
    x.requires_grad_()
    y = FUNCTIONS[name](x)
    (expected,) = torch.autograd.grad(y, x, m)
    at = y if name in torch_private.BACKWARD_BY_OUTPUT else x
    torch.testing.assert_close(kernels[name](m, at.detach()), expected)
    assert set(kernels) == set(FUNCTIONS)


class Without:
    """`torch.ops.aten` of a torch that has lost some operators."""

    def __init__(self, *lost: str) -> None:
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        if name in self._lost:
            raise AttributeError(name)
        return getattr(ATEN, name)


@pytest.mark.parametrize("missing", [False, True])
def test_relu_backward(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step back through every ReLU, in the memory of its output. By torch.where it is the same, and slower."""
    assert hasattr(ATEN, "threshold_backward"), "slower: ReLUs go by torch.where"
    if missing:
        monkeypatch.setattr(torch_private, "_ATEN", Without("threshold_backward"))
    x, m = values()
    y, expected = x.relu(), torch.where(x > 0, m, 0)
    assert torch.equal(torch_private.relu_backward(m, y), expected)
    found = torch_private.relu_backward(m, y, out=y)
    assert found.data_ptr() == y.data_ptr()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-torch.inf, 0.0), (0.0, torch.inf), (-1.0, 2.0)])
def test_select_between(low: float, high: float, missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The selection by sign in most rules. The ends are left out. By torch.where it is the same, and slower."""
    assert hasattr(ATEN, "hardtanh_backward"), "slower: rules select by torch.where"
    if missing:
        monkeypatch.setattr(torch_private, "_ATEN", Without("hardtanh_backward"))
    x, m = values()
    x = torch.cat([x, torch.tensor([low, high, 0.0, -0.0], dtype=x.dtype)])
    m = torch.cat([m, torch.ones(4, dtype=x.dtype)])
    expected = torch.where((low < x) & (x < high), m, 0)
    assert torch.equal(torch_private.select_between(m, x, low, high), expected)
    found = torch_private.select_between(m, x, low, high, out=x)
    assert found.data_ptr() == x.data_ptr()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_convolution_backward(transposed: bool) -> None:
    """The step back through every convolution, which needs no tape by it."""
    weights = torch.randn(4, 2, 3, 3) if not transposed else torch.randn(4, 2, 3, 3).contiguous()
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    how = [[2, 2], [1, 1], [1, 1], transposed, [1, 1] if transposed else [0, 0], 1 if transposed else 2]
    y = ATEN.convolution.default(x, weights, None, *how)
    m = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, m)
    torch.testing.assert_close(torch_private.convolution_backward(m, x.detach(), weights, how), expected)


def test_read_program() -> None:
    """The reader of `.pt2` files that turns to no pickles."""
    content = io.BytesIO()
    torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), content)
    content.seek(0)
    program = torch_private.read_program(content)
    assert torch.equal(program.module()(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def test_make_fx() -> None:
    """`--compile` records a walk by it; what is written in place is seen as `functionalize` leaves it."""

    def written(x: Tensor) -> Tensor:
        return x.clone().relu_().mul_(2)

    recorded = torch_private.make_fx(torch.func.functionalize(written))(torch.ones(2))
    calls = [node.target for node in recorded.graph.nodes if node.op == "call_function"]
    assert calls[-2:] == [ATEN.relu.default, ATEN.mul.Tensor]


@needs_compiler
def test_options_of_the_compiler() -> None:
    """`--compile`: torch refuses an option that it does not know; the logger is what talks of missing GPUs."""
    import torch._inductor.config as known

    for name in torch_private.COMPILER_OPTIONS:
        reduce(getattr, name.split("."), known)
    import torch.utils.cpp_extension as extension

    assert extension.logger.name == torch_private.COMPILER_LOG


def test_written_forward() -> None:
    """`heatcli export` writes a walk for runtimes without backward operators."""
    own = torch_private.written_forward({"threshold": lambda m, x, threshold: m * (x > threshold)})
    assert ATEN.threshold_backward.default in own
    assert ATEN.gelu_backward.default in own


def test_without_overload() -> None:
    """Explained models as TorchScript."""
    assert torch_private.without_overload(ATEN.add.Tensor) is ATEN.add


def test_load_decomposed() -> None:
    """Quantised programs (`.pt2`) call these operators; without them they are refused by name."""
    torch_private.load_decomposed()
    assert torch_private.schemas_of("quantized_decomposed::quantize_per_tensor")
