"""What must not grow silently, counted, not timed."""

import argparse
import collections

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import harness, plan, roof
from oass_jax import config_file
from oass_jax.data import pipeline
from oass_jax.run import build
from oass_jax.run.workdir import Workdir
from oass_jax.training import loop

BATCH, PX, CHUNK = 4, 128, 8


@pytest.fixture(scope="module")
def compiled():
    """page -> its config and compiled step of a ResNet-50 on one device."""
    options = argparse.Namespace(
        batch_size=BATCH, encoder="resnet50", dtype="float32", image_px=PX, chunk_pairs=CHUNK
    )
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    steps = {}

    def compile_page(page):
        if page not in steps:
            config = harness.config_of(page, options)
            steps[page] = config, plan.compile_step(config, mesh)
        return steps[page]

    return compile_page


def model(config, **unit):
    """FLOPs of the cost model, or bytes if a second is one byte's time."""
    network = build.create_network(config, harness.NUM_CLASSES)
    pairs = CHUNK / BATCH  # XLA counts a loop's body once, which is one chunk of pairs
    if unit:
        return roof.step_seconds(config, network.encoder, pairs, roof.Limits(**unit))
    return BATCH * roof.step_flops(config, network.encoder, pairs)


@pytest.mark.parametrize("page", ["supervised", "max", "ctopk_w_csi"])
def test_a_step_computes_what_the_model_says(compiled, page):
    config, step = compiled(page)
    flops = step.cost_analysis()["flops"]
    # Products with padding are left out by XLA, geometry and heads by the model.
    assert 0.93 < flops / model(config) < 1.04


@pytest.mark.parametrize("page", ["supervised", "max", "ctopk_w_csi"])
def test_a_step_moves_no_more_bytes_than_now(compiled, page):
    config, step = compiled(page)
    traffic = step.cost_analysis()["bytes accessed"]
    weights = 40 * 4 * 25.6e6  # gradient, Adam, EMA and decay pass over the parameters
    assert traffic < 2.2 * model(config, flops=np.inf, bandwidth=1.0) + weights


def test_the_state_is_donated(compiled):
    _, step = compiled("max")
    memory = step.memory_analysis()
    assert memory.alias_size_in_bytes > 0.99 * 4 * 4 * 23.5e6  # student, teacher, Adam's two
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1e5


def test_a_step_of_the_loop_costs_its_transfers_and_no_compilation(tmp_path, monkeypatch):
    counts = collections.Counter()

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(jax, "device_get")
    count(jax, "device_put")
    count(jax, "make_array_from_process_local_data")
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kwargs: counts.update([event])
    )
    compilations = "/jax/core/compile/backend_compile_duration"
    pipeline.open_split("digit_scenes", "val", data_dir=tmp_path, manual_dir=None)
    config = config_file.load("demo:max")
    config.data.data_dir = str(tmp_path)
    config.data.split, config.eval.split = "train[:160]", "val[:16]"
    config.batch_size = config.eval.batch_size = 16
    config.augment.image_px = config.eval.image_px = 32
    config.augment.long_side_px = (32, 48)
    config.log_every_steps = config.checkpoint.every_steps = 1000
    config.eval.every_epochs = 1000.0
    seen = []
    for steps in (4, 4, 10):  # what the first leaves compiled, the others need not compile
        counts.clear()
        config.num_epochs = steps / 10
        loop.train_and_evaluate(config, Workdir(tmp_path / str(len(seen))))
        seen.append(counts.copy())
    assert seen[2][compilations] == seen[1][compilations] > 0
    more = {name: seen[2][name] - seen[1][name] for name in counts}
    assert more["make_array_from_process_local_data"] == 6 * len(pipeline.TRAIN_FIELDS)
    assert more["device_get"] == 6
    assert more["device_put"] == 0
