import math

import numpy as np
import pytest

from oass_jax.evaluation import bootstrap
from oass_jax.figures import source
from oass_jax.figures.report import metrics
from oass_jax.run.workdir import Workdir
from tests.reports import labels_and_logits, write_run

# Ranked 1, 0, 1, 0 in the first class: AP (1 + 2/3) / 2; in the second all positives are first.
LABEL = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], np.int8)
LOGITS = np.array([[4.0, 3.0], [3.0, 2.0], [2.0, 1.0], [1.0, 0.0]], np.float32)


def read(folder, label=LABEL, logits=LOGITS, **words):
    run = Workdir(write_run(folder, label, logits, **words))
    return source.read(run, "csv_val", name=folder.name)


def measured(one, num_draws=200):
    return metrics.measure(one, bootstrap.draw_weights(len(one.images), num_draws))


def test_numbers_of_a_run(tmp_path):
    numbers = measured(read(tmp_path))
    assert [one.ap.value for one in numbers.classes] == pytest.approx([100 * 5 / 6, 100])
    assert numbers.map.value == pytest.approx(100 * 11 / 12)
    assert numbers.map.low <= numbers.map.value <= numbers.map.high
    first, second = numbers.classes
    assert (first.positives, first.negatives) == (2, 2)
    # The best F1 of the first class takes the first three: two of three right, both found.
    assert (first.precision, first.recall, first.f1) == pytest.approx((200 / 3, 100, 80))
    assert 1 / (1 + math.exp(-1)) < first.threshold < 1 / (1 + math.exp(-2))
    assert (second.precision, second.recall) == (100, 100)
    assert second.ap == metrics.Estimate(100, 100, 100)
    assert numbers.num_images == 4


def test_a_class_without_positives_has_no_number(tmp_path):
    label = LABEL * np.array([1, 0], np.int8)
    numbers = measured(read(tmp_path, label))
    assert not numbers.classes[1].ap.is_known
    assert math.isnan(numbers.classes[1].f1)
    assert numbers.map.value == pytest.approx(100 * 5 / 6)


def test_draws_are_fewer_where_there_is_more_to_compute():
    assert metrics.num_draws(1449, 20) == 1000
    assert metrics.num_draws(5800, 80) == 1000
    assert metrics.num_draws(40_000, 80) == 156
    assert metrics.num_draws(1_000_000, 1000) == 100


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    one = measured(read(tmp_path))
    assert metrics.map_gain(one, one) == metrics.Estimate(0, 0, 0)


def test_the_difference_is_that_of_the_same_draws(tmp_path):
    first = read(tmp_path / "a")
    better = LOGITS * np.array([[1, 1], [-1, 1], [1, 1], [1, 1]], np.float32)
    other = read(tmp_path / "b", logits=better)
    a, b = measured(first), measured(other)
    assert metrics.map_gain(a, b).value == pytest.approx(100 / 12)
    gains = metrics.class_gains(a, b)
    assert [gain.name for gain in gains] == ["class 0000", "class 0001"]
    assert gains[0].difference.value == pytest.approx(100 / 6)
    # No draw can make the other worse, as that of two independent draws could.
    assert gains[0].difference.low >= 0
    assert gains[1].difference == metrics.Estimate(0, 0, 0)


def test_the_interval_of_map_holds_it_however_many_classes_there_are(tmp_path):
    """Images that are drawn twice raise AP, in every class: the draws alone lie too high."""
    label, logits = labels_and_logits(200, 60, positives=0.02)
    numbers = measured(read(tmp_path, label, logits), num_draws=100)
    assert np.nanmean(numbers.map_drawn) > numbers.map.value + 0.5
    middle = (numbers.map.low + numbers.map.high) / 2
    assert middle == pytest.approx(numbers.map.value, abs=0.5)
    assert numbers.map.low < numbers.map.value < numbers.map.high
