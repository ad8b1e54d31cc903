import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.training import pairs

LABEL = jnp.array([[1, 0, 1], [0, 0, 0], [-1, 1, 0]])


def test_pack_lists_the_labelled_pairs_by_hand():
    packed, num_chunks = pairs.pack(LABEL, 2)
    assert packed.image.shape == (10,)  # nine possible pairs, to whole chunks
    assert_array_equal(packed.image[:3], [0, 0, 2])
    assert_array_equal(packed.channel[:3], [0, 2, 1])
    assert_allclose(packed.weight, [0.5, 0.5, 1, *[0] * 7])
    assert num_chunks == 2


@pytest.mark.parametrize(("label", "expected"), [(jnp.zeros((2, 3)), 0), (jnp.ones((2, 3)), 2)])
def test_pack_of_nothing_and_of_everything(label, expected):
    packed, num_chunks = pairs.pack(label, 4)
    assert num_chunks == expected
    assert_allclose(packed.weight.sum(), label.any(1).sum(), rtol=1e-6)


def test_take_is_one_chunk():
    packed, _ = pairs.pack(LABEL, 2)
    assert_array_equal(pairs.take(packed, jnp.array(1), 2).image, [2, 0])


def chunk_fn(inputs, constants, number):
    value = jnp.sin(inputs * constants[number]).sum()
    return value, {"count": 1.0 * number}


@pytest.mark.parametrize("num", [0, 1, 4])
def test_sum_of_chunks_and_its_gradient_equal_a_plain_sum(num):
    inputs, constants = jnp.array([0.3, -0.7]), jnp.arange(5.0) + 1

    def looped(x, num):
        return pairs.sum_chunks(chunk_fn, x, constants, num)

    def plain(x):
        return sum((jnp.sin(x * constants[i]).sum() for i in range(num)), 0.0 * x.sum())

    (value, aux), grad = jax.jit(jax.value_and_grad(looped, has_aux=True))(inputs, num)
    assert_allclose(value, plain(inputs), atol=1e-6)
    assert_allclose(aux["count"], sum(range(num)))
    assert_allclose(grad, jax.grad(plain)(inputs), atol=1e-6)
    value, _ = jax.jit(looped)(inputs, num)  # without a gradient
    assert_allclose(value, plain(inputs), atol=1e-6)


def test_the_gradient_of_a_multiple_is_the_multiple_of_the_gradient():
    def total(x, factor):
        return factor * pairs.sum_chunks(chunk_fn, x, jnp.ones(3), jnp.array(3))[0]

    x = jnp.array([0.5])
    assert_allclose(jax.grad(total)(x, 3.0), 3 * jax.grad(total)(x, 1.0), rtol=1e-6)


def test_the_number_of_chunks_does_not_recompile():
    fn = jax.jit(lambda n: pairs.sum_chunks(chunk_fn, jnp.ones(2), jnp.ones(5), n)[0])
    values = [float(fn(n)) for n in range(4)]
    assert_allclose(np.diff(values), 2 * np.sin(1), rtol=1e-5)
    assert fn._cache_size() == 1


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_sum_over_pairs_is_that_of_a_loop_on_any_number_of_devices(num_devices, chunk):
    rng = np.random.default_rng(0)
    cam, image = rng.normal(size=(4, 2, 2, 3)), rng.normal(size=4)
    label = np.array([[1, 1, 1], [0, 0, 0], [0, -1, 1], [1, 0, 1]])
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ("data",))

    def pairs_fn(params, cam, shared, per_image, pair):
        own = jnp.take_along_axis(cam.sum((1, 2)), pair.channel[:, None], axis=1)[:, 0]
        each = pair.weight * per_image["image"] * params["w"] * own**2
        return shared * each.sum(), {"weight": pair.weight.sum()}

    def total(params, cam):
        data = {"cam": cam, "per_image": {"image": image}, "label": label}
        return pairs.sum_over_pairs(
            pairs_fn, params=params, shared=5.0, chunk=chunk, mesh=mesh, **data
        )

    def looped(params, cam):
        found = [
            5 * image[i] * params["w"] * cam[i, :, :, c].sum() ** 2 / (label[i] == 1).sum()
            for i, c in np.argwhere(label == 1)
        ]
        return sum(found), {"weight": 3.0}  # images with a label

    found, expected = (
        jax.jit(jax.value_and_grad(fn, argnums=(0, 1), has_aux=True))({"w": 2.0}, cam)
        for fn in (total, looped)
    )
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), found, expected)
