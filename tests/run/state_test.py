import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oass_jax.run import state

VARIABLES = {
    "params": {"encoder": {"w": jnp.array(1.0)}, "head": {"w": jnp.array(2.0)}, "csi": jnp.ones(3)},
    "batch_stats": {"encoder": {"mean": jnp.array(3.0)}},
}


def create(variables, teacher):
    tx = optax.scale_by_adam()
    return state.create_state(variables, tx=tx, rng=jax.random.PRNGKey(0), teacher=teacher)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_model_and_the_optimizer_are_all_of_the_state():
    first = create(VARIABLES, "ema")
    assert_equal(state.TrainState(**first.model, **first.optimizer), first)
    names = {field.name for field in dataclasses.fields(first)}
    assert sorted([*first.model, *first.optimizer]) == sorted(names)


def test_the_first_state():
    first = create(VARIABLES, "ema")
    assert first.step == 0
    assert first.step.dtype == jnp.int32
    assert_equal({"params": first.params, "batch_stats": first.batch_stats}, VARIABLES)
    encoder = {name: VARIABLES[name]["encoder"] for name in VARIABLES}
    assert_equal(first.teacher, encoder)
    # The state is donated: what is in it twice would be freed twice.
    assert first.teacher["params"]["w"] is not first.params["encoder"]["w"]


@pytest.mark.parametrize("teacher", ["none", "siamese"])
def test_without_an_ema_teacher_there_is_one_network(teacher):
    model = state.create_model(VARIABLES, teacher=teacher)
    assert model["teacher"] == {}
    assert_equal(state.networks(model), {"student": VARIABLES})


def test_the_ema_network_is_the_teachers_encoder_with_the_students_heads():
    model = state.create_model(VARIABLES, teacher="ema")
    model["teacher"] = {"params": {"w": jnp.array(10.0)}, "batch_stats": {"mean": jnp.array(30.0)}}
    found = state.networks(model)
    assert_equal(found["student"], VARIABLES)
    expected = {
        "params": VARIABLES["params"] | {"encoder": {"w": jnp.array(10.0)}},
        "batch_stats": {"encoder": {"mean": jnp.array(30.0)}},
    }
    assert_equal(found["ema"], expected)


def test_an_encoder_without_batch_norm_has_no_statistics():
    model = state.create_model({"params": VARIABLES["params"]}, teacher="ema")
    assert model["batch_stats"] == {}
    assert model["teacher"]["batch_stats"] == {}
    after = create({"params": VARIABLES["params"]}, "ema")
    moved = state.ema_update(after.teacher, after, jnp.array(0), 0.999)
    assert_equal(moved, after.teacher)
