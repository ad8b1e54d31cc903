import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from oass_jax.evaluation.precision_recall import precision_recall, predicted, probability

# Four images, four classes. The last class is never predicted.
LOGITS = np.array(
    [
        [2.0, 1.0, 0.5, -1.0],
        [1.0, -1.0, 0.0, -2.0],
        [3.0, 2.0, -1.0, -3.0],
        [-1.0, 1.0, -2.0, -1.0],
    ]
)
LABELS = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]])


def random_labels(seed, *, num=200, num_classes=8):
    rng = np.random.default_rng(seed)
    labels = (rng.random((num, num_classes)) < 0.2).astype(np.int8)
    logits = 2 * rng.normal(size=labels.shape) + 3 * labels - 1
    return logits.astype(np.float32), labels


def test_by_hand():
    # Hits of predictions of positives: 2 of 3 of 2, 2 of 3 of 2, 1 of 2 of 1, 0 of 0 of 1.
    result = precision_recall(predicted(LOGITS), LABELS)
    np.testing.assert_allclose(result.precision, [200 / 3, 200 / 3, 50, 0])
    np.testing.assert_allclose(result.recall, [100, 100, 100, 0])
    np.testing.assert_allclose(result.f1, [80, 80, 200 / 3, 0])
    cp, cr = (200 / 3 + 200 / 3 + 50 + 0) / 4, 75
    op, or_ = 100 * 5 / 8, 100 * 5 / 6
    expected = {"cp": cp, "cr": cr, "cf1": 2 * cp * cr / (cp + cr)}
    expected |= {"op": op, "or": or_, "of1": 2 * op * or_ / (op + or_)}
    assert result.overview() == pytest.approx(expected)
    assert {type(value) for value in result.overview().values()} == {float}  # for JSON


def test_ignored_labels_are_left_out_by_hand():
    labels = LABELS.copy()
    labels[1, 0] = -1  # a wrong prediction
    labels[3, 1] = -1  # a hit
    labels[2, 3] = -1  # the only positive of its class
    result = precision_recall(predicted(LOGITS), labels)
    np.testing.assert_allclose(result.precision, [100, 50, 50, np.nan])
    np.testing.assert_allclose(result.recall, [100, 100, 100, np.nan])
    assert result.cp == pytest.approx(200 / 3)
    assert result.cr == pytest.approx(100)
    assert result.op == pytest.approx(100 * 4 / 6)
    assert result.or_ == pytest.approx(100)


def test_overall_counts_the_mistakes_of_a_class_without_positives():
    prediction = np.array([[True, True], [True, False]])
    result = precision_recall(prediction, np.array([[1, 0], [1, 0]]))
    assert result.cp == 100
    assert result.op == pytest.approx(200 / 3)


def test_top_3_is_the_likely_ones_of_the_three_highest():
    logits = np.array([[4.0, 3.0, 2.0, 1.0], [0.5, -1.0, 0.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
    expected = [[True, True, True, False], [True, False, True, False], [True, True, True, False]]
    assert predicted(logits, top=3).tolist() == expected
    assert predicted(logits).sum(axis=1).tolist() == [4, 2, 4]
    # Fewer classes than places.
    assert predicted(logits[:, :2], top=3).tolist() == predicted(logits[:, :2]).tolist()


def test_of_equal_logits_the_first_classes_are_the_highest():
    # So many that a sort which is not stable does not leave them in their order.
    logits = np.random.default_rng(0).integers(3, size=(4, 200)).astype(np.float32)
    for row, top in zip(logits, predicted(logits, top=3), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(top), np.flatnonzero(row == 2)[:3])


def test_an_ignored_label_takes_its_place_among_the_top():
    # The fourth is not predicted, though the first does not count.
    prediction = predicted(np.array([[4.0, 3.0, 2.0, 1.0]]), top=3)
    result = precision_recall(prediction, np.array([[-1, 1, 0, 1]]))
    assert result.op == pytest.approx(50)
    assert result.or_ == pytest.approx(50)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("top", [None, 3, 1])
def test_equals_scikit_learn(seed, top):
    logits, labels = random_labels(seed)
    guess = predicted(logits, top=top)
    result = precision_recall(guess, labels)
    each, macro, micro = (
        [100 * x for x in precision_recall_fscore_support(labels, guess, average=average)[:3]]
        for average in (None, "macro", "micro")
    )
    np.testing.assert_allclose([result.precision, result.recall, result.f1], each)
    np.testing.assert_allclose([result.cp, result.cr], macro[:2])
    np.testing.assert_allclose([result.op, result.or_, result.of1], micro)
    # CF1 is of the two means; scikit-learn's macro F1 is the mean of the classes' own.
    assert result.cf1 == pytest.approx(2 * result.cp * result.cr / (result.cp + result.cr))
    assert macro[2] == pytest.approx(result.f1.mean())
    assert abs(result.cf1 - macro[2]) > 1e-3


def test_perfect_and_without_a_prediction():
    labels = np.eye(3, dtype=int)
    assert set(precision_recall(labels == 1, labels).overview().values()) == {100}
    assert set(precision_recall(labels > 1, labels).overview().values()) == {0}


def test_without_positives_everything_is_nan_without_a_warning():
    with np.errstate(all="raise"):
        result = precision_recall(predicted(LOGITS), np.zeros_like(LABELS))
    assert np.isnan(list(result.overview().values())).all()
    assert np.isnan([result.precision, result.recall, result.f1]).all()


def test_other_shapes_and_logits_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match=r"scores \(4, 4\) and labels \(3, 4\)"):
        precision_recall(predicted(LOGITS), LABELS[:3])
    with pytest.raises(ValueError, match="16 of 16 scores are not finite"):
        predicted(LOGITS * np.nan)
    with pytest.raises(ValueError, match="a prediction is bool, not float64"):
        precision_recall(LOGITS, LABELS)


def test_a_threshold_of_each_class_counts_what_is_at_it():
    thresholds = probability(np.array([2.0, 1.5, -1.0, -1.0]))
    assert predicted(LOGITS, thresholds=thresholds).tolist() == [
        [True, False, True, True],
        [False, False, True, False],
        [True, True, True, False],
        [False, False, False, True],
    ]
    # And of these one for each image.
    top = predicted(LOGITS, thresholds=thresholds, top=1)
    assert np.argwhere(top).tolist() == [[0, 0], [2, 0]]


def test_a_probability_may_be_0_or_1_without_a_warning():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = probability(np.array([-1000, -5, 0, 5, 1000], np.float32))
    np.testing.assert_allclose(found, [0, 1 / (1 + np.e**5), 0.5, 1 / (1 + np.e**-5), 1], 1e-14)
    assert found[2] == 0.5
