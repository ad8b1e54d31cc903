import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from oass_jax.evaluation.average_precision import (
    average_precision,
    average_precision_voc,
    mean,
    mean_average_precision,
)

BOTH = pytest.mark.parametrize("ap_fn", [average_precision, average_precision_voc])


def ranked(*labels):
    """Scores that rank the labels in the order given, and the labels."""
    return np.linspace(1, -1, len(labels)), np.array(labels)


def random_ranking(seed, *, num=500, levels=None, share=0.1):
    rng = np.random.default_rng(seed)
    labels = (rng.random(num) < share).astype(int)
    scores = rng.normal(size=num) + labels
    return (scores if levels is None else np.round(scores * levels) / levels), labels


def test_by_hand():
    # Precision at the three positives: 1/1, 2/3, 3/6; the envelope changes nothing.
    scores, labels = ranked(1, 0, 1, 0, 0, 1)
    assert average_precision(scores, labels) == pytest.approx(100 * (1 + 2 / 3 + 1 / 2) / 3)
    assert average_precision_voc(scores, labels) == pytest.approx(100 * (1 + 2 / 3 + 1 / 2) / 3)


def test_the_envelope_by_hand():
    # Precision 1/2, 2/3, 3/4 at the positives; the best at that recall or a higher one is 3/4.
    scores, labels = ranked(0, 1, 1, 1)
    assert average_precision(scores, labels) == pytest.approx(100 * (1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert average_precision_voc(scores, labels) == pytest.approx(75)


def test_the_development_kit_by_hand():
    """Eight images, four positives: VOCevalcls's precision, its envelope, and the area."""
    scores, labels = ranked(1, 0, 1, 1, 0, 0, 1, 0)
    precision = {1: 1 / 1, 3: 2 / 3, 4: 3 / 4, 7: 4 / 7}  # rank of a positive -> precision there
    envelope = [1, 3 / 4, 3 / 4, 4 / 7]  # 2/3 is lifted to the 3/4 of the higher recall
    expected = 100 * sum(precision.values()) / 4
    assert average_precision(scores, labels) == pytest.approx(expected)
    assert average_precision_voc(scores, labels) == pytest.approx(100 * sum(envelope) / 4)
    assert average_precision_voc(scores, labels) == pytest.approx(76.7857, abs=1e-4)


def test_ties_by_hand():
    # One threshold takes all four (2 of 4); one by one, in the order given, it is 1/2 and 2/4.
    scores, labels = np.zeros(4), np.array([0, 1, 0, 1])
    assert average_precision(scores, labels) == pytest.approx(50)
    assert average_precision_voc(scores, labels) == pytest.approx(50)
    assert average_precision(scores, labels[::-1]) == pytest.approx(50)
    assert average_precision_voc(scores, labels[::-1]) == pytest.approx(100 * (1 + 2 / 3) / 2)


@pytest.mark.parametrize("levels", [None, 10, 1])
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_with_and_without_ties(seed, levels):
    scores, labels = random_ranking(seed, levels=levels)
    expected = 100 * average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_voc_equals_the_development_kit(seed):
    """VOCevaldet's own steps: pad, envelope from the back, sum where recall changes."""
    scores, labels = random_ranking(seed, levels=10)
    hits = labels[np.argsort(-scores, kind="stable")]
    true, false = np.cumsum(hits), np.cumsum(1 - hits)
    recall = np.concatenate([[0], true / labels.sum(), [1]])
    precision = np.concatenate([[0], true / (true + false), [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    i = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    expected = 100 * np.sum((recall[i] - recall[i - 1]) * precision[i])
    assert average_precision_voc(scores, labels) == pytest.approx(expected, abs=1e-9)


@BOTH
def test_perfect_single_and_worst(ap_fn):
    assert ap_fn(*ranked(1, 1, 0, 0)) == 100
    assert ap_fn(*ranked(1)) == 100
    assert ap_fn(*ranked(0, 0, 0, 1)) == pytest.approx(25)
    assert ap_fn(*ranked(1, 1)) == 100


@BOTH
def test_random_scores_give_about_the_share_of_positives(ap_fn):
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 10 == 0
    assert ap_fn(rng.random(20_000), labels.astype(int)) == pytest.approx(10, abs=1)


@BOTH
def test_ignored_entries_are_as_if_absent(ap_fn):
    scores, labels = random_ranking(1)
    ignored = np.arange(len(labels)) % 3 == 0
    expected = ap_fn(scores[~ignored], labels[~ignored])
    assert ap_fn(scores, np.where(ignored, -1, labels)) == expected


@BOTH
def test_the_order_of_the_images_does_not_matter(ap_fn):
    # Interpolated ties do depend on it, by the development kit's definition; here are none.
    scores, labels = random_ranking(2)
    order = np.random.default_rng(3).permutation(len(labels))
    assert ap_fn(scores[order], labels[order]) == pytest.approx(ap_fn(scores, labels), abs=1e-9)


@BOTH
def test_only_the_ranking_matters(ap_fn):
    scores, labels = random_ranking(4)
    assert ap_fn(np.tanh(scores), labels) == pytest.approx(ap_fn(scores, labels), abs=1e-9)


@BOTH
@pytest.mark.parametrize("labels", [[], [0, 0], [-1, -1], [0, -1]])
def test_no_positive_gives_nan_without_a_warning(ap_fn, labels):
    with np.errstate(all="raise"):
        assert np.isnan(ap_fn(np.zeros(len(labels)), np.array(labels, int)))


def test_voc_is_never_below_the_non_interpolated():
    for seed in range(20):
        scores, labels = random_ranking(seed, num=50, share=0.3)
        assert average_precision_voc(scores, labels) >= average_precision(scores, labels) - 1e-9


def test_mean_leaves_out_and_names_classes_without_positives():
    # Class 0: 100. Class 1: no positive. Class 2: 1/2 and 2/3, envelope 2/3 and 2/3.
    scores = np.array([[3, 3, 3], [2, 2, 2], [1, 1, 1]])
    labels = np.array([[1, 0, 0], [0, -1, 1], [-1, 0, 1]])
    result = mean_average_precision(scores, labels)
    np.testing.assert_allclose(result.ap, [100, np.nan, 100 * 7 / 12])
    np.testing.assert_allclose(result.ap_voc, [100, np.nan, 100 * 2 / 3])
    assert result.map == pytest.approx((100 + 100 * 7 / 12) / 2)
    assert result.map_voc == pytest.approx((100 + 100 * 2 / 3) / 2)
    assert result.absent == (1,)


def test_mean_of_nothing_is_nan():
    with np.errstate(all="raise"):
        result = mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), int))
    assert np.isnan(result.map)
    assert np.isnan(result.map_voc)
    assert result.absent == (0, 1)


def test_mean_equals_scikit_learns_macro_average():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 20)).astype(np.float32)
    labels = (rng.random((200, 20)) < 0.1).astype(np.int8)
    expected = 100 * average_precision_score(labels, scores, average="macro")
    assert mean_average_precision(scores, labels).map == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("label", [1, 0, -1])
def test_scores_that_are_not_finite_are_an_error_even_where_ignored(value, label):
    with pytest.raises(ValueError, match="1 of 4 scores are not finite"):
        mean_average_precision(np.array([[0, value], [1, 0]]), np.array([[1, label], [0, 1]]))


@BOTH
def test_other_shapes_and_labels_are_an_error(ap_fn):
    with pytest.raises(ValueError, match=r"scores \(3,\) and labels \(2,\)"):
        ap_fn(np.zeros(3), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"must have one shape of 1 axes"):
        ap_fn(np.zeros((3, 2)), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"labels must be 1, 0 or -1, not \[2\]"):
        ap_fn(np.zeros(3), np.array([0, 1, 2]))


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_a_mean_of_nothing_is_nan(values):
    assert np.isnan(mean(np.array(values)))


def test_a_mean_is_over_the_last_axis_and_the_classes_that_have_a_value():
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(mean(values), [2.0, np.nan])
