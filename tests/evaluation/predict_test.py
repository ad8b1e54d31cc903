import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oass_jax.evaluation import predict
from oass_jax.image import augment
from oass_jax.model.network import Network

predict_step = jax.jit(
    predict.predict_step, static_argnames=("network", "regions", "scales", "flip")
)
rescale_images = jax.jit(augment.rescale_images, static_argnames=("scale", "flip", "multiple"))


def test_predict_drops_the_padding_and_restores_the_order():
    def predict_fn(batch):
        return {"scores": {"student": {"base": batch["x"]}, "ema": {"base": -batch["x"]}}} | {
            name: batch[name] for name in ("label", "mask", "index")
        }

    def batch(index, mask):
        index = jnp.array(index)
        column = index[:, None].astype(jnp.float32)
        label = (column > 1).astype(jnp.int8)
        return {"x": column, "label": label, "mask": jnp.array(mask), "index": index}

    batches = [
        batch([2, 0], [True, True]),
        batch([3, 1], [True, True]),
        batch([4, -1], [True, False]),
    ]
    rows = predict.predict(predict_fn, iter(batches))
    np.testing.assert_array_equal(rows.index, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.scores["student"]["base"][:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.scores["ema"]["base"][:, 0], [0, -1, -2, -3, -4])
    np.testing.assert_array_equal(rows.label[:, 0], [0, 0, 1, 1, 1])


class Cells(nn.Module):
    """Features that are the mean colour of each cell, and its place, so that a flip shows."""

    stride = 16

    @nn.compact
    def __call__(self, images, *, train):
        cells = nn.avg_pool(images, (16, 16), (16, 16))
        place = jnp.arange(cells.shape[2], dtype=jnp.float32)[:, None]
        return jnp.concatenate([cells, cells * place], axis=-1)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    network = Network(Cells(), 4, csi=True)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    batch = {
        "image": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
        "size": np.array([[64, 48], [40, 64]]),
        "label": np.zeros((2, 4)),
        "mask": np.ones(2, bool),
        "index": np.arange(2),
    }
    return network, {"student": variables}, batch


def predict_scene(scene, scales, flip):
    network, weights, batch = scene
    return predict_step(weights, batch, network=network, regions=None, scales=scales, flip=flip)


def test_one_scale_is_the_plain_network(scene):
    network, weights, batch = scene
    image = augment.keep_images(batch["image"], batch["size"])
    expected = network.apply(weights["student"], image, train=False)["logits"]
    scores = predict_scene(scene, (1.0,), False)["scores"]["student"]
    assert set(scores) == {"base", "csi"}
    for kind in scores:
        np.testing.assert_allclose(scores[kind], expected[kind], rtol=1e-6)


def test_several_scales_and_flips_are_averaged(scene):
    network, weights, batch = scene
    logits = []
    for scale in (0.5, 1.0, 2.0):
        for flip in (False, True):
            view = rescale_images(
                batch["image"], batch["size"], scale=scale, flip=flip, multiple=32
            )
            logits.append(network.apply(weights["student"], view, train=False)["logits"]["base"])
    found = predict_scene(scene, (0.5, 1.0, 2.0), True)["scores"]["student"]["base"]
    np.testing.assert_allclose(found, np.mean(logits, axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # the flip is seen


def test_the_prediction_is_one_kind_of_logits_or_the_mean_of_all():
    scores = {"base": np.array([[1.0, 2.0]]), "csi": np.array([[3.0, -2.0]])}
    np.testing.assert_array_equal(predict.choose(scores, "csi"), [[3, -2]])
    np.testing.assert_array_equal(predict.choose(scores, "mean"), [[2, 0]])
