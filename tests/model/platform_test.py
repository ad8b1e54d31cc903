"""The form of an operation is that of the platform a step is lowered for, be it absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.model import resnet
from oass_jax.model.resnet import PointwiseConv, ResNet

KEY = jax.random.key(0)
ENCODER = ResNet(stage_sizes=(1, 1, 1, 1), width=4, dtype=jnp.float32, remat=True)


def text_of(platform, function, *args):
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
    return lowered.as_text()


@pytest.fixture(scope="module")
def gradient():
    """A function of images that has a gradient, blocks computed again, and a loop around both."""
    shape = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: ENCODER.init(KEY, x, train=False), shape)

    def add(carry, images, params, stats):
        def loss(params):
            tree = {"params": params, "batch_stats": stats}
            features, _ = ENCODER.apply(tree, images, train=True, mutable=["batch_stats"])
            return (features**2).sum()

        return jax.tree.map(jnp.add, carry, jax.grad(loss)(params)), None

    def in_parts(variables, images):
        params, stats = variables["params"], variables["batch_stats"]
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(lambda c, x: add(c, x, params, stats), zeros, images)[0]

    return in_parts, variables, jax.ShapeDtypeStruct((2, 1, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize(
    ("platform", "products", "windows"),
    [("cpu", True, False), ("cuda", False, False), ("rocm", False, False), ("tpu", False, True)],
)
def test_a_platform_gets_its_own_forms_and_no_other(platform, products, windows, gradient):
    text = text_of(platform, *gradient)
    assert ("stablehlo.dot_general" in text) == products
    # Forward and backward.
    assert ("stablehlo.reduce_window" in text) == windows
    assert ("stablehlo.select_and_scatter" in text) == windows


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_both_forms_of_a_pointwise_convolution_are_equal_backwards_too(stride):
    x = jax.random.normal(KEY, (2, 7, 6, 5))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 5, 4))
    forms = (resnet.pointwise_by_product, resnet.pointwise_by_convolution)
    (product, vjp), (convolution, other_vjp) = (
        jax.vjp(lambda x, kernel, form=form: form(x, kernel, stride), x, kernel) for form in forms
    )
    assert product.shape == (2, -(-7 // stride), -(-6 // stride), 4)
    assert_allclose(product, convolution, atol=1e-5)
    direction = jax.random.normal(jax.random.key(2), product.shape)
    for own, other in zip(vjp(direction), other_vjp(direction), strict=True):
        assert_allclose(own, other, atol=1e-5)


@pytest.mark.parametrize("form", [resnet.pool_by_selects, resnet.pool_by_window])
def test_both_forms_of_the_max_pool_give_equal_values_one_gradient_and_keep_nan(form):
    grad = jax.grad(lambda x: form(x).sum())(jnp.ones((1, 4, 4, 1)))
    assert grad.sum() == 4
    assert set(np.unique(grad)) <= {0, 1, 2, 4}
    assert jnp.isnan(form(jnp.arange(16.0).at[5].set(jnp.nan).reshape(1, 4, 4, 1))).any()


def test_the_form_changes_no_parameter():
    x = jnp.ones((1, 4, 4, 3))
    module = PointwiseConv(2, 1, jnp.float32)
    variables = module.init(KEY, x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (1, 1, 3, 2)}}
    own = module.apply(variables, x)
    assert_array_equal(own, resnet.pointwise_by_product(x, variables["params"]["kernel"], 1))
