import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from oass_jax.evaluation import average_precision, bootstrap


def predictions(num_images, num_classes, seed=0):
    """Scores with many ties and labels of which a tenth is unknown."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 40, (num_images, num_classes)) / 7
    labels = rng.choice([1, 0, 0, 0, -1], (num_images, num_classes))
    return scores.astype(np.float32), labels.astype(np.int8)


def test_every_draw_is_the_average_precision_of_the_images_repeated():
    scores, labels = predictions(60, 3)
    weights = bootstrap.draw_weights(60, 20, seed=1)
    found = bootstrap.average_precision(scores, labels, weights)
    assert found.shape == (20, 3)
    for draw in range(20):
        repeated = np.repeat(np.arange(60), weights[:, draw].astype(int))
        expected = average_precision.mean_average_precision(scores[repeated], labels[repeated])
        np.testing.assert_allclose(found[draw], expected.ap, atol=1e-9)


def test_weights_are_those_of_scikit_learn():
    scores, labels = predictions(200, 1, seed=3)
    known = labels[:, 0] >= 0
    weights = np.random.default_rng(0).integers(0, 4, (200, 5)).astype(np.float32)
    found = bootstrap.average_precision(scores, labels, weights)[:, 0]
    expected = [
        100 * average_precision_score(labels[known, 0], scores[known, 0], sample_weight=w[known])
        for w in weights.T
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_draw_without_positives_has_no_average_precision():
    scores = np.array([[1.0, 0.0], [2.0, 1.0]])
    labels = np.array([[1, 0], [0, 0]])
    weights = np.array([[1.0, 0.0], [1.0, 2.0]], np.float32)
    found = bootstrap.average_precision(scores, labels, weights)
    np.testing.assert_array_equal(found, [[50.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(average_precision.mean(found), [50.0, np.nan])


def test_draws_have_as_many_images_and_are_the_same_for_a_seed():
    weights = bootstrap.draw_weights(30, 4, seed=7)
    np.testing.assert_array_equal(weights.sum(axis=0), [30] * 4)
    np.testing.assert_array_equal(weights, bootstrap.draw_weights(30, 4, seed=7))
    assert (weights != bootstrap.draw_weights(30, 4, seed=8)).any()


def test_the_interval_leaves_out_a_fortieth_at_either_end():
    values = np.append(np.arange(1001.0), np.nan)
    assert bootstrap.interval(values) == pytest.approx((25.0, 975.0))
    assert all(np.isnan(bootstrap.interval(np.array([np.nan]))))


def test_its_width_is_that_of_the_sampling_distribution():
    """Draws of 400 images against fresh samples of 400: the spreads agree to a fifth."""
    rng = np.random.default_rng(0)

    def sample():
        labels = (rng.random((400, 1)) < 0.2).astype(np.int8)
        return (rng.normal(size=(400, 1)) + 1.5 * labels).astype(np.float32), labels

    fresh = [average_precision.mean_average_precision(*sample()).map for _ in range(300)]
    weights = bootstrap.draw_weights(400, 300)
    spreads = [bootstrap.average_precision(*sample(), weights).std() for _ in range(10)]
    assert np.mean(spreads) == pytest.approx(np.std(fresh), rel=0.2)
