import itertools
import json
import logging

import numpy as np
import pytest
import scipy.special
from sklearn.metrics import f1_score

from oass_jax.evaluation import predict, thresholds
from oass_jax.evaluation.precision_recall import precision_recall, predicted, probability
from oass_jax.run.workdir import Workdir

NAN = float("nan")


def column(*values):
    """A class alone: probabilities as logits, or labels."""
    return np.array(values)[:, None]


def logits_of(*probabilities):
    return scipy.special.logit(column(*probabilities))


def random_labels(seed, *, num=60, num_classes=6):
    """Logits with many ties, and labels of which some are ignored."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num, num_classes)) < 0.3).astype(np.int8)
    logits = np.round(rng.normal(size=labels.shape) + labels, 1).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = -1
    return logits, labels


def numbers(found):
    """What a class of its own has been given: threshold, precision, recall, F1."""
    return [float(x[0]) for x in found[:4]]


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        # F1 after each rank: 2/3, 1/2, 4/5, 2/3.
        ((0.9, 0.8, 0.6, 0.2), (1, 0, 1, 0), (0.4, 200 / 3, 100, 80)),
        # 2/3, 1/2, 2/5, 2/3: of the equal ones the first.
        ((0.9, 0.8, 0.6, 0.2), (1, 0, 0, 1), (0.85, 100, 50, 200 / 3)),
        # A threshold takes both of 0.6 or none: 2/3 of one, 4/5 of three.
        ((0.9, 0.6, 0.6, 0.2), (1, 0, 1, 0), (0.4, 200 / 3, 100, 80)),
        # What is ignored is neither counted nor neighbour.
        ((0.9, 0.7, 0.5, 0.2), (1, -1, 0, 0), (0.7, 100, 100, 100)),
        # Below the last there is 0.
        ((0.9, 0.8, 0.4), (1, 1, 1), (0.2, 100, 100, 100)),
        ((0.9, 0.8, 0.4), (0, -1, 0), (0.5, NAN, NAN, NAN)),
        ((0.9, 0.8, 0.4), (-1, -1, -1), (0.5, NAN, NAN, NAN)),
        ((), (), (0.5, NAN, NAN, NAN)),
    ],
)
def test_best_f1_by_hand(probabilities, labels, expected):
    found = thresholds.best_f1(logits_of(*probabilities), column(*labels), source="here")
    assert numbers(found) == pytest.approx(expected, nan_ok=True)
    assert found.positives.tolist() == [labels.count(1)]
    assert (found.rule, found.source) == ("best F1", "here")


def test_between_neighbours_among_the_floats_the_lower_one_is_not_accepted():
    logits = 1 + np.arange(40) * np.spacing(1.0)
    _, first = np.unique(probability(logits), return_index=True)
    for lower, accepted in itertools.pairwise(logits[first]):
        found = thresholds.best_f1(column(lower, accepted), column(0, 1), source="")
        assert probability(lower) < found.probability[0] <= probability(accepted)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better(seed):
    logits, labels = random_labels(seed)
    found = thresholds.best_f1(logits, labels, source="")
    for c in range(labels.shape[1]):
        known = labels[:, c] >= 0
        truth, scores = labels[known, c], probability(logits[known, c])
        by_threshold = {t: 100 * f1_score(truth, scores >= t) for t in np.unique(scores)}
        best = max(by_threshold.values())
        highest = max(t for t, f1 in by_threshold.items() if f1 == best)
        assert found.f1[c] == pytest.approx(best)
        np.testing.assert_array_equal(scores >= found.probability[c], scores >= highest)
        assert found.probability[c] not in scores


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        # Precision after each rank: 1/2 after both of 0.9, 2/3, 3/4, 3/5, 1/2.
        (0.75, (0.5, 75, 100)),
        (0.7, (0.5, 75, 100)),
        (0.6, (0.3, 60, 100)),
        (0.5, (0.1, 50, 100)),
        (0.01, (0.1, 50, 100)),
        # There is none so high: the best there is.
        (0.76, (0.5, 75, 100)),
        (1, (0.5, 75, 100)),
    ],
)
def test_a_wanted_precision_by_hand(wanted, expected):
    logits = logits_of(0.9, 0.9, 0.8, 0.6, 0.4, 0.2)
    found = thresholds.for_precision(logits, column(1, 0, 1, 1, 0, 0), wanted, source="here")
    assert numbers(found)[:3] == pytest.approx(expected)
    assert (found.rule, found.source) == (f"precision >= {wanted:g}", "here")
    assert (found.precision[0] < 100 * wanted) == (wanted > 0.75)


def test_of_the_highest_precision_there_is_the_lowest_threshold():
    # 1/2 after two and after four.
    found = thresholds.for_precision(
        logits_of(0.9, 0.8, 0.6, 0.4, 0.2), column(0, 1, 0, 1, 0), 0.9, source=""
    )
    assert numbers(found)[:3] == pytest.approx([0.3, 50, 100])


def test_a_wanted_precision_without_positives():
    found = thresholds.for_precision(logits_of(0.9, 0.8), column(0, -1), 0.9, source="")
    assert numbers(found) == pytest.approx([0.5, NAN, NAN, NAN], nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wanted", [0.3, 0.5, 0.8, 1])
def test_no_threshold_of_the_wanted_precision_is_lower(seed, wanted):
    logits, labels = random_labels(seed)
    found = thresholds.for_precision(logits, labels, wanted, source="")
    for c in range(labels.shape[1]):
        known = labels[:, c] >= 0
        truth, scores = labels[known, c] == 1, probability(logits[known, c])
        by_threshold = {t: truth[scores >= t].mean() for t in np.unique(scores)}
        reachable = min(wanted, max(by_threshold.values()))
        lowest = min(t for t, precision in by_threshold.items() if precision >= reachable)
        np.testing.assert_array_equal(scores >= found.probability[c], scores >= lowest)
        assert (found.precision[c] >= 100 * wanted) == (reachable == wanted)


@pytest.mark.parametrize("wanted", [0, -0.5, 1.01, 90, NAN])
def test_a_wanted_precision_is_a_share(wanted):
    with pytest.raises(ValueError, match="is a share, above 0 and at most 1, not"):
        thresholds.for_precision(logits_of(0.9), column(1), wanted, source="")


def test_each_half_is_decided_by_the_other():
    logits, labels = random_labels(0)
    found = thresholds.predicted_by_halves(logits, labels)
    halves = np.array_split(np.random.RandomState(0).permutation(len(logits)), 2)
    assert sorted(np.concatenate(halves)) == list(range(len(logits)))
    for half, other in (halves, halves[::-1]):
        chosen = thresholds.best_f1(logits[other], labels[other], source="")
        expected = predicted(logits[half], thresholds=chosen.probability)
        np.testing.assert_array_equal(found[half], expected)
        # Labels of its own change nothing.
        changed = labels.copy()
        changed[half] = 1 - changed[half] ** 2
        again = thresholds.predicted_by_halves(logits, changed)
        np.testing.assert_array_equal(again[half], found[half])


def test_halves_are_less_than_what_was_chosen_for():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 50)), (rng.random((40, 50)) < 0.2).astype(int)
    in_sample = thresholds.best_f1(logits, labels, source="").f1.mean()
    by_halves = precision_recall(thresholds.predicted_by_halves(logits, labels), labels).f1.mean()
    # Of noise the F1 to expect is a third at most, that of predicting everything.
    assert by_halves < 100 / 3 < in_sample


def test_the_halves_do_not_depend_on_the_order_images_are_read_in():
    logits, labels = random_labels(1)

    def by_halves(order):
        batches = [{"index": part} for part in np.array_split(order, 7)]

        def predict_fn(batch):
            index = batch["index"]
            scores = {"student": {"base": logits[index]}}
            mask = np.ones(len(index), bool)
            return {"scores": scores, "label": labels[index], "index": index, "mask": mask}

        found = predict.predict(predict_fn, batches)
        return thresholds.predicted_by_halves(found.scores["student"]["base"], found.label)

    order = np.arange(len(logits))
    expected = thresholds.predicted_by_halves(logits, labels)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(order)
        np.testing.assert_array_equal(by_halves(shuffled), expected)


@pytest.mark.parametrize("num", [0, 1])
def test_a_half_without_images_chooses_one_half(num):
    logits = np.array([[0.1, -0.1]])[:num]
    found = thresholds.predicted_by_halves(logits, np.array([[0, 1]])[:num])
    assert found.tolist() == [[True, False]][:num]


def test_other_shapes_and_logits_that_are_not_finite_are_an_error():
    for choose in (thresholds.best_f1, thresholds.for_precision):
        also = {"wanted": 0.5} if choose is thresholds.for_precision else {}
        with pytest.raises(ValueError, match="must have one shape of 2 axes"):
            choose(np.zeros((2, 3)), np.zeros((2, 2)), source="", **also)
        with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
            choose(np.array([[NAN, 1.0]]), np.zeros((1, 2)), source="", **also)


# The file.

CLASS_NAMES = ("cat", "dog", "owl")


@pytest.fixture
def chosen():
    logits, labels = random_labels(2, num_classes=3)
    labels[:, 2] = 0
    return thresholds.best_f1(logits, labels, source="csv val, 60 images")


def test_the_file_gives_back_what_was_written_bit_for_bit(chosen, tmp_path):
    folder = Workdir(tmp_path)
    thresholds.write(folder, CLASS_NAMES, chosen)
    found = thresholds.read(folder, CLASS_NAMES)
    for name, array in chosen._asdict().items():
        np.testing.assert_array_equal(
            getattr(found, name), array, strict=not isinstance(array, str)
        )
    value = json.loads((tmp_path / "thresholds.json").read_text())
    assert (value["rule"], value["source"]) == ("best F1", "csv val, 60 images")
    assert value["classes"]["owl"] == {
        "threshold": 0.5,
        "precision": None,
        "recall": None,
        "f1": None,
        "positives": 0,
    }
    # By name, whatever the order.
    reordered = thresholds.read(folder, CLASS_NAMES[::-1])
    np.testing.assert_array_equal(reordered.probability, chosen.probability[::-1])


@pytest.mark.parametrize(
    "class_names", [("cat", "dog"), ("cat", "dog", "fox"), (*CLASS_NAMES, "fox")]
)
def test_a_file_of_other_classes_is_none(chosen, class_names, tmp_path):
    folder = Workdir(tmp_path)
    assert thresholds.read(folder, class_names) is None
    thresholds.write(folder, CLASS_NAMES, chosen)
    assert thresholds.read(folder, class_names) is None


def test_a_damaged_file_is_none(chosen, tmp_path, caplog):
    folder = Workdir(tmp_path)
    thresholds.write(folder, CLASS_NAMES, chosen)
    text = folder.thresholds.read_text()
    whole = json.loads(text)

    def changed(**changes):
        classes = whole["classes"] | {"cat": whole["classes"]["cat"] | changes}
        return json.dumps(whole | {"classes": classes})

    damaged = ["", "[1]", "{}", text[:-9], '{"classes": 3}', json.dumps(whole | {"classes": []})]
    damaged += [json.dumps({name: whole[name] for name in ("classes", "rule")})]
    damaged += [changed(threshold=x) for x in (None, 1.5, -1, "x", [0.5], {}, 10**400)]
    damaged += [changed(positives=None), changed(f1="x")]
    with caplog.at_level(logging.ERROR):
        for content in damaged:
            folder.thresholds.write_text(content)
            assert thresholds.read(folder, CLASS_NAMES) is None, content
    folder.thresholds.write_bytes(b"\xff\xfe{}")
    assert thresholds.read(folder, CLASS_NAMES) is None
