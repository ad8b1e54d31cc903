"""The floors of the house: a file imports from its own wing or a lower floor, never from above."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "oass_jax"
FLOORS = {
    "data": 1,
    "image": 1,
    "method": 2,
    "model": 3,
    "evaluation": 4,
    "training": 5,
    "figures": 5,
}
COMMANDS = 6
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Modules imported anywhere in a file, `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wing(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def test_the_wings_are_known():
    assert {wing(path) for path in FILES} - {None} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_the_same_wing_or_below(path):
    own = wing(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "configs":
            assert own is None, f"{module}: only commands know the configs"
        if parts[0] != "oass_jax" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in FLOORS else None
        floor = FLOORS[own] if own else COMMANDS
        assert (FLOORS[other] if other else COMMANDS) < floor or other == own, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_needs_tensorflow_or_torch_and_data_no_jax(path):
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & {"tensorflow", "torch", "torchvision"}
    if wing(path) == "data":
        assert not roots & {"jax", "flax", "optax", "orbax"}


def test_configs_import_ml_collections_and_each_other_only():
    for path in (ROOT / "configs").glob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        assert roots <= {"configs", "ml_collections", "json", "importlib"}, path


def test_only_parts_loop_and_evaluators_read_the_config():
    readers = {p.name for p in FILES if wing(p) and "ml_collections.ConfigDict" in set(imports(p))}
    assert readers == {"parts.py", "loop.py", "evaluator.py", "cam_evaluator.py"}


def test_the_command_line_is_read_without_jax():
    heavy = ("jax", "flax", "grain", "tensorflow_datasets")
    code = f"import sys, oass_jax.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
