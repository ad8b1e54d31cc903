import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax import config_file
from oass_jax.image import augment
from oass_jax.method import keypoint, loss
from oass_jax.model.network import Network
from oass_jax.model.ssgrl import GraphHead
from oass_jax.run import build, state
from oass_jax.training import build as training_build
from oass_jax.training import step
from oass_jax.training.method import Views

NUM_CLASSES, NUM_IMAGES, PX = 5, 8, 64


class OneBlock(nn.Module):
    """An encoder of output stride 8 that compiles fast."""

    dtype: jnp.dtype

    stride = 8

    @nn.compact
    def __call__(self, images, *, train):
        x = images.astype(self.dtype)
        for features, size, stride in [(16, 8, 8), (32, 3, 1)]:
            x = nn.Conv(features, (size, size), stride, padding=size % 2, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(not train, dtype=self.dtype)(x))
        return x


def tiny(page, **changes):
    """A config of the repository, shrunk to small images and no warm-up."""
    config = config_file.load(page)
    config.batch_size = config.eval.batch_size = NUM_IMAGES
    config.model.dtype = "float32"
    config.augment.image_px = PX
    config.augment.long_side_px = (48, 96)
    config.keypoint.margin_cells = 1
    config.num_epochs = 10.0
    config.optimizer.warmup_epochs = 0.0
    config.loss.alpha_p_ramp_epochs = config.loss.alpha_re_ramp_epochs = 0.0
    config.update_from_flattened_dict(changes)
    return config


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (NUM_IMAGES, 80, 80, 3), np.uint8),
        "size": np.stack([rng.integers(30, 81, NUM_IMAGES), np.full(NUM_IMAGES, 80)], -1),
        "label": (rng.random((NUM_IMAGES, NUM_CLASSES)) < 0.3).astype(np.int8),
        "boxes": np.sort(rng.random((NUM_IMAGES, 3, 2, 2)), axis=2).reshape(NUM_IMAGES, 3, 4),
        "box_label": rng.integers(-1, NUM_CLASSES, (NUM_IMAGES, 3)),
    }


class Run:
    """State and compiled step of a config on some devices."""

    def __init__(self, config, num_devices=1, encoder=OneBlock):
        self.mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))
        schedule = training_build.create_schedule(config, 10 * NUM_IMAGES)
        self.network = Network(
            encoder(jnp.dtype(config.model.dtype)),
            NUM_CLASSES,
            csi=config.model.csi,
            graph_head=GraphHead(NUM_CLASSES) if config.model.graph else None,
        )
        self.method = training_build.create_method(config, schedule, self.mesh)
        tx, _ = training_build.create_optimizer(config, schedule)
        variables = build.init_variables(self.network, 0)
        rng = jax.random.PRNGKey(1)
        first = state.create_state(variables, tx=tx, rng=rng, teacher=config.teacher.mode)
        self.state = jax.device_put(first, build.replicated(self.mesh))
        self.loss_fn = jax.jit(self.loss)
        self.train_fn = training_build.create_train_fn(
            config, self.network, tx, schedule, self.mesh
        )

    def steps(self, num, fixed=False):
        """Runs some steps and returns their metrics."""
        metrics = []
        for i in range(num):
            device_batch = build.to_device(batch(0 if fixed else i), tuple(batch()), self.mesh)
            self.state, values = self.train_fn(self.state, device_batch)
            metrics.append(jax.device_get(values))
        return metrics

    def loss(self, params, state, image=None):
        """The total loss on a fixed, placed batch."""
        data = batch()
        if image is None:
            image = augment.keep_images(data["image"][:, :PX, :PX], np.minimum(data["size"], PX))
        window = jnp.broadcast_to(jnp.array([0, PX]), (NUM_IMAGES, 2, 2))
        views = Views(image, data["label"], window, data["boxes"], data["box_label"])
        total, (stats, metrics) = step.total_loss(
            params, state, views, network=self.network, method=self.method
        )
        return total, stats, metrics


