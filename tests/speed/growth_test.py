"""Laws are fitted right, and every curve runs at a size that says nothing about speed."""

import itertools
import json
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import growth, harness
from tests.commands import call_benchmark, help_of

SMALL = ["--encoder=resnet_tiny", "--image_px=32", "--batch_size=8", "--repeats=2"]


@pytest.mark.parametrize(
    ("law", "seconds"),
    [
        ("a + b x", [2 + 3 * 1, 2 + 3 * 2, 2 + 3 * 4]),
        ("a + b x²", [2 + 3 * 1, 2 + 3 * 4, 2 + 3 * 16]),
        ("a + b x log x", [2, 2 + 3 * 2 * np.log(2), 2 + 3 * 4 * np.log(4)]),
    ],
)
def test_a_law_that_holds_is_found(law, seconds):
    fit = growth.fit([1, 2, 4], seconds, law)
    np.testing.assert_allclose(fit, (2, 3, 1), rtol=1e-9)
    np.testing.assert_allclose(fit.at([1, 2, 4], law), seconds)


def test_a_flat_law_is_the_mean():
    fit = growth.fit([20, 80, 1000], [1.0, 2.0, 6.0], "a")
    np.testing.assert_allclose(fit[:2], (3, 0))
    assert np.isnan(fit.r2)
    np.testing.assert_allclose(fit.at([5, 7], "a"), [3, 3])


def test_r2_by_hand():
    # The line is x + 1/3; residuals are -1/3, 2/3, -1/3 of deviations -4/3, 2/3, 2/3.
    fit = growth.fit([0, 1, 2], [0.0, 2.0, 2.0], "a + b x")
    np.testing.assert_allclose(fit, (1 / 3, 1, 0.75))


def test_every_image_is_evaluated_once(monkeypatch):
    from oass_jax.evaluation import average_precision

    shapes = []
    monkeypatch.setattr(
        average_precision, "mean_average_precision", lambda *pair: shapes.append(pair)
    )
    options = Namespace(encoder="resnet_tiny", dtype="float32", batch_size=8, image_px=32)
    curve = growth.evaluation(options, [8, 20])
    assert all(run() > 0 for run in curve.runs.values())
    assert [scores.shape for scores, _ in shapes] == [(8, 20), (20, 20)]
    assert curve.flops[20] == 3 * curve.flops[8]


@pytest.fixture
def made(monkeypatch):
    """Stands in for the step: what it was made of, and then the labels it was given."""
    made, seconds = [], itertools.count(1)

    class Step:
        flops = 1e9

        def __init__(self, page, options, num_classes=harness.NUM_CLASSES):
            made.append((page, options.batch_size, options.image_px, num_classes))

        def set_label(self, label):
            made.append(label.sum(1).tolist())

        def run(self):
            return float(next(seconds))

    monkeypatch.setattr(harness, "Step", Step)
    return made


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("batch", [("max", 2, 32, 20), ("max", 4, 32, 20)]),
        ("image_px", [("max", 3, 2, 20), ("max", 3, 4, 20)]),
        ("classes", [(p, 3, 32, c) for p in ("max", "cmax", "max_csi") for c in (2, 4)]),
        (
            "positives",
            [x for p in ("max", "cmax") for x in [(p, 3, 32, 20), *[[2] * 3, [4] * 3] * 2]],
        ),
    ],
)
def test_curves_grow_in_one_thing(of, expected, made):
    options = Namespace(batch_size=3, image_px=32, repeats=1, out=None)
    for name, (build, at) in growth.CURVES[of].items():
        assert len(at) > 2
        points, law, about = growth.measure(name, build(options, [2, 4]), options)
        assert [row[:2] for row in points] == [[name, 2], [name, 4]]
        assert law[:2] == [name, about["law"]]
    assert made == expected


def test_help_answers_without_jax():
    answer, loaded = help_of("benchmarks.growth")
    assert "--of" in answer
    assert not {"jax", "torch", "matplotlib"} & set(loaded)


@pytest.mark.parametrize(
    "words",
    [
        ("--of", "batch", "classes", "--at", "8", "16"),
        ("--of", "batch", "--at", "8", "8"),
        ("--of", "weather"),
    ],
)
def test_what_cannot_be_measured_is_said(words):
    done = call_benchmark(growth, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr.splitlines()[-1]


def test_curves_are_printed_drawn_and_written(tmp_path):
    done = call_benchmark(
        growth, *SMALL, "--of", "evaluation", "--at", "16", "8", f"--out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "growth.json").read_text())
    assert list(result["curves"]) == ["evaluation", "map"]
    for name, curve in result["curves"].items():
        assert list(curve["seconds"]) == ["8", "16"]
        assert all(len(seconds) == 2 for seconds in curve["seconds"].values())
        assert (tmp_path / f"growth_{name}.png").stat().st_size > 0
    curve = result["curves"]["evaluation"]
    medians = [np.median(seconds) for seconds in curve["seconds"].values()]
    np.testing.assert_allclose([curve["a"] + x * curve["b"] for x in (8, 16)], medians)
    assert len(result["table"]) == 6
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
