import jax
import jax.numpy as jnp
import optax
import pytest
from numpy.testing import assert_allclose

from oass_jax.training import optimizer


def params():
    layer = {"kernel": jnp.ones(3), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    return {"encoder": {"conv": dict(layer)}, "head": {"kernel": jnp.ones(3)}}


def update(weight_decay, grad):
    tx = optimizer.create_optimizer(
        encoder_schedule=lambda _: 1e-2, head_schedule=lambda _: 1e-1, weight_decay=weight_decay
    )
    tree = params()
    grads = jax.tree.map(lambda x: jnp.full_like(x, grad), tree)
    updates, _ = tx.update(grads, tx.init(tree), tree)
    return optax.apply_updates(tree, updates)


def test_first_step_is_the_learning_rate_of_each_part():
    # Adam's first step has size 1 whatever the gradient.
    new = update(0.0, 0.3)
    assert_allclose(new["encoder"]["conv"]["kernel"], 1 - 1e-2, rtol=1e-5)
    assert_allclose(new["head"]["kernel"], 1 - 1e-1, rtol=1e-5)


def test_weight_decay_spares_biases_and_batch_norm():
    new = update(0.5, 0.0)
    assert_allclose(new["encoder"]["conv"]["kernel"], 1 - 1e-2 * 0.5, rtol=1e-6)
    assert_allclose(new["head"]["kernel"], 1 - 1e-1 * 0.5, rtol=1e-6)
    assert_allclose(new["encoder"]["conv"]["bias"], 1.0)
    assert_allclose(new["encoder"]["conv"]["scale"], 1.0)


def test_each_part_counts_and_decays_as_adamw_of_its_own():
    """Several steps equal those of optax's `adamw` for a part alone."""
    rate = optimizer.learning_rate(1e-2, total_steps=8, warmup_steps=3)
    both = optimizer.create_optimizer(
        encoder_schedule=optax.constant_schedule(0.0), head_schedule=rate, weight_decay=0.5
    )
    alone = optax.adamw(rate, weight_decay=0.5)
    new, head = params(), params()["head"]
    states = both.init(new), alone.init(head)
    for grad in (0.3, -2.0, 0.1):
        updates = both.update(jax.tree.map(lambda x, g=grad: g * x, params()), states[0], new)
        head_updates = alone.update({"kernel": grad * jnp.ones(3)}, states[1], head)
        states = updates[1], head_updates[1]
        new = optax.apply_updates(new, updates[0])
        head = optax.apply_updates(head, head_updates[0])
    assert_allclose(new["head"]["kernel"], head["kernel"], rtol=1e-6)
    assert not jnp.allclose(head["kernel"], 1.0)
    assert_allclose(new["encoder"]["conv"]["kernel"], 1.0)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (5, 0.5), (10, 1.0), (60, 0.5), (110, 0.0), (200, 0.0)]
)
def test_learning_rate_warms_up_and_falls_along_a_cosine(step, expected):
    rate = optimizer.learning_rate(1.0, total_steps=110, warmup_steps=10)
    assert_allclose(rate(step), expected, atol=1e-6)


def test_without_warm_up_it_begins_at_the_peak():
    assert_allclose(optimizer.learning_rate(1.0, total_steps=10, warmup_steps=0)(0), 1.0)
