import numpy as np
import pytest

from oass_jax.figures.report import examples
from tests.reports import evaluation


def column(*values):
    return [[value] for value in values]


def images(group):
    return [example.image for example in group]


def test_images_of_a_class():
    label = column(1, 1, 1, 1, 1, 1, 1, 0, 0, 0, -1)
    logits = column(9, 8, 7, 6, 5, -1, -3, 2, 0.5, -2, 99)
    found = examples.of_class(evaluation(label, logits), 0)
    assert images(found.best) == [0, 1, 2, 3]
    assert images(found.missed) == [6, 5]
    assert images(found.false) == [7, 8]
    assert images(found.doubtful) == [9, 4]
    assert found.missed[0].probability == pytest.approx(1 / (1 + np.exp(3)))
    assert (found.best[0].label, found.false[0].label) == (1, 0)


def test_missed_and_false_are_those_of_the_threshold():
    label, logits = column(1, 0), column(0.5, 0.5)
    strict = examples.of_class(evaluation(label, logits, [0.9]), 0)
    assert (images(strict.missed), images(strict.false)) == ([0], [])
    lenient = examples.of_class(evaluation(label, logits, [0.1]), 0)
    assert (images(lenient.missed), images(lenient.false)) == ([], [1])


def test_labels_to_check_are_contradicted_by_far():
    label = [[1, 0], [0, 1], [1, 0], [-1, 1]]
    logits = [[-5.0, 3.0], [4.0, -1.0], [2.0, -9.0], [9.0, 1.0]]
    found, missed = examples.to_check(evaluation(label, logits))
    assert [(one.image, one.class_index) for one in found] == [(1, 0), (0, 1)]
    assert [(one.image, one.class_index) for one in missed] == [(0, 0), (1, 1)]


def test_how_far_is_seen_from_the_threshold_of_the_class():
    # A probability of 0.12 says little against a class that is predicted from 0.1.
    label, logits = [[1, 1]], [[-2.0, -2.0]]
    _, missed = examples.to_check(evaluation(label, logits, [0.15, 0.5]))
    assert [one.class_index for one in missed] == [1, 0]


def test_of_the_labels_to_check_half_are_of_either_way_or_what_there_is():
    many, few = 60, 5
    label = column(*[0] * many, *[1] * few)
    logits = column(*[1.0] * many, *[-1.0] * few)
    found, missed = examples.to_check(evaluation(label, logits))
    assert (len(found), len(missed)) == (35, 5)
    label, logits = label + [[1]] * many, logits + [[-1.0]] * many
    found, missed = examples.to_check(evaluation(label, logits))
    assert (len(found), len(missed)) == (20, 20)


def test_runs_disagree_where_probabilities_differ_most():
    label = [[1, 0], [0, 0], [1, -1]]
    first = evaluation(label, [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    other = evaluation(label, [[1.0, 0.5], [0.0, 0.0], [-2.0, 9.0]])
    found = examples.disagreements(first, other)
    assert [(one.first.image, one.first.class_index) for one in found] == [(2, 0), (0, 0)]
    assert found[0].first.probability == 0.5
    assert found[0].other.probability == pytest.approx(1 / (1 + np.exp(2)))
