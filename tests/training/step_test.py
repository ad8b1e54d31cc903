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


@functools.cache
def first_variables(network):
    return build.init_variables(network, 0)


@functools.cache
def placed_images():
    """Those of `batch()` as they are, without the edge that goes beyond `PX`."""
    data = batch()
    image, size = data["image"][:, :PX, :PX], np.minimum(data["size"], PX)
    return np.asarray(jax.jit(augment.keep_images)(image, size))


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
        self.tx, _ = training_build.create_optimizer(config, schedule)
        self.restart()
        self.image = placed_images()  # here, since inside of a traced function it would be a tracer
        self.loss_fn = jax.jit(self.loss)
        self.train_fn = training_build.create_train_fn(
            config, self.network, self.tx, schedule, self.mesh
        )

    def restart(self, first=None):
        """Goes back to the start, or to a given state; of both it takes a copy."""
        if first is None:
            first = state.create_state(
                first_variables(self.network),
                tx=self.tx,
                rng=jax.random.PRNGKey(1),
                teacher=self.method.teacher,
            )
        # Copies, because a step overwrites its state.
        first = jax.tree.map(np.array, first)
        self.state = jax.device_put(jax.tree.map(jnp.array, first), build.replicated(self.mesh))

    def step(self, seed=0):
        """Runs a step on a batch and returns its metrics."""
        device_batch = build.to_device(batch(seed), tuple(batch()), self.mesh)
        self.state, metrics = self.train_fn(self.state, device_batch)
        return jax.device_get(metrics)

    def loss(self, params, state, image=None):
        """The total loss on a fixed, placed batch."""
        data = batch()
        image = self.image if image is None else image
        window = jnp.broadcast_to(jnp.array([0, PX]), (NUM_IMAGES, 2, 2))
        views = Views(image, data["label"], window, data["boxes"], data["box_label"])
        total, (stats, metrics) = step.total_loss(
            params, state, views, network=self.network, method=self.method
        )
        return total, stats, metrics


@pytest.fixture(scope="module")
def oass():
    return Run(tiny("max"))


FAST = {"optimizer.encoder_learning_rate": 1e-3, "optimizer.head_learning_rate": 1e-2}


@pytest.fixture(scope="module")
def trained():
    """Its state is that of the test before: begin with `restart`."""
    return Run(tiny("max", **FAST))


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


@pytest.fixture(scope="module")
def gradients(oass):
    """A function of the image, or None: gradients of the loss and L_p-cl to student and teacher."""

    @jax.jit
    def pull_back(params, teacher, image):
        def losses(params, teacher):
            total, _, metrics = oass.loss(params, oass.state.replace(teacher=teacher), image)
            return total, metrics["loss_pcl"]

        _, pull = jax.vjp(losses, params, teacher)
        return pull((jnp.ones(()), jnp.zeros(()))), pull((jnp.zeros(()), jnp.ones(())))

    def of_image(image):
        return pull_back(oass.state.params, oass.state.teacher, image)

    return of_image


def test_gradient_through_the_ema_teacher_is_exactly_zero(gradients):
    (student, teacher), _ = gradients(placed_images())
    assert leaves(teacher)
    assert all((g == 0).all() for g in leaves(teacher))
    assert all((g != 0).any() for g in leaves(student["head"]))


def test_ema_pcl_teaches_the_head_and_leaves_the_encoder(gradients):
    _, (grads, _) = gradients(placed_images())
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
        _, stats, metrics = run.loss(params, run.state)
        return metrics["loss_pcl"], stats

    grads, stats = jax.jit(jax.grad(pcl, has_aux=True))(run.state.params)
    assert np.abs(grads["encoder"]["Conv_0"]["kernel"]).max() > 0
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


def first_moments(opt_state):
    """Adam's, which are linear in the gradient, as a tree like that of the parameters."""
    tree = {}
    for _, part in optax.tree_utils.tree_get_all_with_path(opt_state, "mu"):
        tree |= {name: moments for name, moments in part.items() if jax.tree.leaves(moments)}
    return tree


def assert_same_step(one, eight, seed, *, rtol):
    """Both make a step from the state of the first; metrics, gradients and statistics agree."""
    eight.restart(one.state)
    before = leaves(one.state.params)
    metrics = one.step(seed), eight.step(seed)
    jax.tree.map(functools.partial(assert_allclose, rtol=rtol), *metrics)
    a, b = jax.tree.map(np.asarray, one.state), jax.tree.map(np.asarray, eight.state)
    grads = leaves(first_moments(a.opt_state)), leaves(first_moments(b.opt_state))
    largest = max(np.abs(grad).max() for grad in grads[0])
    assert largest > 0
    for x, y in zip(*grads, strict=True):
        assert_allclose(x, y, atol=rtol * largest)
    close = functools.partial(assert_allclose, rtol=rtol, atol=rtol)
    jax.tree.map(close, a.batch_stats, b.batch_stats)
    if a.teacher:
        jax.tree.map(close, a.teacher["batch_stats"], b.teacher["batch_stats"])
    # Adam turns rounding of a tiny gradient into a sign, so only where it is none.
    params = leaves(a.params), leaves(b.params)
    for old, x, y, grad in zip(before, *params, grads[0], strict=True):
        clear = np.abs(grad) > 0.05 * largest
        assert_allclose((x - old)[clear], (y - old)[clear], rtol=0.05, atol=1e-6)


