"""The registry, and what it asks of every encoder."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oass_jax.errors import UserError
from oass_jax.model import encoders
from oass_jax.model.network import Network
from oass_jax.model.pretrained import load_pretrained

KEY = jax.random.key(0)
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[*encoders.ENCODERS, "layer_norm"])
def name(request, layer_norm_encoder):
    """Each name there is, and that of an encoder without batch normalisation."""
    return request.param


def test_an_encoder_keeps_to_what_it_says(name):
    encoder = encoders.create(name, dtype=jnp.bfloat16, remat=True)
    height, width = 6 * encoder.stride, 4 * encoder.stride
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: encoder.init_with_output(KEY, x, train=False), images
    )
    assert features.shape == (2, 6, 4, encoder.num_features)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"resnet51 is not an encoder: did you mean resnet50\?"):
        encoders.create("resnet51", dtype=jnp.float32)


def test_the_names_are_read_without_jax():
    code = "import sys, oass_jax.model.encoders; print({'jax', 'flax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.fixture
def network(layer_norm_encoder):
    encoder = encoders.create(layer_norm_encoder, dtype=jnp.float32)
    return Network(encoder, num_classes=3, csi=True)


def test_a_network_needs_no_batch_normalisation(network):
    images = jax.random.normal(KEY, (2, 32, 48, 3))
    variables = network.init(KEY, images, train=False)
    assert set(variables) == {"params"}
    output, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
    assert not updated
    assert output["features"].shape == (2, 4, 6, 32)
    assert output["logits"]["csi"].shape == (2, 3)
    evaluated = network.apply(variables, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, output, evaluated)


def test_weights_cannot_be_loaded_without_a_rule_for_their_names(network):
    variables = network.init(KEY, jnp.zeros((1, 16, 16, 3)), train=False)
    message = r"x\.safetensors cannot be loaded: LayerNormEncoder has no `foreign_name`"
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained("x.safetensors", variables, network.encoder)
    assert "\n" not in str(caught.value)
