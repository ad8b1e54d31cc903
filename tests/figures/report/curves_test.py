import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from oass_jax.figures.report import curves
from oass_jax.run.workdir import Workdir
from tests.reports import evaluation, labels_and_logits


def test_the_curve_is_where_positives_are_found():
    logits = np.array([5.0, 4.0, 3.0, 3.0, 2.0, 9.0])
    label = np.array([1, 0, 1, 0, 0, -1])
    recall, precision = curves.precision_recall_curve(logits, label)
    # Both images of score 3 are found at once.
    assert recall.tolist() == [50, 100]
    assert precision.tolist() == [100, 50]


def test_its_points_are_those_of_scikit_learn():
    label, logits = labels_and_logits(40, 1)
    label, logits = label[:, 0].clip(0), logits[:, 0]
    recall, precision = curves.precision_recall_curve(logits, label)
    theirs = precision_recall_curve(label, logits)
    expected = {(round(100 * r, 9), round(100 * p, 9)) for p, r in zip(*theirs[:2], strict=True)}
    assert set(zip(recall.round(9), precision.round(9), strict=True)) <= expected


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    logits = np.arange(5000, 0, -1.0)
    recall, precision = curves.precision_recall_curve(logits, np.ones(5000, int))
    assert len(recall) <= 64
    assert (recall[0], recall[-1]) == (100 / 5000, 100)
    assert set(precision) == {100}


def test_without_positives_there_is_no_curve():
    recall, _ = curves.precision_recall_curve(np.ones(3), np.zeros(3, int))
    assert not len(recall)


def test_the_slider_counts_from_each_threshold_on():
    probability = np.array([0.9, 0.5, 0.305, 0.2, 0.99])
    logits = np.log(probability / (1 - probability))[:, None]
    steps = curves.threshold_steps(evaluation([[1], [0], [1], [0], [-1]], logits, [0.303]), 0)
    assert steps.thresholds[steps.start] == 0.303
    assert (steps.hits[steps.start], steps.num_predicted[steps.start], steps.positives) == (2, 3, 2)
    by_threshold = dict(zip(steps.thresholds, steps.num_predicted, strict=True))
    assert by_threshold[0.01] == 4
    assert by_threshold[0.95] == 0
    assert len(steps.thresholds) == 100


def test_bins_are_those_of_scikit_learn_with_counts():
    label, logits = labels_and_logits(300, 4)
    probability = curves.probability(logits)
    bins = curves.bins(probability, label)
    known = label >= 0
    true, predicted = calibration_curve(label[known], probability[known], n_bins=10)
    filled = [one for one in bins if one.count]
    assert [one.true for one in filled] == pytest.approx(100 * true)
    assert [one.predicted for one in filled] == pytest.approx(100 * predicted)
    assert sum(one.positives for one in bins) == (label == 1).sum()
    assert sum(one.negatives for one in bins) == (label == 0).sum()


def test_a_probability_of_one_is_in_the_last_bin():
    bins = curves.bins(np.array([0.0, 1.0]), np.array([0, 1]))
    assert (bins[0].negatives, bins[-1].positives) == (1, 1)
    assert np.isnan(bins[5].true)


def test_pairs_are_counted_in_labels_and_predictions():
    label = [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]
    logits = [[1, 1, -1], [1, -1, -1], [1, -1, 1], [1, -1, 1]]
    found = [
        (pair.names, pair.labelled, pair.predicted)
        for pair in curves.pairs(evaluation(label, logits))
    ]
    assert found == [(("a", "b"), 2, 1), (("a", "c"), 0, 2)]


def test_metrics_are_read_but_for_what_is_damaged(tmp_path):
    lines = [
        json.dumps({"step": 1, "train/loss": 2.0, "note": "text"}),
        json.dumps({"step": 2, "train/loss": float("nan")}),
        "no json",
        json.dumps([1]),
        json.dumps({"train/loss": 1.0}),
        json.dumps({"step": 3, "train/loss": 1.0, "val/map": 50.0}),
        '{"step": 4, "train/lo',
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff")
    found = curves.read_metrics(Workdir(tmp_path))
    assert {name: (x.tolist(), y.tolist()) for name, (x, y) in found.items()} == {
        "train/loss": ([1, 3], [2.0, 1.0]),
        "val/map": ([3], [50.0]),
    }
    assert curves.read_metrics(Workdir(tmp_path / "none")) == {}


def test_a_long_training_is_thinned_and_keeps_its_ends(tmp_path):
    lines = [json.dumps({"step": step, "train/loss": 1.0}) for step in range(1, 2001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    steps, _ = curves.read_metrics(Workdir(tmp_path))["train/loss"]
    assert len(steps) == 300
    assert (steps[0], steps[-1]) == (1, 2000)
