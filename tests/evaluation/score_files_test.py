import json
import tarfile

import numpy as np
import pytest

from oass_jax.evaluation import average_precision, score_files, thresholds
from oass_jax.evaluation.precision_recall import precision_recall, probability
from oass_jax.run.workdir import Workdir
from tests.commands import recomputed_summary

CLASS_NAMES = ("cat", "dog", "owl")
LABEL = np.array([[1, 0, 0], [0, 1, 0], [1, -1, 0]], np.int8)
LOGITS = np.array([[2.0, -1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 9.0, -2.0]], np.float32)
OWN = thresholds.best_f1(LOGITS, LABEL, source="here")
OTHER = OWN._replace(probability=probability(np.array([1.5, -2.0, 3.0])), source="csv val")


def write(root, *, dataset="voc/2012", split="val", label=LABEL, chosen=OWN, thresholds_of=None):
    about = {"dataset": dataset, "split": split, "step": 7, "weights": "student"}
    evaluation = score_files.Evaluation(
        dataset=dataset,
        split=split,
        challenge="VOC2012" if dataset == "voc/2012" else None,
        competition="comp2",
        class_names=CLASS_NAMES,
        filenames=["a.jpg", "b,.jpg", "ç.jpg"],
        label=label,
        prediction=LOGITS,
        scores={"student/base": LOGITS, "ema/base": -LOGITS},
        result=average_precision.mean_average_precision(LOGITS, label),
        thresholds=chosen,
        thresholds_of=thresholds_of,
        keeps_thresholds=thresholds_of is None,
        summary=score_files.summarize(
            CLASS_NAMES,
            LOGITS,
            label,
            threshold=chosen and chosen.probability,
            thresholds_of=thresholds_of,
        )
        | about,
    )
    folder = Workdir(root)
    score_files.write(folder, evaluation)
    return folder.evaluation(dataset, split)


def table_of(folder):
    return score_files.result_table(json.loads((folder / "summary.json").read_text()), folder)


def test_summary_and_tables(tmp_path):
    folder = write(tmp_path)
    assert folder == tmp_path / "eval" / "voc-2012_val"
    summary = json.loads((folder / "summary.json").read_text())
    # The cat's positives rank first and third: (1 + 2/3) / 2.
    assert summary["ap"] == {"cat": pytest.approx(500 / 6), "dog": 100.0, "owl": None}
    assert summary["map"] == pytest.approx((500 / 6 + 100) / 2)
    assert summary["absent"] == ["owl"]
    assert summary["num_images"] == 3
    assert summary["step"] == 7
    predictions = (folder / "predictions.csv").read_text().splitlines()
    assert predictions[0] == "image,cat,dog,owl"
    assert predictions[2] == '"b,.jpg",0.731058579,0.952574127,0.622459331'
    per_class = (folder / "per_class.csv").read_text().splitlines()
    assert per_class[0] == (
        "class,ap,ap_voc,positives,negatives,precision,recall,f1,"
        "threshold,precision_at_threshold,recall_at_threshold,f1_at_threshold"
    )
    assert per_class[1:] == [
        # All cats are best: half of the lowest probability, that of logit 0.
        "cat,83.3333,83.3333,2,1,66.6667,100.0000,80.0000,0.25,66.6667,100.0000,80.0000",
        # Between the logits 3 and -1; 9 is ignored.
        "dog,100.0000,100.0000,1,1,100.0000,100.0000,100.0000,0.610758,100.0000,100.0000,100.0000",
        "owl,nan,nan,0,3,nan,nan,nan,0.5,nan,nan,nan",
    ]


def test_precision_and_recall_of_the_summary(tmp_path):
    summary = json.loads((write(tmp_path) / "summary.json").read_text())
    # Predicted: three cats, two of them right; one dog; two owls that are none.
    expected = {"cp": 250 / 3, "cr": 100, "cf1": 1000 / 11, "op": 50, "or": 100, "of1": 200 / 3}
    by_rule = summary["precision_recall"]
    assert list(by_rule) == ["threshold_0.5", "top_3", "best_f1"]
    assert by_rule["threshold_0.5"] == by_rule["top_3"] == pytest.approx(expected)