def test_a_step_on_eight_devices_is_that_on_one(trained):
    trained.restart()
    eight = Run(tiny("max", **FAST), 8)
    for seed in range(2):
        assert_same_step(trained, eight, seed, rtol=2e-4)


def test_loss_falls_and_nothing_recompiles(trained):
    trained.restart()
    metrics = [trained.step() for _ in range(60)]
    assert metrics[-1]["loss_cls"] < 0.7 * metrics[0]["loss_cls"]
    assert trained.train_fn._cache_size() == 1
    assert int(trained.state.step) == 60


@pytest.mark.parametrize("where", ["teacher's variance", "student's statistics", "parameter"])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(trained, where):
    run = trained
    run.restart()
    bad = jax.tree.map(np.array, run.state)
    tree = bad.teacher if where.startswith("teacher") else bad.batch_stats
    tree = bad.params if where == "parameter" else tree
    jax.tree.leaves(tree)[0][...] = np.nan if where != "student's statistics" else np.inf
    run.restart(bad)
    metrics = run.step()
    assert metrics["skipped"] == 1
    assert run.state.step == bad.step + 1
    jax.tree.map(assert_array_equal, run.state.replace(step=bad.step), bad)
    run.restart()
    assert run.step()["skipped"] == 0


def test_bfloat16_computes_near_float32_and_keeps_float32_state(oass):
    run = Run(tiny("max", **{"model.dtype": "bfloat16"}))
    assert all(leaf.dtype in (np.float32, np.int32, np.uint32) for leaf in leaves(run.state))
    low, _, _ = run.loss_fn(run.state.params, run.state)
    high, _, _ = oass.loss_fn(run.state.params, run.state)
    assert_allclose(low, high, rtol=0.05)


BLACK = np.zeros((NUM_IMAGES, PX, PX, 3), np.float32)


def test_images_without_labels_and_black_images_are_finite(gradients):
    assert not batch()["label"].any(1).all()
    with jax.debug_nans(True):
        grads = gradients(BLACK)
    assert all(np.isfinite(g).all() for g in leaves(grads))


def test_they_are_finite_with_a_siamese_teacher_too():
    run = Run(tiny("puzzlecam"))
    with jax.debug_nans(True):
        grads = jax.jit(jax.grad(lambda p: run.loss(p, run.state, BLACK)[0]))(run.state.params)
    assert all(np.isfinite(g).all() for g in leaves(grads))


def test_keypoints_in_all_four_corners_are_finite(oass, monkeypatch):
    asked = []

    def total(params, corner):
        def keypoint_fn(scene):
            asked.append(corner)
            return jnp.broadcast_to(corner, (NUM_IMAGES, 2))

        strategy = keypoint.Strategy(keypoint_fn, channel_wise=False)
        monkeypatch.setattr(oass, "method", oass.method._replace(strategy=strategy))
        return oass.loss(params, oass.state)[0]

    grad_fn = jax.jit(jax.value_and_grad(total))
    with jax.debug_nans(True):
        for corner in ((0, 0), (0, 8), (8, 0), (8, 8)):
            value, grads = grad_fn(oass.state.params, jnp.array(corner, jnp.float32))
            assert np.isfinite(value)
            assert all(np.isfinite(g).all() for g in leaves(grads))
    assert asked


def test_every_strategy_goes_with_every_teacher():
    for strategy in keypoint.KEYPOINTS:
        for teacher in ("siamese", "ema"):
            changes = {"keypoint.strategy": strategy, "teacher.mode": teacher}
            run = Run(tiny("max", **changes))
            shapes = jax.eval_shape(run.train_fn, run.state, batch())
            assert_array_equal(shapes[0].step.shape, ())


def test_random_keypoints_are_each_images_own_and_those_of_its_step(monkeypatch):
    points = []
    random_cell = keypoint.random_cell

    def recorded(inputs, **options):
        point = random_cell(inputs, **options)
        jax.debug.callback(lambda x: points.append(np.asarray(x)), point)
        return point

    recorded.__signature__ = inspect.signature(random_cell)
    strategy = keypoint.Strategy(recorded, channel_wise=False)
    monkeypatch.setitem(keypoint.KEYPOINTS, "random", strategy)
    run = Run(tiny("random"))
    for _ in range(2):
        run.restart()
        run.step()
        run.step()
    jax.effects_barrier()
    first, second, *again = points
    assert len(np.unique(first, axis=0)) > 1
    assert (first != second).any()
    assert_array_equal(again, [first, second])


def test_without_weights_there_are_no_patches_and_the_student_is_the_supervised_one():
    alone = Run(tiny("supervised", **FAST))
    followed = Run(tiny("max", **{"loss.alpha_p": 0.0, "loss.alpha_re": 0.0}, **FAST))
    for seed in range(2):
        metrics = alone.step(seed)
        found = followed.step(seed)
        assert found.keys() == metrics.keys()
        for name, value in found.items():
            assert_allclose(value, metrics[name], rtol=1e-3, err_msg=name)
    encoder = leaves(followed.state.params["encoder"])
    teacher = leaves(followed.state.teacher["params"])
    assert all(np.abs(a - b).max() > 0 for a, b in zip(encoder, teacher, strict=True))
