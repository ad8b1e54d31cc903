import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.evaluation import cam_iou

VOID = cam_iou.VOID
THRESHOLDS = np.array([0.25, 0.5], np.float32)
CLASSES = np.array([0, 2])
MAPS = np.array(
    [
        [[0.9, 0.9, 0.3, 0.0], [0.9, 0.9, 0.3, 0.0], [0.2, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.6, 0.6], [0.0, 0.0, 0.6, 0.6], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]],
    ],
    np.float32,
)
TRUTH = np.array([[1, 1, 1, VOID], [1, 1, 3, 3], [1, 0, 0, 0], [0, 0, 3, 0]], np.uint8)


def count(maps, classes, truth, thresholds=THRESHOLDS, num_classes=3):
    return cam_iou.count_pixels(
        maps, classes, truth, thresholds=thresholds, num_classes=num_classes
    )


def test_four_by_four_by_hand():
    result = cam_iou.score(count(MAPS, CLASSES, TRUTH), THRESHOLDS)
    # Predicted at 0.25, v void:   1 1 3 v     and at 0.5, where 0.5 is not above:   1 1 3 v
    #                              1 1 3 3                                           1 1 3 3
    #                              0 0 0 0                                           0 0 0 0
    #                              0 0 3 3                                           0 0 0 0
    nan = np.nan
    expected = [[5 / 7, 4 / 6, nan, 3 / 5], [6 / 8, 4 / 6, nan, 2 / 4]]
    assert_allclose(result.iou, 100 * np.array(expected))
    assert_allclose(result.false_positive, [[100 / 7, 0, nan, 40], [25, 0, nan, 25]])
    assert_allclose(result.false_negative[:, 1], 100 * np.array([2 / 6, 2 / 6]))
    assert_allclose(
        result.miou, [100 * (5 / 7 + 4 / 6 + 3 / 5) / 3, 100 * (6 / 8 + 4 / 6 + 0.5) / 3]
    )
    assert result.best == 0
    assert result.absent == (2,)
    known = ~np.isnan(result.iou)
    total = result.iou + result.false_positive + result.false_negative
    assert_allclose(total[known], 100)


def test_void_counts_nowhere():
    assert count(MAPS, CLASSES, TRUTH).sum() == 15
    nothing = count(MAPS, CLASSES, np.full_like(TRUTH, VOID))
    result = cam_iou.score(nothing, THRESHOLDS)
    assert nothing.sum() == 0
    assert np.isnan(result.miou).all()
    assert result.absent == (0, 1, 2, 3)


def test_a_class_that_is_only_predicted_counts_and_is_zero():
    truth = np.zeros((4, 4), np.uint8)
    result = cam_iou.score(count(MAPS, CLASSES, truth), THRESHOLDS)
    assert_array_equal(result.iou[:, [1, 3]], 0)
    assert_allclose(result.miou, [100 * 6 / 16 / 3, 100 * 8 / 16 / 3])
    assert result.best == 1


def test_an_image_without_labels_is_all_background():
    counts = count(np.zeros((0, 4, 4), np.float32), np.zeros(0, np.int64), TRUTH)
    result = cam_iou.score(counts, THRESHOLDS)
    assert_allclose(result.iou[:, 0], 100 * 6 / 15)
    assert_array_equal(result.iou[:, [1, 3]], 0)


def test_of_equal_thresholds_the_lowest_is_best():
    maps = np.ones((1, 2, 2), np.float32)
    counts = count(maps, np.array([1]), np.full((2, 2), 2, np.uint8))
    result = cam_iou.score(counts, THRESHOLDS)
    assert_array_equal(result.miou, [100, 100])
    assert result.best == 0


def test_every_threshold_is_what_a_background_map_of_its_value_gives():
    """The other route: stack the threshold as the background's map and take the argmax."""
    rng = np.random.default_rng(0)
    thresholds = cam_iou.even_thresholds(20)
    total, confusion = 0, np.zeros((20, 6, 6), int)
    for _ in range(5):
        classes = np.sort(rng.permutation(5)[: rng.integers(0, 4)])
        # Rounded, so that many values are exactly a threshold.
        maps = (rng.integers(0, 21, (len(classes), 9, 7)) / 20).astype(np.float32)
        truth = rng.choice([0, 1, 2, 3, 4, 5, VOID], (9, 7)).astype(np.uint8)
        total = total + count(maps, classes, truth, thresholds, num_classes=5)
        for t, threshold in enumerate(thresholds):
            stacked = np.concatenate([np.full((1, 9, 7), threshold), maps])
            predicted = np.append(0, classes + 1)[stacked.argmax(axis=0)]
            np.add.at(confusion[t], (truth[truth != VOID], predicted[truth != VOID]), 1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(1) + confusion.sum(2) - hits
    result = cam_iou.score(total, thresholds)
    assert_allclose(result.iou, 100 * hits / union)
    assert_allclose(result.miou, (100 * hits / union).mean(axis=1))


def test_thresholds_lie_below_one():
    assert_allclose(cam_iou.even_thresholds(4), [0, 0.25, 0.5, 0.75])
    assert cam_iou.even_thresholds(100).dtype == np.float32
