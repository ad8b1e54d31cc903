"""The benchmarks run, at a size that says nothing about speed."""

import json

import numpy as np
import pytest

from benchmarks import harness, pairs, step
from oass_jax.errors import UserError
from tests.commands import call_benchmark, help_of

SMALL = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


def test_labels_are_spread_evenly_over_the_images():
    label = harness.label_with(7, 3)
    assert label.shape == (3, harness.NUM_CLASSES)
    np.testing.assert_array_equal(label.sum(1), [3, 2, 2])


def test_a_mistake_is_told_in_a_line():
    done = call_benchmark(step, "--encoder=resnet51")
    assert done.returncode == 2
    assert "invalid choice: 'resnet51'" in done.stderr

    done = call_benchmark(step, "--pages", "maxx")
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
    answer, loaded = help_of(f"benchmarks.{name}")
    assert "--image_px" in answer
    assert "jax" not in loaded


@pytest.mark.parametrize(
    ("benchmark", "options", "lines"),
    [
        (step, ["--pages", "ctopk_w_csi"], {"ctopk_w_csi"}),
        (pairs, ["--points=2", "--most=2"], {"0", "16", "supervised", "max"}),
    ],
)
def test_a_benchmark_writes_what_it_prints(benchmark, options, lines, tmp_path):
    done = call_benchmark(benchmark, *SMALL, *options, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert set(result["seconds"]) == lines
    assert all(len(seconds) == 2 for seconds in result["seconds"].values())
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
