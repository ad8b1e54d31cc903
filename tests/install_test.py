"""The package as it is installed: built, and used from an empty folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pip(*words, cwd):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Of a copy, because building leaves folders beside the sources.
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("oass_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, cwd=source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_has_every_file_and_nothing_else_at_the_top(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"oass_jax"}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "oass_jax").rglob("*.py")}
    templates = (ROOT / "oass_jax" / "figures" / "report" / "templates").iterdir()
    expected |= {str(path.relative_to(ROOT)) for path in templates}
    expected |= {f"oass_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert {name for name in names if name.startswith("oass_jax/")} == expected


def test_pip_installs_no_package_configs(site):
    assert not (site / "configs").exists()
    assert (site / "oass_jax" / "configs" / "max.py").is_file()


def run(site, tmp_path, *words):
    """Runs `oass` or `python -m MODULE` in an empty folder."""
    command = [sys.executable, *words]
    env = {"PYTHONPATH": str(site), "PATH": ""}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)


def test_oass_lists_its_commands_from_an_empty_folder(site, tmp_path):
    done = run(site, tmp_path, str(site / "bin" / "oass"), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "oass table" in done.stdout


@pytest.mark.parametrize("config", ["max", "configs/max.py", "demo:ctopk_w_csi"])
@pytest.mark.parametrize("command", [["-m", "oass_jax.main"], ["-m", "oass_jax"], ["oass"]])
def test_configs_are_found_from_an_empty_folder(site, tmp_path, command, config):
    if command == ["oass"]:
        command = [str(site / "bin" / "oass")]
    words = [f"--config={config}", "--workdir=w", "--config.batch_size=0"]
    done = run(site, tmp_path, *command, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --config.batch_size=0: must be finite and at least 1\n"
    assert list(tmp_path.iterdir()) == []
