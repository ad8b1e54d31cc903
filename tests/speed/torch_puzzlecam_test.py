import importlib.util
import json
import sys

import numpy as np
import pytest

from benchmarks import torch_puzzlecam
from oass_jax.errors import UserError
from tests.commands import call_benchmark, environment, run

WORDS = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


def test_missing_torch_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = call_benchmark(torch_puzzlecam)
    assert done.returncode == 2
    assert done.stderr == (
        "error: this benchmark needs torch: pip install -r benchmarks/requirements.txt\n"
    )


@pytest.mark.parametrize("value", [3.1, float("nan")])
def test_another_computation_is_not_timed(value):
    theirs = {"class maps": {"a": 3.0, "b": 0.0}, "losses": {"a": 3.0}, "gradients": {"a": 1.0}}
    with pytest.raises(UserError, match="the losses of the two programs differ"):
        torch_puzzlecam.compare(theirs | {"losses": {"a": value}}, theirs)
    # sqrt(4e-4^2 + 3e-4^2) / 3
    ours = {"a": np.array(3.0004), "b": np.array(3e-4)}
    difference = torch_puzzlecam.relative_difference(ours, theirs["class maps"])
    np.testing.assert_allclose(difference, 5e-4 / 3, rtol=1e-6)


def test_the_two_compute_the_same_or_torch_is_missing(tmp_path):
    command = [sys.executable, "-m", "benchmarks.torch_puzzlecam", *WORDS, f"--out={tmp_path}"]
    done = run(command, environment(1))
    if importlib.util.find_spec("torch") is None:
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: this benchmark needs torch" in done.stderr
        assert not list(tmp_path.iterdir())
        return
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "torch_puzzlecam.json").read_text())
    assert all(len(seconds) == 2 for seconds in result["seconds"].values())
    assert set(result["differences"]) == set(torch_puzzlecam.TOLERANCE)
