import csv

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.photographs import probe
from oass_jax.run.workdir import Workdir
from oass_jax.training.method import Views
from tests.commands import call


@pytest.fixture(scope="module")
def row(finished_run, tmp_path_factory):
    """What is measured of the tiny run's only checkpoint."""
    out = tmp_path_factory.mktemp("probe")
    done = call([finished_run, f"--out={out}", "--num_batches=2"], command=probe.main)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    with path.open() as file:
        (row,) = csv.DictReader(file)
    return {name: float(value) for name, value in row.items()}


def test_a_teacher_that_is_not_trained_leaves_the_patches_to_the_classifier(row):
    """L_p-cl reaches the head alone, L_re both."""
    assert (row["seed"], row["step"]) == (0, 6)
    assert row["encoder_pcl"] == row["encoder_cos_pcl"] == 0
    for name in ("encoder_cls", "encoder_re", "head_cls", "head_pcl", "head_re"):
        assert row[name] > 0
    assert -1 <= row["head_cos_pcl"] <= 1


def test_maps_cuts_and_losses_are_measured_too(row):
    assert 0 < row["loss_re"] < 3 * row["map_size"]
    assert all(0 <= row[f"inside_{name}"] <= 1 for name in probe.STRATEGIES)


def test_runs_of_any_seed_are_measured_on_the_same_images(run_with, monkeypatch):
    monkeypatch.setattr(probe, "measure", lambda state, views, **_: {"mean": views.image.mean()})
    one, other = (
        probe.probe(Workdir(run_with({"seed": seed}), writes=False), num_batches=2)
        for seed in (0, 5)
    )
    assert [row.pop("seed") for row in one + other] == [0, 5]
    assert one == other


def test_a_cut_is_inside_with_any_box_of_its_image_and_images_without_do_not_count():
    boxes = jnp.array([[[0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 1.0, 1.0]]] * 4)
    box_label = jnp.array([[3, 4], [3, -1], [3, 3], [-1, -1]])
    views = Views(*[None] * 3, boxes=boxes, box_label=box_label)
    points = jnp.array([[0.7, 0.7], [0.7, 0.7], [0.25, 0.7], [0.2, 0.2]])
    np.testing.assert_allclose(probe._share_inside(points, views), 1 / 3, rtol=1e-6)


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    done = call([tmp_path / "none", f"--out={tmp_path}"], command=probe.main)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "train there first" in line
