"""The order of the stages, held by the imports; and a few habits the whole package keeps."""

import ast
from pathlib import Path

import pytest

import iiot_dask

ROOT = Path(__file__).parents[1]
STAGES = (
    "sim",
    "adapter",
    "ingest",
    "stream",
    "codec",
    "history",
    "query",
    "flow",
    "health",
    "scaling",
    "dashboard",
)
"""The flow. `health` and `scaling` stand side by side: neither imports the other."""
BESIDE = {"health": {"scaling"}, "scaling": {"health"}}
WIRING = {"commands"}
"""Folders that may import everything, as the files beside them."""
FILES = sorted((ROOT / "iiot_dask").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def stage_of(path):
    parts = path.relative_to(ROOT / "iiot_dask").parts
    return parts[0] if len(parts) > 1 else None


def allowed(stage):
    before = set(STAGES[: STAGES.index(stage) + 1]) if stage in STAGES else set()
    return (before | {"core", stage}) - BESIDE.get(stage, set())


@pytest.mark.parametrize("path", [p for p in FILES if stage_of(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_core_and_earlier_stages_only(path):
    stage = stage_of(path)
    if stage in WIRING:
        return
    used = {name.split(".")[1] for name in imported(path) if name.startswith("iiot_dask.")}
    assert used <= allowed(stage), f"{path.name} of stage {stage} imports {sorted(used - allowed(stage))}"
    assert not any(name.split(".")[0] == "iiot_dask_adapters" for name in imported(path))


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_an_adapter_imports_core_and_the_contract_only(path):
    used = {name.split(".")[1] for name in imported(path) if name.startswith("iiot_dask.")}
    assert used <= {"core", "adapter"}


def test_the_rule_bites():
    assert "history" not in allowed("stream")
    assert "scaling" not in allowed("health")
    assert allowed("core") == {"core"}


def test_every_folder_is_a_stage_or_core():
    folders = {p.parent.name for p in (ROOT / "iiot_dask").glob("*/__init__.py")}
    assert folders == {*STAGES, *WIRING, "core"}


def test_the_package_lists_the_flow():
    listed = [line.split()[0] for line in iiot_dask.__doc__.splitlines() if line.startswith("    ")]
    assert tuple(listed) == STAGES


def broad(handler):
    names = [handler.type] if not isinstance(handler.type, ast.Tuple) else handler.type.elts
    return handler.type is None or any(
        isinstance(n, ast.Name) and n.id in {"Exception", "BaseException"} for n in names
    )


@pytest.mark.parametrize("path", [*FILES, *ADAPTERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_broad_except_swallows(path):
    """A broad handler raises, or says in a `noqa` of its own line where the failure goes instead."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ExceptHandler) and broad(node):
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            said = "noqa: BLE001 --" in lines[node.lineno - 1]
            assert raises or said, f"{path.name}:{node.lineno} swallows"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_prints_but_the_command_line(path):
    calls = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
    ]
    assert not calls or path.name in {"cli.py", "plantfile.py"} or path.parent.name == "commands"


@pytest.mark.parametrize("path", [*FILES, *ADAPTERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_queue_has_a_bound(path):
    """A bound in the call, or a `# bounded` comment on its line that says what keeps it."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if name in {"Queue", "LifoQueue", "PriorityQueue", "deque"}:
            bounded = node.args[1:] if name == "deque" else node.args
            said = "# bounded" in lines[node.lineno - 1]
            assert said or bounded or any(k.arg in {"maxsize", "maxlen"} for k in node.keywords), (
                f"{path.name}:{node.lineno}"
            )
        assert name != "SimpleQueue", f"{path.name}:{node.lineno}"
