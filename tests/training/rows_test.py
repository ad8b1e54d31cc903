"""Every page of the tables: its losses, and that it means what its row says."""

import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax import config_check, config_file, default_config
from oass_jax.evaluation import evaluator, predict
from oass_jax.figures.runs import flatten
from tests.training.step_test import NUM_CLASSES, Run, assert_same_step, batch, tiny

OURS = ("max", "cmax", "ctopk", "ctopk_w", "gt_bbox")
# Page -> strategy, teacher, CSI, encoder, regions, graph, prediction.
ROWS = {
    "supervised": ("max", "none", False, "resnet50", 0, False, "base"),
    "puzzlecam": ("center", "siamese", False, "resnet50", 0, False, "base"),
    "puzzlecam_r101": ("center", "siamese", False, "resnet101", 0, False, "base"),
    "mcar": ("max", "none", False, "resnet50", 4, False, "max"),
    "ssgrl": ("max", "none", False, "resnet50", 0, True, "graph"),
    "ssgrl_r101": ("max", "none", False, "resnet101", 0, True, "graph"),
}
ROWS |= {name: (name, "ema", False, "resnet50", 0, False, "base") for name in OURS}
ROWS |= {f"{name}_csi": (name, "ema", True, "resnet50", 0, False, "csi") for name in OURS}


def config_of(page):
    return config_file.load(page)


@pytest.mark.parametrize("page", ROWS)
def test_a_page_is_its_row(page):
    config = config_of(page)
    config_check.check_config(config)
    found = (
        config.keypoint.strategy,
        config.teacher.mode,
        config.model.csi,
        config.model.encoder,
        config.regions.count,
        config.model.graph,
        config.eval.logits,
    )
    assert found == ROWS[page]
    text = (config_file.FOLDER / f"{page}.py").read_text()
    assert f"--config={page} --workdir=runs/{page}" in text


@pytest.mark.parametrize("page", ROWS)
def test_a_page_of_the_demo_keeps_its_method(page):
    config, own = config_file.load(f"demo:{page}"), config_of(page)
    config_check.check_config(config)
    for field in ("keypoint.strategy", "teacher.mode", "model.csi", "regions.count", "eval.logits"):
        fields = flatten(config.to_dict())
        assert fields[field] == flatten(own.to_dict())[field]
    assert config.data.dataset == "digit_scenes"


def test_r101_pages_load_weights_of_their_own():
    assert "101" in config_of("puzzlecam_r101").model.pretrained
    assert "101" in config_of("ssgrl_r101").model.pretrained
    assert "101" not in default_config.get_config().model.pretrained


@functools.cache
def run_of(page, num_devices=1):
    """One run for all tests; its state is that of the test before, so begin with `restart`."""
    return Run(tiny(page, **{"optimizer.head_learning_rate": 1e-2}), num_devices)


@pytest.mark.parametrize(
    ("page", "name"), [("max_csi", "loss_csi"), ("mcar", "loss_regions"), ("ssgrl", "loss_graph")]
)
def test_what_else_classifies_has_a_loss_in_the_sum_and_learns(page, name):
    run = run_of(page)
    run.restart()
    metrics = [run.step() for _ in range(25)]
    losses = [m for m in metrics[0] if m.startswith("loss_") and m not in ("loss_pcl", "loss_re")]
    assert set(losses) == {"loss_cls", name}
    first = metrics[0]
    puzzle = (first["loss_pcl"] + first["loss_re"]) / 15 if "loss_pcl" in first else 0.0
    assert_allclose(first["loss"], first["loss_cls"] + first[name] + puzzle, rtol=1e-5)
    assert metrics[-1][name] < 0.9 * first[name]


def test_mcar_on_eight_devices_equals_one():
    one, eight = run_of("mcar"), run_of("mcar", 8)
    one.restart()
    for seed in range(2):
        assert_same_step(one, eight, seed, rtol=2e-3)


def test_mcar_predicts_with_both_streams_and_the_higher_counts():
    config, run = tiny("mcar"), run_of("mcar")
    run.restart()
    predict_fn = evaluator.create_predict_fn(config, run.network, run.mesh)
    data = batch() | {"mask": np.ones(8, bool), "index": np.arange(8)}
    data["image"] = data["image"][:, :64, :64]
    data["size"] = np.minimum(data["size"], 64)
    weights = {"student": {"params": run.state.params, "batch_stats": run.state.batch_stats}}
    scores = jax.device_get(predict_fn(weights, data))["scores"]["student"]
    assert set(scores) == {"base", "regions"}
    assert scores["regions"].shape == (8, NUM_CLASSES)
    chosen = predict.choose(scores, config.eval.logits)
    assert_allclose(chosen, np.maximum(scores["base"], scores["regions"]))
    assert np.abs(scores["base"] - scores["regions"]).max() > 1e-3


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize("teacher", ["siamese", "ema"])
@pytest.mark.parametrize("strategy", ["center", "max"])
def test_every_ingredient_can_be_ablated_alone(strategy, teacher, resize):
    changes = {"keypoint.strategy": strategy, "teacher.mode": teacher}
    run = Run(tiny("max", **changes, **{"teacher.resize_patches": resize}))
    total, _, metrics = run.loss_fn(run.state.params, run.state)
    assert np.isfinite(total)
    assert metrics["loss_re"] > 0
