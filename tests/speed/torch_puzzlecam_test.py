"""What can be said of the comparison with PyTorch where PyTorch may be missing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file

from benchmarks import torch_puzzlecam
from oass_jax import config_file
from oass_jax.model import encoders
from oass_jax.model.pretrained import load_pretrained
from oass_jax.run import build

ROOT = Path(__file__).parents[2]
SMALL = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def variables():
    config = config_file.load("supervised")
    config.model.encoder = "resnet_tiny"
    return build.init_variables(build.create_network(config, 5), 0)


def test_help_answers_without_jax_and_torch():
    code = "import sys, benchmarks.torch_puzzlecam; print({'jax', 'torch'} & set(sys.modules))"
    assert run("-c", code).stdout.strip() == "set()"
    assert "--compile" in run("-m", "benchmarks.torch_puzzlecam", "--help").stdout


def test_missing_torch_is_told_in_one_sentence():
    code = "import sys; sys.modules['torch'] = None; from benchmarks import torch_puzzlecam as b; "
    done = run("-c", f"{code} b.harness.run(b.main)")
    assert done.returncode == 2
    assert done.stderr == (
        "error: this benchmark needs torch: pip install -r benchmarks/requirements.txt\n"
    )


def test_weights_for_torch_are_those_that_are_read_back(variables, tmp_path):
    arrays = torch_puzzlecam.torch_layout(variables)
    assert arrays["head.weight"].shape == (5, 512, 1, 1)
    kernel = variables["params"]["head"]["kernel"]
    assert_array_equal(arrays["head.weight"][:, :, 0, 0], kernel.T)
    encoder = {
        name.removeprefix("encoder."): np.ascontiguousarray(array)
        for name, array in arrays.items()
        if name.startswith("encoder.")
    }
    save_file(encoder, tmp_path / "encoder.safetensors")
    zeros = jax.tree.map(np.zeros_like, variables)
    tiny = encoders.create("resnet_tiny", dtype="float32")
    loaded, report = load_pretrained(str(tmp_path / "encoder.safetensors"), zeros, tiny)
    assert not report.missing
    for collection in variables:
        jax.tree.map(
            assert_array_equal, loaded[collection]["encoder"], variables[collection]["encoder"]
        )


def test_calm_touches_the_residual_branches_alone(variables):
    calm = torch_puzzlecam.torch_layout(torch_puzzlecam.calm(variables))
    changed = []
    for name, array in torch_puzzlecam.torch_layout(variables).items():
        if (calm[name] != array).any():
            changed.append(name)
            assert_allclose(calm[name], 0.1 * array, rtol=1e-6)
    assert changed == [f"encoder.layer{i}.0.bn3.weight" for i in (1, 2, 3, 4)]


def test_relative_difference_by_hand():
    ours = {"a": np.array([3.0, 0.0]), "b": 4.0}
    theirs = {"b": 0.0, "a": np.array([3.0, 4.0])}
    # sqrt(4^2 + 4^2) / sqrt(3^2 + 4^2)
    assert_allclose(torch_puzzlecam.relative_difference(ours, theirs), 32**0.5 / 5)
    with pytest.raises(KeyError):
        torch_puzzlecam.relative_difference(ours, {"a": theirs["a"]})


@pytest.mark.parametrize("value", [2e-4, float("nan")])
def test_another_computation_is_not_timed(value, capsys):
    good = {"class maps": 1e-6, "losses": 1e-6, "gradients": 1e-3}
    torch_puzzlecam.check(good)
    with pytest.raises(SystemExit):
        torch_puzzlecam.check(good | {"losses": value})
    assert "error: the losses of the two programs differ" in capsys.readouterr().err


def test_ratios_by_hand():
    times = {
        "ours max": [1.0, 2.0],
        "ours puzzlecam": [2.0, 2.0],
        "ours supervised": [1.0, 1.0],
        "ours forward": [3.0, 3.0],
        "ours forward + backward": [8.0, 8.0],
        "torch puzzlecam": [3.0, 5.0],
        "torch supervised": [2.0, 2.0],
        "torch forward": [1.5, 2.0],
        "torch forward + backward": [4.0, 2.0],
    }
    ratios = torch_puzzlecam.compare({name: np.array(x) for name, x in times.items()})
    assert [list(ratio) for ratio in ratios.values()] == [
        [3.0, 2.5],
        [1.5, 2.5],
        [2.0, 2.0],
        [2.0, 1.5],
        [2.0, 4.0],
    ]
    for on_gpu in (False, True):
        assert list(torch_puzzlecam.goals_of(on_gpu)) == list(ratios)


def test_the_benchmark_writes_what_it_prints_where_torch_is_installed(tmp_path):
    done = run("-m", "benchmarks.torch_puzzlecam", *SMALL, f"--out={tmp_path}")
    if importlib.util.find_spec("torch") is None:
        assert done.returncode == 2
        assert not list(tmp_path.iterdir())
        return
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "torch_puzzlecam.json").read_text())
    assert len(result["seconds"]) == 9
    assert all(len(seconds) == 2 for seconds in result["seconds"].values())
    assert set(result["differences"]) == set(torch_puzzlecam.TOLERANCE)
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
