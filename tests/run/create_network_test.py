"""The network from the config, and the sizes that go with its encoder."""

import types

import jax.numpy as jnp
import pytest

from oass_jax import config_file, default_config
from oass_jax.errors import UserError
from oass_jax.run import build


@pytest.mark.parametrize("name", [*config_file.methods(), "demo", "demo:ctopk_w_csi"])
def test_the_sizes_of_every_config_go_with_its_encoder(name):
    config = config_file.load(name)
    encoder = build.create_encoder(config)
    assert encoder.dtype == jnp.dtype(config.model.dtype)
    assert encoder.remat == config.model.remat


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment.image_px": 500}, r"augment\.image_px=500 is not a multiple of 32: try 512"),
        ({"augment.image_px": 8}, r"augment\.image_px=8 is not a multiple of 32: try 32"),
        ({"eval.image_px": 528}, r"eval\.image_px=528 is not a multiple of 32: try 512"),
        (
            {"keypoint.margin_cells": 17},
            r"margin_cells=17 leaves no cell to cut at: at most 16 fit into 512 px",
        ),
        ({"model.encoder": "resnet51"}, r"did you mean resnet50\?"),
    ],
)
def test_what_does_not_go_with_the_encoder_is_refused(fields, message):
    config = default_config.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        build.create_network(config, 20)


def test_without_patches_any_margin_will_do():
    config = default_config.get_config()
    config.keypoint.margin_cells, config.teacher.mode = 17, "none"
    build.create_encoder(config)
    config.teacher.mode, config.loss.alpha_p, config.loss.alpha_re = "ema", 0.0, 0.0
    build.create_encoder(config)


def test_sizes_are_those_of_the_encoder_at_hand(layer_norm_encoder):
    config = default_config.get_config()
    config.model.encoder = layer_norm_encoder  # of stride 8
    config.augment.image_px, config.keypoint.margin_cells = 48, 3
    network = build.create_network(config, 5)
    params = build.init_variables(network, 0)["params"]
    assert params["head"]["kernel"].shape == (network.encoder.num_features, 5)
    config.keypoint.margin_cells = 4
    with pytest.raises(UserError, match="at most 3 fit into 48 px"):
        build.create_encoder(config)
    config.augment.image_px = 56
    with pytest.raises(UserError, match=r"augment\.image_px=56 is not a multiple of 16: try 64"):
        build.create_encoder(config)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, []),
        ({"augment.image_px": 160}, ["image of 10 cells in the middle 3"]),
        ({"augment.image_px": 160, "keypoint.margin_cells": 2}, []),
        ({"augment.image_px": 160, "keypoint.strategy": "center"}, []),
        ({"augment.image_px": 160, "teacher.mode": "none"}, []),
    ],
)
def test_a_margin_that_keeps_cuts_in_the_middle_is_noted(fields, note):
    config = default_config.get_config()
    config.update_from_flattened_dict(fields)
    found = build.margin_note(config, 16)
    assert len(found) == len(note)
    assert all(words in line for words, line in zip(note, found, strict=True))


@pytest.mark.parametrize(
    ("capability", "dtype", "is_noted"),
    [
        ("7.5", "bfloat16", True),
        ("7.5", "float32", False),
        ("8.0", "bfloat16", False),
        (None, "bfloat16", False),
    ],
)
def test_bfloat16_on_a_gpu_without_it_is_noted(capability, dtype, is_noted):
    config = default_config.get_config()
    config.model.dtype = dtype
    device = types.SimpleNamespace(device_kind="Tesla T4", compute_capability=capability)
    found = build.dtype_note(config, device)
    assert [line.partition(" has no ")[0] for line in found] == ["Tesla T4"] * is_noted
