"""The benchmarks of steps run, at a size that has no bearing on speed."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import harness, startup, step
from oass_jax.errors import UserError
from tests.commands import call_benchmark, help_of

SMALL = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


def test_labels_are_spread_evenly_over_the_images():
    np.testing.assert_array_equal(harness.label_of(4).sum(1), [2, 2, 1, 1])


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


@pytest.mark.parametrize("name", ["step", "choices", "plan", "startup", "input", "torch_puzzlecam"])
def test_help_answers_without_the_heavy_libraries(name):
    answer, loaded = help_of(f"benchmarks.{name}")
    assert "--image_px" in answer
    assert not {"jax", "grain", "torch"} & set(loaded)


def test_an_unknown_config_is_reported_in_a_line():
    done = call_benchmark(step, "--configs", "maxx")
    assert done.returncode == 2
    assert done.stderr == "error: maxx is not a config: did you mean max?\n"


def test_a_benchmark_writes_what_it_prints(tmp_path):
    done = call_benchmark(step, *SMALL, "--configs", "supervised", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "step.json").read_text())
    assert [len(seconds) for seconds in result["seconds"].values()] == [2]
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())


def test_a_failed_start_is_reported_by_its_error(tmp_path):
    options = argparse.Namespace(
        config="max", image_px=33, batch_size=8, encoder="resnet_tiny", dtype="float32"
    )
    with pytest.raises(UserError, match=r"augment.image_px=33 is not a multiple of 32"):
        startup.first_step(options, tmp_path, "", tmp_path / "run")
