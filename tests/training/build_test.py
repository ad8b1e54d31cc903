import os
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax import default_config
from oass_jax.errors import UserError
from oass_jax.method import loss
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


def test_a_run_may_be_evaluated_at_its_end_alone():
    run = schedule(320, **{"num_epochs": 5.0, "eval.every_epochs": 0.0})
    assert run.eval_steps == {50}


@pytest.mark.parametrize(("reference", "factor"), [(0, 1), (4, 8), (256, 1), (1024, 0.5)])
def test_learning_rates_grow_with_the_root_of_the_batch_where_asked(reference, factor):
    config = default_config.get_config()
    config.batch_size = 256
    config.optimizer.scale_with_batch = reference
    run = training_build.create_schedule(config, 10_582)
    _, rates = training_build.create_optimizer(config, run)
    after_warmup = round(run.steps_per_epoch)
    assert_allclose(rates["learning_rate"](after_warmup), 1e-4 * factor, rtol=1e-5)
    assert_allclose(rates["learning_rate_head"](after_warmup), 1e-3 * factor, rtol=1e-5)
    # The warm-up is as long as ever, and the last rate is 0.
    assert_allclose(rates["learning_rate"](after_warmup // 2), 1e-4 * factor / 2, rtol=0.03)
    assert_allclose(rates["learning_rate"](run.total_steps), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("num_images", "epochs"), [(64, 60), (2_500, 60), (10_000, 15), (15_000, 10), (10**6, 10)]
)
def test_few_images_are_seen_more_often(num_images, epochs):
    assert training_build.num_epochs(num_images) == epochs


def test_rare_classes_weigh_more_up_to_a_bound():
    label = np.zeros([100, 4], np.int8)
    label[:25, 0] = 1
    label[:75, 1] = 1
    label[75:95, 1] = -1
    label[0, 2] = 1
    split = mock.Mock(labels=lambda difficult: label)
    weight = training_build.positive_weight(config_with(**{"loss.pos_weight": "frequency"}), split)
    assert_allclose(weight, [75 / 25, 5 / 75, 20, 20], rtol=1e-6)
    # Labels that do not matter are not read: with prepared data, all images would be, too.
    assert training_build.positive_weight(config_with(), None) is None
    method = training_build.create_method(
        config_with(), TEN_STEPS, build.create_mesh(), pos_weight=weight
    )
    assert_allclose(method.pos_weight, weight)


TEN_STEPS = training_build.Schedule(10.0, 200, frozenset({200}), 100)


def config_with(**fields):
    config = default_config.get_config()
    config.update_from_flattened_dict(fields)
    return config


def test_each_loss_has_its_weight_and_its_ramp_from_epochs_to_steps():
    fields = {"loss.alpha_p": 0.2, "loss.alpha_p_ramp_epochs": 10.0, "loss.start_epochs": 2.0}
    fields |= {"loss.alpha_re": 0.8, "loss.alpha_re_ramp_epochs": 4.0}
    method = training_build.create_method(config_with(**fields), TEN_STEPS, build.create_mesh())
    steps = [19, 20, 40, 60, 120, 200]
    assert_allclose(
        [method.alpha_p(step) for step in steps], [0, 0, 0.04, 0.08, 0.2, 0.2], rtol=1e-6
    )
    assert_allclose(
        [method.alpha_re(step) for step in steps], [0, 0, 0.4, 0.8, 0.8, 0.8], rtol=1e-6
    )


def test_the_method_is_what_the_config_says():
    fields = {
        "keypoint.margin_cells": 3,
        "keypoint.valid_only": False,
        "keypoint.strategy": "ctopk",
        "teacher.mode": "siamese",
        "teacher.resize_patches": False,
        "teacher.ema_decay": 0.5,
        "teacher.chunk_pairs": 7,
        "loss.re_reduction": "mean",
        "loss.pcl_classes": "all",
        "regions.count": 2,
    }
    method = training_build.create_method(config_with(**fields), TEN_STEPS, build.create_mesh())
    found = method._asdict() | {"mode": method.teacher, "count": method.regions.count}
    assert method.strategy.channel_wise
    del fields["keypoint.strategy"]
    assert {field: found[field.split(".")[1]] for field in fields} == fields


def test_encoder_and_heads_learn_at_rates_of_their_own():
    fields = {"optimizer.encoder_learning_rate": 1e-3, "optimizer.head_learning_rate": 1e-1}
    fields |= {"optimizer.warmup_epochs": 2.0, "optimizer.weight_decay": 0.5}
    config = config_with(**fields)
    _, rates = training_build.create_optimizer(config, TEN_STEPS)
    for name, peak in [("learning_rate", 1e-3), ("learning_rate_head", 1e-1)]:
        # Twenty steps of warm-up, then half a cosine over 180.
        expected = [0, peak / 2, peak, peak / 2, 0]
        assert_allclose([rates[name](step) for step in (0, 10, 20, 110, 200)], expected, atol=1e-9)
    config.optimizer.warmup_epochs = 0.0
    tx, _ = training_build.create_optimizer(config, TEN_STEPS)
    params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    updates, _ = tx.update(params, tx.init(params), params)
    # Adam's first step has size 1, and half the kernel decays.
    assert_allclose(updates["encoder"]["kernel"], -1.5e-3, rtol=1e-5)
    assert_allclose(updates["head"]["kernel"], -1.5e-1, rtol=1e-5)


def test_a_warm_up_longer_than_the_run_ends_with_it():
    config = config_with(**{"optimizer.warmup_epochs": 99.0})
    _, rates = training_build.create_optimizer(config, TEN_STEPS)
    peak = config.optimizer.encoder_learning_rate
    assert_allclose([rates["learning_rate"](step) for step in (0, 199)], [0, peak], rtol=1e-6)


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh = build.create_mesh()  # conftest gives 8 devices
    build.require_even(mesh, "batch_size", 24)
    with pytest.raises(UserError, match=r"^batch_size is 12.*choose a multiple of 8"):
        build.require_even(mesh, "batch_size", 12)
    with pytest.raises(UserError, match=r"2 microbatches on 8 device.s. .* a multiple of 16"):
        build.require_even(mesh, "batch_size", 24, num_parts=2)


def test_the_devices_of_a_process_are_side_by_side_in_the_mesh(monkeypatch):
    """On a pod they may be numbered in turns."""
    devices = [mock.Mock(id=n, process_index=n // 2 % 2) for n in (5, 0, 6, 1, 7, 2, 3, 4)]
    monkeypatch.setattr(build.jax, "devices", lambda: devices)
    assert [device.id for device in build.create_mesh().devices] == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize(
    ("cores", "threads", "workers", "expected"),
    [(6, 0, 0, 6), (6, 0, 2, 3), (6, 0, 8, 1), (6, 5, 0, 5), (192, 0, 0, 32), (192, 64, 0, 64)],
)
def test_as_many_threads_as_cores_share_the_decoding(
    cores, threads, workers, expected, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
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


@pytest.mark.parametrize("pos_weight", ["none", "frequency"])
def test_chance_is_the_least_loss_of_a_network_that_sees_nothing(pos_weight):
    label = np.zeros((40, 3), np.int8)
    label[:2, 0] = label[:8, 1] = label[:30, 2] = 1
    split = mock.Mock(labels=lambda difficult, count=None: label)
    config = config_with(**{"loss.pos_weight": pos_weight})
    weight = training_build.positive_weight(config, split)
    logits = np.linspace(-6, 6, 601)
    of_all = [
        loss.cross_entropy(np.full_like(label, x, np.float32), label, weight).mean(axis=0)
        for x in logits
    ]
    found = training_build.chance_loss(config, split)
    assert found == pytest.approx(np.min(of_all, axis=0).mean(), rel=1e-4)