@pytest.fixture(scope="module")
def oass():
    return Run(tiny("max"))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_loss_is_the_weighted_sum_of_its_parts(oass):
    _, _, metrics = oass.loss_fn(oass.state.params, oass.state)
    parts_sum = metrics["loss_cls"] + (metrics["loss_pcl"] + metrics["loss_re"]) / 15
    assert_allclose(metrics["loss"], parts_sum, rtol=1e-6)
    assert metrics["loss_re"] > 0


def test_each_image_of_each_step_is_placed_by_a_key_of_its_own(oass, monkeypatch):
    placed = []

    def mean_gradient(loss_fn, state, views, num_microbatches):
        placed.append(views.image)
        return state.batch_stats, {}, jax.tree.map(jnp.zeros_like, state.params)

    monkeypatch.setattr(step, "mean_gradient", mean_gradient)
    train_step = inspect.unwrap(oass.train_fn)
    data = batch()
    alike = data | {name: np.stack([data[name][0]] * NUM_IMAGES) for name in ("image", "size")}

    @jax.jit
    def place(rng, number):
        train_step(oass.state.replace(rng=rng, step=number), alike)
        return placed.pop()

    def images(seed, number):
        return [image.tobytes() for image in np.asarray(place(jax.random.PRNGKey(seed), number))]

    assert images(1, 0) == images(1, 0)
    # Eight times the same image, and never the same pixels.
    together = images(1, 0) + images(1, 1) + images(2, 0)
    assert len(set(together)) == 3 * NUM_IMAGES


def test_gradient_through_the_ema_teacher_is_exactly_zero(oass):
    def loss_of_teacher(teacher):
        return oass.loss(oass.state.params, oass.state.replace(teacher=teacher))[0]

    grads = jax.jit(jax.grad(loss_of_teacher))(oass.state.teacher)
    assert all((g == 0).all() for g in leaves(grads))


def test_ema_pcl_teaches_the_head_and_leaves_the_encoder(oass):
    def pcl(params):
        return oass.loss(params, oass.state)[2]["loss_pcl"]

    grads = jax.jit(jax.grad(pcl))(oass.state.params)
    assert all((g == 0).all() for g in leaves(grads["encoder"]))
    assert np.abs(grads["head"]["kernel"]).max() > 0


@pytest.mark.parametrize(("page", "is_constant"), [("max", True), ("puzzlecam", False)])
def test_tiled_map_is_a_constant_target_with_an_ema_teacher(page, is_constant, monkeypatch):
    run = Run(tiny(page))
    # Whatever L_re does with A_re, no gradient may come back through it.
    monkeypatch.setattr(loss, "reconstruction", lambda cam, cam_re, *_: cam_re.sum((1, 2, 3)))

    def loss_re(params):
        return run.loss(params, run.state)[2]["loss_re"]

    grads = leaves(jax.jit(jax.grad(loss_re))(run.state.params))
    assert all((g == 0).all() for g in grads) == is_constant


def test_siamese_teacher_has_gradient_and_counts_patches_in_its_statistics():
    run = Run(tiny("puzzlecam"))
    assert run.state.teacher == {}

    def pcl(params):
        return run.loss(params, run.state)[2]["loss_pcl"]

    assert np.abs(jax.jit(jax.grad(pcl))(run.state.params)["encoder"]["Conv_0"]["kernel"]).max() > 0
    _, stats, _ = run.loss_fn(run.state.params, run.state)
    alone = Run(tiny("supervised"))
    _, image_stats, _ = alone.loss_fn(run.state.params, run.state)
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), stats, image_stats)
    assert all(x > 0 for x in jax.tree.leaves(difference))


def test_supervised_pays_nothing_for_a_teacher():
    flops = {}
    for name, page in [("supervised", "supervised"), ("max", "max"), ("puzzlecam", "puzzlecam")]:
        run = Run(tiny(page))
        lowered = run.train_fn.lower(run.state, batch())
        flops[name] = lowered.cost_analysis()["flops"]
        assert bool(run.state.teacher) == (name == "max")
    # A forward pass is a third of a step; the patches cost one more pass, or a whole step.
    assert 1.2 < flops["max"] / flops["supervised"] < 1.6
    assert 1.7 < flops["puzzlecam"] / flops["supervised"] < 2.2


