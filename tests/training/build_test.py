import os

import pytest

from oass_jax import default_config
from oass_jax.errors import UserError
from oass_jax.run import build
from oass_jax.training import build as training_build


def schedule(num_examples, **fields):
    config = default_config.get_config()
    config.update_from_flattened_dict(fields)
    return training_build.create_schedule(config, num_examples)


def test_epochs_become_steps_for_the_papers_data():
    run = schedule(10_582)
    assert run.steps_per_epoch == 10_582 / 32
    assert run.total_steps == round(120 * 10_582 / 32) == 39_682
    assert len(run.eval_steps) == 24
    assert min(run.eval_steps) == round(5 * 10_582 / 32)
    assert max(run.eval_steps) == run.total_steps


def test_a_part_of_an_epoch_is_evaluated_at_its_end():
    run = schedule(320, num_epochs=0.5, batch_size=32)
    assert run.total_steps == 5
    assert run.eval_steps == {5}


def test_epochs_that_do_not_divide_end_with_an_evaluation():
    run = schedule(320, **{"num_epochs": 5.0, "eval.every_epochs": 2.0})
    assert run.eval_steps == {20, 40, 50}


def test_the_smallest_run_has_a_step():
    assert schedule(1, num_epochs=0.01).total_steps == 1


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh = build.create_mesh()  # conftest gives 8 devices
    build.require_even(mesh, "batch_size", 24)
    with pytest.raises(UserError, match=r"^batch_size is 12.*choose a multiple of 8"):
        build.require_even(mesh, "batch_size", 12)
    with pytest.raises(UserError, match=r"2 microbatches on 8 device.s. .* a multiple of 16"):
        build.require_even(mesh, "batch_size", 24, num_parts=2)


@pytest.mark.parametrize(
    ("threads", "workers", "expected"), [(0, 0, 6), (0, 2, 3), (0, 8, 1), (5, 0, 5)]
)
def test_as_many_threads_as_cores_share_the_decoding(threads, workers, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    config = default_config.get_config()
    config.data.num_threads, config.data.num_workers = threads, workers
    assert build.read_options(config).num_threads == expected


def test_evaluation_reads_with_its_own_canvas_and_rule_and_no_cache():
    config = default_config.get_config()
    config.data.cache, config.data.canvas_px, config.eval.image_px = True, 96, 64
    config.data.difficult, config.eval.difficult = "ignore", "negative"
    training, evaluation = build.read_options(config), build.eval_read_options(config)
    assert (training.canvas_px, training.difficult, training.cache) == (96, "ignore", True)
    assert (evaluation.canvas_px, evaluation.difficult, evaluation.cache) == (64, "negative", False)
    assert evaluation.max_boxes == training.max_boxes == config.data.max_boxes
    assert evaluation.num_threads == training.num_threads
