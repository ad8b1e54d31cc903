from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oass_jax.model import encoders
from oass_jax.model.network import Network
from oass_jax.model.resnet import ResNet

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))


def make(dtype=jnp.float32):
    return Network(ResNet(stage_sizes=(1, 1, 1, 1), width=4, dtype=dtype), num_classes=5)


@partial(jax.jit, static_argnames=("train", "dtype"))
def apply(variables, *, train, dtype=jnp.float32):
    return make(dtype).apply(variables, IMAGES, train=train, mutable="batch_stats")


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda x: make().init(KEY, x, train=False))(IMAGES)


def test_variables_are_named_after_f_and_g(variables):
    assert {name: set(tree) for name, tree in variables.items()} == {
        "params": {"encoder", "head"},
        "batch_stats": {"encoder"},
    }
    assert jax.tree.map(jnp.shape, variables["params"]["head"]) == {"kernel": (128, 5)}


def test_logits_are_the_mean_of_the_class_maps(variables):
    output, _ = apply(variables, train=False)
    assert output["features"].shape == (2, 4, 3, 128)
    assert output["cam"].shape == (2, 4, 3, 5)
    np.testing.assert_allclose(output["logits"]["base"], np.mean(output["cam"], (1, 2)), atol=1e-6)


def test_parts_apply_to_their_own_variables_only(variables):
    network = make()
    encoder = {name: {"encoder": tree["encoder"]} for name, tree in variables.items()}
    head = {"params": {"head": variables["params"]["head"]}}
    encode = jax.jit(partial(network.apply, train=False, method=Network.encode))
    features = encode(encoder, IMAGES)
    cam = network.apply(head, features, method=Network.classify)
    whole, _ = apply(variables, train=False)
    np.testing.assert_allclose(features, whole["features"], atol=1e-5)
    np.testing.assert_allclose(cam, whole["cam"], atol=1e-5)


def test_the_map_of_one_class_an_example_is_that_of_all(variables):
    head = {"params": {"head": variables["params"]["head"]}}
    features = jax.random.normal(KEY, (3, 4, 2, 128))
    cam = make().apply(head, features, method=Network.classify)
    own = make().apply(head, features, jnp.array([4, 0, 4]), method=Network.classify)
    assert own.shape == (3, 4, 2, 1)
    for example, channel in enumerate((4, 0, 4)):
        np.testing.assert_allclose(own[example, ..., 0], cam[example, ..., channel], atol=1e-5)


def test_class_maps_are_the_kernel_times_the_features(variables):
    output, _ = apply(variables, train=False)
    kernel = np.float64(variables["params"]["head"]["kernel"])
    expected = np.float64(output["features"]) @ kernel
    np.testing.assert_allclose(output["cam"], expected, atol=1e-5)


def test_training_moves_the_statistics_and_evaluation_does_not(variables):
    _, trained = apply(variables, train=True)
    _, evaluated = apply(variables, train=False)
    old = variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), old, trained["batch_stats"])
    assert all(jax.tree.leaves(moved))
    jax.tree.map(np.testing.assert_array_equal, old, evaluated["batch_stats"])


def test_head_is_float32_over_bfloat16_features(variables):
    output, _ = apply(variables, train=False, dtype=jnp.bfloat16)
    assert output["features"].dtype == jnp.bfloat16
    assert output["cam"].dtype == output["logits"]["base"].dtype == jnp.float32
    expected = np.float64(output["features"]) @ np.float64(variables["params"]["head"]["kernel"])
    np.testing.assert_allclose(output["cam"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "resnet_tiny"])
def test_head_starts_normal_with_std_sqrt_2_over_d(name):
    encoder = encoders.create(name, dtype=jnp.float32)
    features = jnp.zeros((1, 1, 1, encoder.num_features))
    network = Network(encoder, num_classes=100)
    kernel = network.init(KEY, features, method=Network.classify)["params"]["head"]["kernel"]
    assert kernel.std() == pytest.approx((2 / encoder.num_features) ** 0.5, rel=2e-2)
    assert abs(kernel).max() > 3.5 * kernel.std()