def test_ema_update_by_hand():
    params = {"encoder": {"w": jnp.array(2.0)}, "head": {}}
    train_state = state.TrainState(
        step=jnp.array(1),
        params=params,
        batch_stats={"encoder": {"m": jnp.array(4.0)}},
        teacher={},
        opt_state=optax.EmptyState(),
        rng=jax.random.PRNGKey(0),
    )
    teacher = {"params": {"w": jnp.array(1.0)}, "batch_stats": {"m": jnp.array(0.0)}}
    first = state.ema_update(teacher, train_state, jnp.array(0), 0.999)  # decay 1 / 10
    assert_allclose(first["params"]["w"], 0.1 * 1 + 0.9 * 2, rtol=1e-6)
    assert_allclose(first["batch_stats"]["m"], 0.9 * 4, rtol=1e-6)
    late = state.ema_update(teacher, train_state, jnp.array(10**6), 0.999)
    assert_allclose(late["params"]["w"], 0.999 * 1 + 0.001 * 2, rtol=1e-6)


def test_same_losses_on_eight_devices_as_on_one(oass):
    one, eight = Run(tiny("max"), 1), Run(tiny("max"), 8)
    for a, b in zip(one.steps(3), eight.steps(3), strict=True):
        jax.tree.map(functools.partial(assert_allclose, rtol=2e-4), a, b)
    for a, b in zip(leaves(one.state.params), leaves(eight.state.params), strict=True):
        assert_allclose(a, b, atol=2e-3)  # Adam turns rounding of a tiny gradient into a sign


def test_loss_falls_and_nothing_recompiles():
    config = tiny("max", **{"optimizer.encoder_learning_rate": 1e-3})
    config.optimizer.head_learning_rate = 1e-2
    run = Run(config)
    metrics = run.steps(60, fixed=True)
    assert metrics[-1]["loss_cls"] < 0.7 * metrics[0]["loss_cls"]
    assert run.train_fn._cache_size() == 1
    assert int(run.state.step) == 60


def test_bfloat16_computes_near_float32_and_keeps_float32_state(oass):
    run = Run(tiny("max", **{"model.dtype": "bfloat16"}))
    assert all(leaf.dtype in (np.float32, np.int32, np.uint32) for leaf in leaves(run.state))
    low, _, _ = run.loss_fn(run.state.params, run.state)
    high, _, _ = oass.loss_fn(run.state.params, run.state)
    assert_allclose(low, high, rtol=0.05)


@pytest.mark.parametrize("page", ["max", "puzzlecam"])
def test_images_without_labels_and_black_images_are_finite(page):
    run = Run(tiny(page))
    image = jnp.zeros((NUM_IMAGES, PX, PX, 3))
    with jax.debug_nans(True):
        grad_fn = jax.jit(jax.grad(lambda p: run.loss(p, run.state, image)[0]))
        grads = grad_fn(run.state.params)
    assert all(np.isfinite(g).all() for g in leaves(grads))


@pytest.mark.parametrize("corner", [(0, 0), (0, 8), (8, 0), (8, 8)])
def test_keypoints_in_all_four_corners_are_finite(corner, oass, monkeypatch):
    asked = []

    def keypoint_fn(scene):
        asked.append(corner)
        return jnp.broadcast_to(jnp.array(corner, jnp.float32), (NUM_IMAGES, 2))

    strategy = keypoint.Strategy(keypoint_fn, channel_wise=False)
    monkeypatch.setattr(oass, "method", oass.method._replace(strategy=strategy))
    # A function of its own: a compiled step is found again by its function, not by its keypoint.
    grad_fn = jax.jit(jax.value_and_grad(lambda params: oass.loss(params, oass.state)[0]))
    with jax.debug_nans(True):
        total, grads = grad_fn(oass.state.params)
    assert asked
    assert np.isfinite(total)
    assert all(np.isfinite(g).all() for g in leaves(grads))


def test_every_strategy_goes_with_every_teacher():
    for strategy in keypoint.KEYPOINTS:
        for teacher in ("siamese", "ema"):
            changes = {"keypoint.strategy": strategy, "teacher.mode": teacher}
            run = Run(tiny("max", **changes))
            shapes = jax.eval_shape(run.train_fn, run.state, batch())
            assert_array_equal(shapes[0].step.shape, ())
