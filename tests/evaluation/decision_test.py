"""From which probability on a class is a label."""

import json

import numpy as np
import pytest

from oass_jax.errors import UserError
from oass_jax.evaluation import decision, thresholds
from oass_jax.run.workdir import Workdir

NAMES = ("cat", "dog")
LOGITS = np.array([[2.0, 1.0], [1.0, 0.0], [-1.0, -3.0], [-2.0, -2.0]], np.float32)
LABELS = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.int8)


@pytest.fixture
def folder(tmp_path):
    return Workdir(tmp_path)


def decide(rule, folder):
    return decision.decide(decision.parse(rule), folder, folder.root / "voc-2012_val", NAMES)


def write_scores(folder, names=NAMES):
    path = folder.root / "voc-2012_val" / "scores.npz"
    path.parent.mkdir()
    images = np.array([f"{number}.jpg" for number in range(len(LOGITS))])
    np.savez(path, image=images, prediction=LOGITS, label=LABELS, class_name=np.array(names))


@pytest.mark.parametrize(
    "rule", ["best", "best_f1=0.3", "recall=0.9", "precision=", "", "precision"]
)
def test_another_rule_is_refused(rule):
    with pytest.raises(UserError, match=r"is not best_f1, a probability such as 0\.5, or"):
        decision.parse(rule)


@pytest.mark.parametrize("number", ["0", "1.1", "-0.1", "nan", "inf"])
def test_a_number_is_a_probability(number):
    for rule in (number, float(number), f"precision={number}"):
        with pytest.raises(UserError, match="is not best_f1"):
            decision.parse(rule)


@pytest.mark.parametrize("rule", [0.3, "0.3"])
def test_a_number_is_for_every_class(folder, rule):
    decided = decide(rule, folder)
    np.testing.assert_array_equal(decided.threshold, [0.3, 0.3])
    assert decided.source == "0.3 for every class"


def test_the_thresholds_of_the_run_come_first(folder):
    chosen = thresholds.best_f1(LOGITS, LABELS, source="voc/2012 val, 4 images")
    thresholds.write(folder, NAMES, chosen)
    decided = decide("best_f1", folder)
    np.testing.assert_allclose(decided.threshold, chosen.probability)
    assert decided.source == "best F1 on voc/2012 val, 4 images"


def test_a_run_without_thresholds_says_that_it_is_a_half(folder):
    decided = decide("best_f1", folder)
    np.testing.assert_array_equal(decided.threshold, [0.5, 0.5])
    assert decided.source.startswith("0.5 for every class: ")
    assert "thresholds.json is missing" in decided.source


def test_a_precision_is_that_of_the_validation(folder):
    write_scores(folder)
    decided = decide("precision=1", folder)
    # The image that ranks first has a cat, but no dog.
    predicted = 1 / (1 + np.exp(-LOGITS)) >= decided.threshold
    assert predicted[:, 0].tolist() == [True, False, False, False]
    assert "precision >= 1 on voc-2012_val, 4 images" in decided.source
    assert decided.source.endswith("no threshold has it for dog")


def test_a_precision_needs_an_evaluation_of_the_same_classes(folder):
    with pytest.raises(UserError, match=r"precision=0\.9 needs .*scores\.npz is missing"):
        decide("precision=0.9", folder)
    write_scores(folder, ("dog", "cat"))
    with pytest.raises(UserError, match="other classes"):
        decide("precision=0.9", folder)


def test_a_precision_is_not_taken_of_scores_that_were_made_otherwise(folder):
    write_scores(folder)
    folder.config.write_text(json.dumps({"eval": {"weights": "student", "scales": [1.0]}}))
    summary = folder.root / "voc-2012_val" / "summary.json"
    summary.write_text(json.dumps({"weights": "student", "scales": [1.0], "step": 7}))
    assert decide("precision=0.9", folder).step == 7
    summary.write_text(json.dumps({"weights": "ema", "scales": [1.0], "step": 7}))
    sentence = "was evaluated with eval.weights=ema, and the run predicts with student: evaluate"
    with pytest.raises(UserError, match=sentence):
        decide("precision=0.9", folder)
