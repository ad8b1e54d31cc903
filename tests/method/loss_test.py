import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax.method import loss


def test_classification_by_hand():
    # -log(sigmoid(0)) = log 2; -log(sigmoid(2)) = 0.126928; -log(1 - sigmoid(-1)) = 0.313262.
    logits, label = jnp.array([[0.0, 2.0, -1.0]]), jnp.array([[1, 1, 0]])
    expected = (np.log(2) + 0.126928 + 0.313262) / 3
    assert_allclose(loss.classification(logits, label), expected, rtol=1e-5)


def test_classification_leaves_ignored_classes_out_of_the_average():
    logits = jnp.array([[0.0, 2.0, -1.0, 50.0]])
    full = loss.classification(logits[:, :3], jnp.array([[1, 1, 0]]))
    assert_allclose(loss.classification(logits, jnp.array([[1, 1, 0, -1]])), full, rtol=1e-6)
    grad = jax.grad(loss.classification)(logits, jnp.array([[1, 1, 0, -1]]))
    assert grad[0, 3] == 0


def test_a_class_that_is_present_may_count_more():
    logits, label = jnp.array([[0.0, 2.0, -1.0, 3.0]]), jnp.array([[1, 1, 0, -1]])
    expected = (5 * np.log(2) + 0.5 * 0.126928 + 0.313262) / 3
    weight = jnp.array([5.0, 0.5, 7.0, 9.0])
    assert_allclose(loss.classification(logits, label, weight), expected, rtol=1e-5)


def test_classification_averages_each_image_over_its_own_classes():
    logits, label = jnp.array([[0.0, 2.0], [-1.0, 50.0]]), jnp.array([[1, 1], [0, -1]])
    expected = ((np.log(2) + 0.126928) / 2 + 0.313262) / 2
    assert_allclose(loss.classification(logits, label), expected, rtol=1e-5)


def test_classification_of_huge_logits_is_finite():
    logits, label = jnp.array([[1e4, -1e4, 1e4, -1e4]]), jnp.array([[1, 0, 0, 1]])
    with jax.debug_nans(True):
        value, grad = jax.value_and_grad(loss.classification)(logits, label)
    assert_allclose(value, 5000.0)
    assert_allclose(grad, [[0, 0, 0.25, -0.25]])


def test_classification_without_any_label_counted_is_zero():
    assert loss.classification(jnp.ones((2, 3)), -jnp.ones((2, 3), jnp.int8)) == 0


@pytest.mark.parametrize(("reduction", "expected"), [("masked", 3 / 8), ("mean", 8 / 8)])
def test_reconstruction_by_hand(reduction, expected):
    # Two classes on 2x2 cells; class 0 is there and differs by 1 + 2, class 1 is not, by 5.
    cam = jnp.zeros((1, 2, 2, 2)).at[0, 0, 0, 0].set(1.0).at[0, 1, 1, 1].set(5.0)
    cam_re = jnp.zeros((1, 2, 2, 2)).at[0, 1, 0, 0].set(2.0)
    value = loss.reconstruction(cam, cam_re, jnp.array([[1, 0]]), reduction)
    assert_allclose(value, expected)


@pytest.mark.parametrize("reduction", ["masked", "mean"])
def test_reconstruction_of_a_map_by_itself_costs_nothing_and_signs_count(reduction):
    cam = jnp.array([3.0, -2.0])[:, None, None, None] * jnp.ones((2, 2, 2, 1))
    label = jnp.ones((2, 1))
    assert_allclose(loss.reconstruction(cam, cam, label, reduction), [0, 0])
    assert_allclose(loss.reconstruction(cam, -cam, label, reduction), [6, 4])
    assert_allclose(loss.reconstruction(cam, cam - 1, label, reduction), [1, 1])


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits = jnp.array([0.3, 2.7, -1.1, 40.0], jnp.bfloat16)
    label = jnp.array([1, 1, 0, 1])
    each = loss.cross_entropy(logits, label)
    assert each.dtype == jnp.float32
    exact = np.asarray(logits, np.float64)
    assert_allclose(each, np.log1p(np.exp(np.where(label, -exact, exact))), rtol=1e-5, atol=1e-8)


def test_cross_entropy_is_what_classification_averages():
    logits, label = jnp.array([[0.0, 2.0, -1.0, 9.0]]), jnp.array([[1, 1, 0, -1]])
    each = loss.cross_entropy(logits, label)
    assert_allclose(each, [[np.log(2), 0.126928, 0.313262, 0]], rtol=1e-5)
    assert_allclose(each.sum() / 3, loss.classification(logits, label), rtol=1e-6)


def test_reconstruction_is_of_each_example():
    cam = jnp.array([1.0, 3.0])[:, None, None, None] * jnp.ones((2, 2, 2, 1))
    value = loss.reconstruction(cam, 0 * cam, jnp.ones((2, 1)), "mean")
    assert_allclose(value, [1.0, 3.0])


def test_reconstruction_does_not_count_ignored_classes():
    cam = jnp.ones((1, 2, 2, 2))
    assert loss.reconstruction(cam, 0 * cam, jnp.array([[0, -1]]), "masked") == 0


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (10, 0.0), (15, 0.25), (20, 0.5), (30, 1.0), (99, 1.0)]
)
def test_ramp_is_linear_between_its_ends(step, expected):
    weight = loss.ramp(1.0, start_step=10, ramp_steps=20)(jnp.array(step))
    assert_allclose(weight, expected)


def test_a_ramp_of_no_length_switches_on_at_once():
    assert loss.ramp(2.0, start_step=0, ramp_steps=0)(jnp.array(0)) == 2.0
    later = loss.ramp(2.0, start_step=5, ramp_steps=0)
    assert [float(later(jnp.array(step))) for step in (4, 5, 6)] == [0.0, 2.0, 2.0]
