"""What devices tell each other: gradients and sums in a training step, scores in an evaluation."""

import argparse
import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import harness, plan, target
from benchmarks.program import Program
from oass_jax.data import pipeline
from oass_jax.evaluation import evaluator
from oass_jax.run import build

PX = 64
SCALARS = 100  # bytes of losses


def config_of(name, batch_size):
    options = argparse.Namespace(
        batch_size=batch_size, encoder="resnet_tiny", dtype="float32", image_px=PX, chunk_pairs=8
    )
    return harness.config_of(name, options)


@functools.cache
def variables_of(name):
    """A network and the shapes of its variables."""
    network = build.create_network(config_of(name, 1), harness.NUM_CLASSES)
    return network, jax.eval_shape(lambda: build.init_variables(network, 0))


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def summed_bytes():
    """What a `max` step must sum over devices, at most."""
    _, variables = variables_of("max")
    params, stats = variables["params"], variables["batch_stats"]
    # The head reads the student's features and the teacher's; normalisation has two sums a channel
    # in either direction.
    return num_bytes(params) + num_bytes(params["head"]) + 2 * num_bytes(stats) + SCALARS


def carried(program):
    return sum(map(sum, program.collectives.values()))


def test_a_training_step_sums_gradients_and_statistics_and_gathers_nothing():
    devices = 8
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    lowered = plan.lower_step(config_of("max", 2 * devices), mesh)
    program = Program(lowered.compile().as_text())
    assert set(program.collectives) == {"all-reduce"}
    params = num_bytes(variables_of("max")[1]["params"])
    assert params < carried(program) <= summed_bytes()
    # Each device computes its share.
    assert program.flops["f32"] * devices == Program(lowered.as_text("hlo")).flops["f32"]


@pytest.mark.parametrize("fields", [{}, {"eval.scales": (0.5, 1.0), "eval.flip": True}])
def test_an_evaluation_step_gathers_scores_and_no_maps(fields):
    devices, batch_size = 8, 16
    config = config_of("max_csi", batch_size)
    config.update_from_flattened_dict(fields)
    network, variables = variables_of("max_csi")
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    shapes = {
        "image": ((PX, PX, 3), np.uint8),
        "size": ((2,), np.int32),
        "label": ((harness.NUM_CLASSES,), np.int8),
        "mask": ((), np.bool_),
        "index": ((), np.int32),
    }
    assert set(shapes) == set(pipeline.EVAL_FIELDS)
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    predict_fn = evaluator.create_predict_fn(config, network, mesh)
    compiled = predict_fn.lower({"student": variables, "ema": variables}, batch).compile()
    program = Program(compiled.as_text())
    assert set(program.collectives) == {"all-gather"}
    known = (batch["label"], batch["mask"], batch["index"])
    scores = 2 * 2 * batch_size * harness.NUM_CLASSES * 4  # of two networks and two heads each
    assert carried(program) <= scores + num_bytes(known)


@pytest.mark.slow
def test_the_work_and_the_sums_of_a_tpu_do_not_grow_with_the_slice():
    programs, compiled = {}, {}
    for name in ("v5e:2x2", "v5e:8x8", "v5e:16x16"):
        mesh = target.mesh_of(name)
        step = plan.lower_step(config_of("max", 8 * mesh.size), mesh).compile()
        compiled[mesh.size] = step.cost_analysis()
        programs[mesh.size] = Program(step.as_text(), float32="bf16")
    assert list(programs) == [4, 64, 256]
    for number, program in programs.items():
        assert set(program.collectives) == {"all-reduce"}
        assert carried(program) <= summed_bytes()
        one, several = programs[4], program
        assert several.flops == pytest.approx(one.flops, rel=0.03)
        assert several.traffic == pytest.approx(one.traffic, rel=0.05)
        for quantity in ("flops", "bytes accessed"):
            expected = pytest.approx(compiled[4][quantity], rel=0.05)
            assert compiled[number][quantity] == expected
