"""The encoder against stored torch outputs, and the properties torch does not show."""

import functools
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from oass_jax.model import encoders
from oass_jax.model.pretrained import load_pretrained
from oass_jax.model.resnet import BasicBlock, BottleneckV1, PointwiseConv, ResNet, max_pool

OUTPUT_STRIDE = 16

TINY = ResNet(stage_sizes=(1, 2, 1, 1), width=4, dtype=jnp.float32)
# By the names of the files that make_torch_fixture.py writes.
OF_TORCH = {
    "tiny": TINY,
    "v1": ResNet(stage_sizes=(1, 1, 1, 1), width=2, dtype=jnp.float32, block=BottleneckV1),
    "basic": ResNet(stage_sizes=(1, 2, 1, 1), width=2, dtype=jnp.float32, block=BasicBlock),
}
KEY = jax.random.key(0)


def init(encoder):
    return jax.jit(lambda x: encoder.init(KEY, x, train=False))(jnp.zeros((1, 32, 32, 3)))


@partial(jax.jit, static_argnames=("encoder", "train"))
def apply(variables, images, *, encoder=TINY, train):
    return encoder.apply(variables, images, train=train, mutable="batch_stats")


@functools.cache
def of_torch(name):
    """What torch was given and computed, with channels last, and the variables it had."""
    path = Path(__file__).with_name(f"torch_resnet_{name}.safetensors")
    arrays = load_file(path)
    for key in ("images", "eval/features", "train/features", "train/direction"):
        arrays[key] = arrays[key].transpose(0, 2, 3, 1)
    encoder = OF_TORCH[name]
    initial = {name: {"encoder": tree} for name, tree in init(encoder).items()}
    loaded, report = load_pretrained(str(path), initial, encoder)
    assert not report.missing
    return arrays, {name: tree["encoder"] for name, tree in loaded.items()}


@pytest.fixture
def stored():
    return of_torch("tiny")[0]


@pytest.fixture
def variables():
    return of_torch("tiny")[1]


@pytest.mark.parametrize("name", OF_TORCH)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_features_equal_torch_in_both_modes_of_batch_norm(name, mode):
    stored, variables = of_torch(name)
    train = mode == "train"
    features, _ = apply(variables, stored["images"], encoder=OF_TORCH[name], train=train)
    np.testing.assert_allclose(features, stored[f"{mode}/features"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "norm", "num_values"),  # images times cells
    [
        ("tiny", "bn1", 3 * 25 * 17),
        ("tiny", "layer4.0.bn3", 3 * 4 * 3),
        ("v1", "layer4.0.bn3", 2 * 2 * 2),
        ("basic", "layer4.0.bn2", 2 * 2 * 2),
    ],
)
def test_running_statistics_move_as_in_torch_but_for_the_biased_variance(name, norm, num_values):
    stored, variables = of_torch(name)
    _, updated = apply(variables, stored["images"], encoder=OF_TORCH[name], train=True)
    statistics = updated["batch_stats"]
    for part in norm.replace("r4.0", "r4_0").split("."):
        statistics = statistics[part]
    before = stored[f"{norm}.running_var"]
    unbiased = stored[f"train/{norm}.running_var"] - 0.9 * before
    variance = 0.9 * before + unbiased * (num_values - 1) / num_values
    np.testing.assert_allclose(statistics["mean"], stored[f"train/{norm}.running_mean"], atol=1e-5)
    np.testing.assert_allclose(statistics["var"], variance, atol=1e-5)


