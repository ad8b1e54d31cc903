from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from oass_jax.errors import UserError
from oass_jax.evaluation.average_precision import average_precision
from oass_jax.figures import object_shift, per_class_gain
from tests.reports import evaluation

NAMES = ("a", "b", "c", "d")


def evaluated(seed=0):
    label = np.random.default_rng(9).integers(0, 2, (50, 4)).astype(np.int8)
    noise = np.random.default_rng(seed).normal(size=(50, 4))
    return replace(evaluation(label, label + noise), class_names=NAMES)


def shift(names, spread):
    """Two objects of each class, so far to the left and the right of the centre."""
    edge = np.repeat(0.5, 2 * len(names))
    x = np.ravel([(0.5 - s, 0.5 + s) for s in spread])
    boxes = np.stack([edge, x, edge, x], axis=-1)
    return object_shift.of_boxes(boxes, np.repeat(np.arange(len(names)), 2), names)


def test_gains_are_differences_and_classes_are_matched_by_name():
    run, baseline = evaluated(), evaluated(seed=1)
    found = per_class_gain.measure(run, baseline, shift(("d", "c", "b"), (0.1, 0.2, 0.3)))
    for c, (name, ap, baseline_ap, gain, low, high, _) in enumerate(found.rows()):
        assert name == NAMES[c]
        assert ap == average_precision(run.logits[:, c], run.label[:, c])
        assert baseline_ap == average_precision(baseline.logits[:, c], run.label[:, c])
        assert gain == ap - baseline_ap
        assert low < gain < high
    np.testing.assert_allclose(found.variance[1:], 512**2 * np.array([0.09, 0.04, 0.01]))
    assert np.isnan(found.variance[0])
    assert [one.num_classes for one in found.correlations] == [3, 3]


def test_equal_runs_differ_in_no_draw():
    found = per_class_gain.measure(evaluated(), evaluated(), shift(tuple(NAMES), (1, 2, 3, 4)))
    assert not found.gain.any()
    assert not found.interval.any()
    assert all(np.isnan(each[1:4]).all() for each in found.correlations)


def test_correlations_are_those_of_scipy_over_the_classes_with_both():
    rng = np.random.default_rng(0)
    variance = rng.uniform(size=30)
    gain = variance + rng.normal(size=30) / 4
    gain[3], variance[5] = np.nan, np.nan
    known = np.delete(np.arange(30), [3, 5])
    pearson, spearman = per_class_gain.correlate(gain, variance)
    assert pearson.value == stats.pearsonr(gain[known], variance[known]).statistic
    assert spearman.value == stats.spearmanr(gain[known], variance[known]).statistic
    expected = stats.pearsonr(gain[known], variance[known]).confidence_interval(0.95)
    assert (pearson.low, pearson.high) == pytest.approx(tuple(expected), abs=0.12)
    assert spearman.low < spearman.value < spearman.high < 1
    assert (pearson.num_classes, spearman.num_classes) == (28, 28)


def test_a_curve_that_rises_is_a_perfect_rank_correlation():
    pearson, spearman = per_class_gain.correlate(np.array([1.0, 2, 3, 9]), np.array([1.0, 4, 5, 6]))
    assert pearson.value < spearman.value == pytest.approx(1)
    assert (spearman.low, spearman.high) == pytest.approx((1, 1))


def test_images_are_matched_by_name():
    run, baseline = evaluated(), evaluated(seed=1)
    back = {name: getattr(baseline, name)[::-1] for name in ("images", "label", "logits")}
    boxes = shift(NAMES, (1, 2, 3, 4))
    found = per_class_gain.measure(run, replace(baseline, **back), boxes)
    assert found.rows() == per_class_gain.measure(run, baseline, boxes).rows()


def test_two_classes_are_too_few():
    with pytest.raises(UserError, match="but there are 2"):
        per_class_gain.measure(evaluated(), evaluated(1), shift(("a", "b"), (1, 2)))
