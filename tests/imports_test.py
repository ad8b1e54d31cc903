"""Layers: a file imports from its own folder or a lower layer, never from a higher one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "oass_jax"
LAYERS = {
    "errors": 0,
    "default_config": 1,
    "config_file": 2,
    "data": 2,
    "image": 2,
    "method": 3,
    "model": 4,
    "run": 5,
    "evaluation": 6,
    "figures": 7,
    "training": 7,
}
COMMANDS = 8
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Modules imported anywhere in a file, `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(module, unwanted):
    """Which of the unwanted modules the import of a module brings along, as a list is printed."""
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def part(path):
    """The folder of a file, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_folder_has_a_layer():
    assert {part(path) for path in FILES if path.parent != PACKAGE} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_the_same_folder_or_below(path):
    own = part(path)
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] != "configs", f"{module}: ask config_file for it"
        if parts[0] != "oass_jax" or len(parts) < 2:
            continue
        other = parts[1]
        below = LAYERS.get(other, COMMANDS) < LAYERS.get(own, COMMANDS)
        commands = other not in LAYERS and own not in LAYERS
        assert below or other == own or commands, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_needs_tensorflow_or_torch_and_data_no_jax(path):
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & {"tensorflow", "torch", "torchvision"}
    if part(path) in ("errors", "default_config", "config_file", "data", "figures"):
        assert not roots & {"jax", "flax", "optax", "orbax"}


def test_configs_need_the_defaults_only():
    for path in (ROOT / "configs").glob("*.py"):
        allowed = {"ml_collections", "oass_jax.default_config", "oass_jax.config_file"}
        for module in imports(path):
            assert {module, module.split(".")[0]} & allowed, f"{path}: {module}"


def test_leaves_do_not_read_the_config():
    readers = {
        str(p.relative_to(PACKAGE))
        for p in FILES
        if p.parent != PACKAGE and "ml_collections.ConfigDict" in set(imports(p))
    }
    assert readers == {
        "evaluation/cam_evaluator.py",
        "evaluation/evaluate_run.py",
        "evaluation/evaluator.py",
        "evaluation/pictures.py",
        "run/build.py",
        "run/check_data.py",
        "run/restore.py",
        "training/build.py",
        "training/dry_run.py",
        "training/loop.py",
        "training/start.py",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["app", "--help"],
        ["app", "--workdir=w"],
        ["figure", "--help"],
        ["figure", "2", "--help"],
        ["figure", "2", "--ouut=x"],
        ["figure", "4", "--workdir=w", "--image=i", "--out=o"],
        ["main", "--help"],
        ["main", "--config=max", "--workdir=w", "--config.batchsize=3"],
        ["main", "--workdir=w", "--mode=eval"],
        ["predict", "--help"],
        ["predict", "--workdir=w", "no.jpg"],
        ["predict", "--workdir=w", "README.md", "--threshold=f1"],
        ["predict", "--workdir=w", "README.md"],
        ["prepare", "--help"],
        ["prepare", "--datset=voc/2012"],
        ["report", "--help"],
        ["report", "--workdir=w"],
        ["report", "--workdir=tests"],
        ["sweep", "--help"],
        ["sweep", "runs", "--configs", "maxx"],
        ["table", "--help"],
        ["--help"],
    ],
)
def test_help_and_errors_answer_before_anything_heavy_is_imported(words):
    heavy = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "sklearn", "scipy")
    heavy += ("matplotlib", "gradio")
    code = (
        "import sys\nfrom oass_jax import __main__\n"
        "try:\n    status = __main__.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"print(status or 0, [name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *printed, last = done.stdout.splitlines()
    if "--help" in words:
        assert last == "0 []", done.stderr
        assert "usage: " in "\n".join(printed)
    else:
        assert last == "2 []", done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_finished_run_is_read_without_jax_or_the_training():
    """The reports of a run need its folder alone; predictions need nothing of `training`."""
    of_reports = (
        ("oass_jax.run.workdir", ("jax", "flax", "orbax")),
        ("oass_jax.evaluation.thresholds", ("jax", "flax", "sklearn")),
        ("oass_jax.figures.report.page", ("jax", "flax", "orbax", "grain", "sklearn")),
        ("oass_jax.figures.runs", ("jax", "flax", "orbax")),
        ("oass_jax.figures.plots", ("jax", "flax", "orbax")),
        ("oass_jax.figures.image_plots", ("jax", "flax", "orbax")),
    )
    of_predictions = (
        ("oass_jax.run.restore", ("oass_jax.training", "oass_jax.evaluation")),
        ("oass_jax.evaluation.evaluate_run", ("oass_jax.training",)),
        ("oass_jax.evaluation.predictor", ("oass_jax.training",)),
    )
    # In one process each: what a module imports counts for those after it, too.
    for modules in (of_reports, of_predictions):
        code = "import importlib, sys\n"
        code += f"for module, unwanted in {modules}:\n"
        code += "    importlib.import_module(module)\n"
        code += "    print(module, [name for name in unwanted if name in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        expected = [f"{module} []" for module, _ in modules]
        assert done.stdout.splitlines() == expected, done.stderr