@pytest.mark.parametrize("name", OF_TORCH)
def test_gradients_equal_torch_by_batch_statistics(name):
    stored, variables = of_torch(name)

    @jax.jit
    def loss(params):
        tree = {**variables, "params": params}
        features, _ = apply(tree, stored["images"], encoder=OF_TORCH[name], train=True)
        return (features * stored["train/direction"]).sum()

    grads = jax.grad(loss)(variables["params"])
    layer2 = grads["layer2_0"]
    for name, grad in {
        "conv1": grads["conv1"]["kernel"],
        "layer2.0.conv2": layer2["conv2"]["kernel"],
        "layer2.0.downsample.0": layer2["downsample_conv"]["kernel"],
        "bn1": grads["bn1"]["scale"],
    }.items():
        expected = stored[f"grad/{name}.weight"]
        if expected.ndim == 4:
            expected = expected.transpose(2, 3, 1, 0)
        np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "num_parameters", "num_features"),
    [  # torchvision's counts without fc
        ("resnet18", 11_176_512, 512),
        ("resnet34", 21_284_672, 512),
        ("resnet50", 23_508_032, 2048),
        ("resnet50_v1", 23_508_032, 2048),
        ("resnet101", 42_500_160, 2048),
        ("resnet_tiny", 506_384, 512),
    ],
)
def test_sizes(name, num_parameters, num_features):
    encoder = encoders.create(name, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((2, 512, 384, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: encoder.init_with_output(KEY, x, train=False), images
    )
    assert features.shape == (2, 512 // OUTPUT_STRIDE, 384 // OUTPUT_STRIDE, num_features)
    assert (encoder.num_features, encoder.stride) == (num_features, OUTPUT_STRIDE)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == num_parameters


@pytest.mark.parametrize("size", [(33, 48), (31, 17), (1, 1), (97, 50)])
def test_odd_sizes_round_up(size):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: TINY.init_with_output(KEY, x, train=False), images)
    assert features.shape[1:3] == tuple(-(-side // OUTPUT_STRIDE) for side in size)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_computes_with_float32_parameters_and_statistics(stored, variables, train):
    encoder = TINY.clone(dtype=jnp.bfloat16)
    features, updated = apply(variables, stored["images"], encoder=encoder, train=train)
    expected = stored["train/features" if train else "eval/features"]
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    initial = jax.eval_shape(lambda x: encoder.init(KEY, x, train=False), stored["images"])
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    assert np.corrcoef(np.float32(features).ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_conv_equals_conv_with_the_same_parameter(stride):
    x = jax.random.normal(KEY, (2, 7, 6, 5))
    conv = nn.Conv(4, (1, 1), strides=stride, padding=0, use_bias=False)
    pointwise = PointwiseConv(4, stride, jnp.float32)
    variables = pointwise.init(KEY, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, conv.init(KEY, x))
    np.testing.assert_allclose(pointwise.apply(variables, x), conv.apply(variables, x), atol=1e-5)


def test_initial_values_are_torchvisions():
    params = init(TINY.clone(width=32))["params"]
    kernel = params["layer4_0"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 256, 256)
    assert kernel.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=1e-2)  # fan out
    assert abs(kernel).max() > 4 * kernel.std()  # not truncated
    pointwise = params["layer4_0"]["conv3"]["kernel"]
    assert pointwise.std() == pytest.approx((2 / 1024) ** 0.5, rel=1e-2)
    assert (params["layer4_0"]["bn3"]["scale"] == 1).all()
    assert (params["layer4_0"]["bn3"]["bias"] == 0).all()


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 2, 1), (1, 1, 5, 2)])
def test_max_pool_is_that_of_the_library_backwards_too(shape):
    x = jax.random.normal(KEY, shape)
    library = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    (own, own_vjp), (expected, vjp) = jax.vjp(max_pool, x), jax.vjp(library, x)
    np.testing.assert_array_equal(own, expected)
    direction = jax.random.normal(jax.random.key(1), own.shape)
    np.testing.assert_allclose(own_vjp(direction)[0], vjp(direction)[0], rtol=1e-6)


def test_max_pool_gives_the_gradient_of_equal_values_to_one_of_them_and_keeps_nan():
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 4, 4, 1)))
    assert grad.sum() == 4
    assert set(np.unique(grad)) <= {0, 1, 2, 4}
    for place in range(9):
        x = jnp.arange(16.0).at[jnp.array([0, 1, 2, 4, 5, 6, 8, 9, 10])[place]].set(jnp.nan)
        assert jnp.isnan(max_pool(x.reshape(1, 4, 4, 1))).any()


def test_remat_keeps_less_for_the_backward_pass_and_changes_nothing_else(variables):
    images = jax.random.normal(KEY, (2, 64, 64, 3))

    def loss_fn(params, encoder):
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        return (encoder.apply(tree, images, train=True, mutable=["batch_stats"])[0] ** 2).mean()

    grads, kept = [], []
    for remat in (False, True):
        encoder = TINY.clone(remat=remat)
        grads.append(jax.jit(jax.grad(loss_fn), static_argnums=1)(variables["params"], encoder))
        vjp = partial(jax.vjp, partial(loss_fn, encoder=encoder))
        _, vjp_fn = jax.eval_shape(vjp, variables["params"])
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(vjp_fn)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *grads)
    assert kept[1] < 0.4 * kept[0]
