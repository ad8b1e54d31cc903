"""The benchmarks run, at a size that says nothing about speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness
from oass_jax.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


def run(*words):
    command = [sys.executable, "-m", *words]
    one_device = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(command, cwd=ROOT, env=one_device, capture_output=True, text=True)


def test_labels_are_spread_evenly_over_the_images():
    label = harness.label_with(7, 3)
    assert label.shape == (3, harness.NUM_CLASSES)
    np.testing.assert_array_equal(label.sum(1), [3, 2, 2])


def test_a_mistake_is_told_in_a_line():
    done = run("benchmarks.step", "--encoder=resnet51")
    assert done.returncode == 2
    assert "invalid choice: 'resnet51'" in done.stderr

    done = run("benchmarks.step", "--pages", "maxx")
    assert done.returncode == 2
    assert done.stderr == "error: maxx is not a config: did you mean max?\n"

    def main():
        raise UserError("so it\nis")

    with pytest.raises(SystemExit, match="2"):
        harness.run(main)


def test_spread_has_three_digits():
    assert harness.spread(np.array([0.0012345, 0.001, 0.5])) == "0.00123 (0.00100 to 0.500)"
    assert harness.spread(np.array([4581.7, 99.0, -162.4])) == "99.0 (-162 to 4582)"


def test_runs_are_timed_in_turns():
    order = []

    def timed(name):
        order.append(name)
        return float(len(order))

    times = harness.in_turns({name: lambda name=name: timed(name) for name in "ab"}, 2)
    assert order == ["a", "b"] * 3
    np.testing.assert_array_equal(times["b"], [4, 6])


@pytest.mark.parametrize("name", ["step", "pairs", "choices", "plan", "startup"])
def test_help_answers_without_jax(name):
    code = f"import sys, benchmarks.{name}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert "--image_px" in run(f"benchmarks.{name}", "--help").stdout


@pytest.mark.parametrize(
    ("name", "options", "lines"),
    [
        ("step", ["--pages", "ctopk_w_csi"], {"ctopk_w_csi"}),
        ("pairs", ["--points=2", "--most=2"], {"0", "16", "supervised", "max"}),
    ],
)
def test_a_benchmark_writes_what_it_prints(name, options, lines, tmp_path):
    done = run(f"benchmarks.{name}", *SMALL, *options, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(result["seconds"]) == lines
    assert all(len(seconds) == 2 for seconds in result["seconds"].values())
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
