import argparse

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import choices, harness
from oass_jax.method import puzzle
from oass_jax.model.network import Network
from oass_jax.run import build

OPTIONS = argparse.Namespace(
    image_px=64, batch_size=8, encoder="resnet_tiny", dtype="float32", chunk_pairs=8
)


def outputs():
    """Patches, class maps by running statistics, and the gradient of a loss by the batch's."""
    config = harness.config_of("max", OPTIONS)
    network = build.create_network(config, 5)
    variables = build.init_variables(network, 0)
    rng = np.random.default_rng(0)
    # Running statistics and biases that are not those of the start.
    variables = jax.tree.map(lambda x: x + 0.1 * rng.random(x.shape, np.float32), variables)
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))

    @jax.jit
    def patches(images):
        return puzzle.cut(images, jax.numpy.array([[16, 40], [32, 32]]), resize=True)

    @jax.jit
    def cam(variables):
        features = network.apply(variables, images, train=False, method=Network.encode)
        return network.apply(variables, features, method=Network.classify)

    @jax.jit
    @jax.grad
    def grad(params):
        tree = variables | {"params": params}
        output, _ = network.apply(tree, images, train=True, mutable=["batch_stats"])
        return (output["cam"] ** 2).mean()

    return patches(images), cam(variables), grad(variables["params"])


@pytest.fixture(scope="module")
def as_it_is():
    return outputs()


@pytest.mark.parametrize("name", choices.CHOICES)
def test_a_choice_computes_the_same(name, as_it_is):
    with choices.CHOICES[name]():
        *arrays, grads = outputs()
    for found, expected in zip(arrays, as_it_is[:-1], strict=True):
        assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(as_it_is[-1]))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-4 * largest), grads, as_it_is[-1])
