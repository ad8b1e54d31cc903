"""What must not grow silently, counted, not timed."""

import argparse
import collections
import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import harness, plan, roof
from oass_jax.data import pipeline
from oass_jax.run import build
from oass_jax.training import monitor
from tests.commands import call, words

BATCH, PX, CHUNK = 4, 128, 8
CONFIGS = ("supervised", "max", "ctopk_w_csi")


def config_of(name, encoder):
    options = argparse.Namespace(
        batch_size=BATCH, encoder=encoder, dtype="float32", image_px=PX, chunk_pairs=CHUNK
    )
    return harness.config_of(name, options)


def lower(config):
    return plan.lower_step(config, Mesh(np.array(jax.devices()[:1]), ("data",)))


@pytest.fixture(scope="module")
def tiny():
    """name -> its config, and its step with the tiny network before and after XLA."""

    @functools.cache
    def compile_config(name):
        config = config_of(name, "resnet_tiny")
        lowered = lower(config)
        return config, lowered, lowered.compile()

    return compile_config


def model(config, **unit):
    """FLOPs of the cost model, or bytes if a second is one byte's time."""
    network = build.create_network(config, harness.NUM_CLASSES)
    pairs = CHUNK / BATCH  # XLA counts a loop's body once, which is one chunk of pairs
    if unit:
        return roof.step_seconds(config, network.encoder, pairs, roof.Limits(**unit))
    return BATCH * roof.step_flops(config, network.encoder, pairs)


def parameters(config):
    network = build.create_network(config, harness.NUM_CLASSES)
    shapes = jax.eval_shape(lambda: build.init_variables(network, 0))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_computes_what_the_model_says(name):
    config = config_of(name, "resnet50")
    flops = lower(config).cost_analysis()["flops"]
    # Products with padding are not counted by XLA, geometry and heads by the model.
    assert 0.93 < flops / model(config) < 1.04


@pytest.mark.parametrize("name", CONFIGS)
def test_xla_computes_nothing_twice(tiny, name):
    _, lowered, compiled = tiny(name)
    more = compiled.cost_analysis()["flops"] / lowered.cost_analysis()["flops"]
    assert 0.98 < more < 1.02


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_moves_no_more_bytes_than_now(tiny, name):
    config, _, compiled = tiny(name)
    traffic = compiled.cost_analysis()["bytes accessed"]
    weights = 40 * 4 * parameters(config)  # gradient, Adam, EMA and decay pass over them
    assert traffic < 1.6 * model(config, flops=np.inf, bandwidth=1.0) + weights


def test_the_state_is_donated(tiny):
    config, _, compiled = tiny("max")
    memory = compiled.memory_analysis()
    # Student, teacher, Adam's two.
    assert memory.alias_size_in_bytes > 0.99 * 4 * 4 * parameters(config)
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1e4


def test_a_step_of_the_loop_costs_its_transfers_and_no_compilation(
    digits, tmp_path, monkeypatch, request
):
    counts, after = collections.Counter(), {}

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(jax, "device_get")
    count(jax, "device_put")
    count(jax, "make_array_from_process_local_data")

    def listen(event, *_, **__):
        counts.update([event])

    jax.monitoring.register_event_duration_secs_listener(listen)
    request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(listen))
    compilations = "/jax/core/compile/backend_compile_duration"
    add = monitor.Monitor.add

    def add_and_look(self, step, metrics):
        add(self, step, metrics)
        after[step] = counts.copy()

    monkeypatch.setattr(monitor.Monitor, "add", add_and_look)
    rarely = ["--config.log_every_steps=1000", "--config.checkpoint.every_steps=1000"]
    rarely += ["--config.num_epochs=3", "--config.eval.every_epochs=1000"]
    done = call(words(digits, tmp_path / "run", *rarely), devices=2)
    assert done.returncode == 0, done.stderr
    assert list(after) == list(range(1, 10))
    assert after[2][compilations] > 0
    # The second step may still meet a first time, such as that of fetching the metrics.
    more = after[8] - after[2]
    assert more[compilations] == 0
    assert more["make_array_from_process_local_data"] == 6 * len(pipeline.TRAIN_FIELDS)
    assert more["device_get"] == 6
    assert more["device_put"] == 0