def test_on_the_split_thresholds_were_chosen_on_they_are_measured_by_halves(tmp_path):
    folder = write(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    guess = thresholds.predicted_by_halves(LOGITS, LABEL)
    assert summary["precision_recall"]["best_f1"] == precision_recall(guess, LABEL).overview()
    assert "thresholds_of" not in summary
    np.testing.assert_array_equal(
        thresholds.read(Workdir(tmp_path), CLASS_NAMES).probability, OWN.probability
    )


def test_on_another_split_the_thresholds_of_the_workdir_are_measured_and_kept(tmp_path):
    folder = write(tmp_path, chosen=OTHER, thresholds_of="csv val, 9 images")
    summary = json.loads((folder / "summary.json").read_text())
    # Predicted: the first cat, the dog (and an ignored one) and an absent one, no owl.
    cp, cr, op, or_ = 75, 75, 200 / 3, 200 / 3
    expected = {"cp": cp, "cr": cr, "cf1": 75, "op": op, "or": or_, "of1": 200 / 3}
    assert summary["precision_recall"]["best_f1"] == pytest.approx(expected)
    assert summary["thresholds_of"] == "csv val, 9 images"
    table = table_of(folder)
    assert "  CF1 75.00  OF1 66.67 (thresholds of csv val, 9 images)\n" in table
    assert not (tmp_path / "thresholds.json").exists()
    per_class = (folder / "per_class.csv").read_text().splitlines()
    assert per_class[1].endswith(",0.817574,100.0000,50.0000,66.6667")
    assert per_class[2].endswith(",0.119203,50.0000,100.0000,66.6667")
    assert recomputed_summary(folder / "scores.npz").items() <= summary.items()


def test_without_thresholds_there_are_two_rules(tmp_path):
    folder = write(tmp_path, chosen=None)
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["precision_recall"]) == ["threshold_0.5", "top_3"]
    assert not (tmp_path / "thresholds.json").exists()
    per_class = (folder / "per_class.csv").read_text().splitlines()
    assert per_class[1].endswith(",80.0000,nan,nan,nan,nan")
    assert recomputed_summary(folder / "scores.npz").items() <= summary.items()


def test_the_table_of_an_evaluation(tmp_path):
    folder = write(tmp_path)
    table = table_of(folder)
    assert "owl        no positives" in table
    assert "mAP         91.67" in table
    f1 = "CF1 90.91  OF1 66.67"
    assert f"\n  {f1} (threshold 0.5)\n  {f1} (top 3)\n" in table
    assert table.splitlines()[-2].endswith(" (best F1, by halves)")
    assert table.endswith(f"written to {folder}")


def test_the_arrays_need_no_pickle_and_give_the_summary_again(tmp_path):
    folder = write(tmp_path)
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        assert arrays["image"].tolist() == ["a.jpg", "b,.jpg", "ç.jpg"]
        assert arrays["class_name"].tolist() == list(CLASS_NAMES)
        np.testing.assert_array_equal(arrays["label"], LABEL)
        np.testing.assert_array_equal(arrays["prediction"], LOGITS)
        np.testing.assert_array_equal(arrays["ema/base"], -LOGITS)
        dtypes = {name: arrays[name].dtype.name for name in ("label", "prediction", "ema/base")}
    assert dtypes == {"label": "int8", "prediction": "float32", "ema/base": "float32"}
    again = recomputed_summary(folder / "scores.npz")
    summary = json.loads((folder / "summary.json").read_text())
    about = {"dataset": "voc/2012", "split": "val", "step": 7, "weights": "student"}
    assert again | about == summary


def test_a_challenge_gets_files_for_its_server_and_others_do_not(tmp_path):
    folder = write(tmp_path, split="test")
    path = "results/VOC2012/Main/comp2_cls_test_cat.txt"
    assert (folder / path).read_text() == "a 2.0\nb, 1.0\nç 0.0\n"
    with tarfile.open(folder / "results.tgz") as tar:
        assert tar.extractfile(path).read() == (folder / path).read_bytes()
        assert len(tar.getnames()) == 3
    other = write(tmp_path, dataset="digit_scenes")
    assert {p.name for p in other.iterdir()} == {
        "summary.json",
        "per_class.csv",
        "predictions.csv",
        "scores.npz",
    }


def test_a_split_without_labels_is_told_in_one_line(tmp_path):
    folder = write(tmp_path, split="test", label=np.zeros_like(LABEL))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["map"] is None
    assert summary["map_voc"] is None
    assert set(summary["ap"].values()) == {None}
    assert set(summary["precision_recall"]["threshold_0.5"].values()) == {None}
    assert table_of(folder) == (
        "voc/2012 test, 3 images, step 7: there are no labels to score the predictions with; "
        f"{folder}/results.tgz is for the server"
    )
    other = write(tmp_path, dataset="digit_scenes", label=np.zeros_like(LABEL))
    assert table_of(other).endswith(f"with; see {other}")
