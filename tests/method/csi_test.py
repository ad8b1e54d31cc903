import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from oass_jax.method import csi
from oass_jax.model.network import InstanceHead

SHAPE, NUM_FEATURES, NUM_CLASSES = (3, 4, 5), 7, 6


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(*SHAPE, NUM_FEATURES)).astype(np.float32)
    cam = rng.normal(size=(*SHAPE, NUM_CLASSES)).astype(np.float32)
    return features, cam


def head():
    """The module with variables that are all random, biases too."""
    module = InstanceHead(NUM_CLASSES)
    variables = module.init(jax.random.key(0), *arrays())
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    return module, jax.tree.unflatten(tree, [rng.normal(size=x.shape) for x in leaves])


def test_class_mask_by_hand():
    cam = jnp.array([[[4.0, -1.0], [2.0, -2.0]], [[-3.0, 0.0], [0.0, -4.0]]])[None]
    mask = csi.class_mask(cam)
    assert_allclose(mask[0, :, :, 0], [[1, 0.5], [0, 0]], atol=1e-5)
    assert_allclose(mask[0, :, :, 1], 0)  # nothing responds: everything is masked


def test_no_gradient_goes_through_the_mask():
    grad = jax.grad(lambda cam: csi.class_mask(cam).sum())(jnp.ones((1, 2, 2, 3)))
    assert (grad == 0).all()


def test_the_factored_head_equals_masking_the_features():
    """Sec. 2.2 as written: C masked features, a convolution to one channel each, one more."""
    (features, cam), (module, variables) = arrays(), head()
    params = variables["params"]
    mask = np.asarray(csi.class_mask(cam))
    instances = mask[..., None, :] * features[..., :, None]  # [B, h, w, D, C]
    maps = np.einsum("bhwdc,dc->bhwc", instances, params["instance"]["kernel"])
    maps += params["instance_bias"]
    logits_map = maps @ params["merge"]["kernel"] + params["merge"]["bias"]
    assert_allclose(module.apply(variables, features, cam), logits_map.mean((1, 2)), atol=1e-4)


def test_the_instance_of_a_class_ignores_the_other_maps():
    (features, cam), (_, variables) = arrays(), head()
    params = variables["params"]

    def maps(cam):
        projection = features @ params["instance"]["kernel"]
        return csi.instance_maps(projection, csi.class_mask(cam), params["instance_bias"])

    others = cam.copy()
    others[..., 1:] = arrays(2)[1][..., 1:]
    assert_allclose(maps(others)[..., 0], maps(cam)[..., 0])
    assert np.abs(maps(others)[..., 1] - maps(cam)[..., 1]).max() > 0.1


def test_gradients_are_finite_where_no_class_responds():
    module, variables = head()
    features = jnp.ones((1, 2, 2, NUM_FEATURES))
    with jax.debug_nans(True):
        grads = jax.grad(
            lambda f: module.apply(variables, f, -jnp.ones((1, 2, 2, NUM_CLASSES))).sum()
        )(features)
    assert_allclose(grads, 0)  # everything is masked


def test_at_first_each_class_has_its_own_instance():
    features, cam = arrays()
    params = InstanceHead(NUM_CLASSES).init(jax.random.key(0), features, cam)["params"]
    assert_allclose(params["merge"]["kernel"], np.eye(NUM_CLASSES))


def test_at_first_a_class_without_attention_is_thought_rare():
    module, features = InstanceHead(NUM_CLASSES), arrays()[0]
    nowhere = -np.ones((*SHAPE, NUM_CLASSES))
    variables = module.init(jax.random.key(0), features, nowhere)
    assert_allclose(jax.nn.sigmoid(module.apply(variables, features, nowhere)), 0.1, rtol=1e-5)
