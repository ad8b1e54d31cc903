import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax.model.resnet import ResNet
from oass_jax.run import build
from tests.training.step_test import OneBlock, Run, batch, first_moments, leaves, tiny


class NormalisedAlike(OneBlock):
    """Running statistics in training too, so that the images of a batch do not meet."""

    def __call__(self, images, *, train):
        return super().__call__(images, train=False)


@functools.cache
def first_step(page, num_microbatches, encoder=NormalisedAlike, num_devices=1):
    """Gradient (Adam's first moment), metrics and running statistics after a step; its program."""
    run = Run(tiny(page, num_microbatches=num_microbatches), num_devices, encoder)
    data = batch()
    data["label"][1, 2:4] = -1  # an average over fewer classes
    data = build.to_device(data, tuple(data), run.mesh)
    program = run.train_fn.lower(run.state, data).compile()
    state, metrics = program(run.state, data)
    grads, stats = leaves(first_moments(state.opt_state)), leaves(state.batch_stats)
    return grads, jax.device_get(metrics), stats, program.as_text()


@pytest.mark.parametrize(
    ("page", "num_microbatches"), [("max_csi", 4), ("cmax", 2), ("puzzlecam", 8)]
)
def test_parts_give_the_gradient_of_the_batch(page, num_microbatches):
    whole, in_parts = first_step(page, 1), first_step(page, num_microbatches)
    largest = max(np.abs(gradient).max() for gradient in whole[0])
    for a, b in zip(whole[0], in_parts[0], strict=True):
        assert_allclose(a, b, atol=1e-5 * largest)
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-4), whole[1], in_parts[1])


def test_batch_norm_sees_a_part_at_a_time():
    whole, in_parts = (first_step("supervised", number, OneBlock) for number in (1, 2))
    assert abs(whole[1]["loss_cls"] - in_parts[1]["loss_cls"]) > 1e-4
    for a, b in zip(whole[2], in_parts[2], strict=True):
        assert np.abs(a - b).max() > 0


def test_parts_are_shared_by_the_devices_and_stay_there():
    one, four = first_step("cmax", 2), first_step("cmax", 2, num_devices=4)
    largest = max(np.abs(gradient).max() for gradient in one[0])
    for a, b in zip(one[0], four[0], strict=True):
        assert_allclose(a, b, atol=2e-4 * largest)
    jax.tree.map(functools.partial(assert_allclose, rtol=2e-4), one[1], four[1])
    text = four[3]
    assert "all-reduce" in text
    assert not any(moved in text for moved in ("all-to-all", "all-gather", "collective-permute"))


def test_parts_need_the_memory_of_one():
    needed = []
    for number in (1, 8):
        encoder = functools.partial(ResNet, (1, 0, 0, 0), 16)
        run = Run(tiny("supervised", num_microbatches=number), encoder=encoder)
        memory = run.train_fn.lower(run.state, batch()).compile().memory_analysis()
        needed.append(memory.temp_size_in_bytes)
    assert needed[1] < 0.7 * needed[0]
