import numpy as np
import pytest

from oass_jax.errors import UserError
from oass_jax.figures import source
from oass_jax.run.workdir import Workdir
from tests.reports import labels_and_logits, names, write_run

LABEL, LOGITS = labels_and_logits(12, 3)
IMAGES = names(12, "", ".jpg")


@pytest.fixture
def run(tmp_path):
    return Workdir(write_run(tmp_path / "run", LABEL, LOGITS))


def test_an_evaluation_is_read_as_it_was_written(run):
    found = source.read(run, "csv_val", name="run")
    assert found.images[:2] == ("0000.jpg", "0001.jpg")
    assert found.class_names == ("class 0000", "class 0001", "class 0002")
    np.testing.assert_array_equal(found.label, LABEL)
    np.testing.assert_array_equal(found.logits, LOGITS)
    assert found.has_thresholds
    assert found.thresholds_of is None


def test_without_thresholds_it_is_a_half(run):
    path = run.root / "eval" / "csv_val" / "scores.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "threshold"}
    np.savez(path, **kept)
    found = source.read(run, "csv_val", name="run")
    assert not found.has_thresholds
    assert found.threshold.tolist() == [0.5] * 3


def test_the_validation_split_is_the_default(tmp_path, run):
    write_run(run.root, LABEL, LOGITS, split="a")
    assert source.choose_evaluation([run], None) == "csv_val"
    assert source.choose_evaluation([run], "csv_a") == "csv_a"


def test_else_the_only_one(tmp_path):
    run = Workdir(write_run(tmp_path, LABEL, LOGITS, split="test"))
    assert source.choose_evaluation([run], None) == "csv_test"


def test_of_several_others_one_has_to_be_chosen(tmp_path):
    for split in ("a", "b"):
        write_run(tmp_path, LABEL, LOGITS, split=split)
    with pytest.raises(UserError, match="choose one as --eval, there are csv_a, csv_b"):
        source.choose_evaluation([Workdir(tmp_path)], None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("csv_vall", "did you mean csv_val"), ("csv_test", r"has no evaluation csv_test: .*csv_val")],
)
def test_an_evaluation_that_there_is_not(run, wanted, message):
    with pytest.raises(UserError, match=message):
        source.choose_evaluation([run], wanted)


def test_every_run_must_have_it(tmp_path, run):
    other = Workdir(write_run(tmp_path / "other", LABEL, LOGITS, split="test"))
    with pytest.raises(UserError, match="other has no evaluation csv_val"):
        source.choose_evaluation([run, other], None)


def test_a_run_that_was_not_evaluated(run):
    (run.root / "eval" / "csv_val" / "summary.json").unlink()  # which is written last
    with pytest.raises(UserError, match="there are none; to make one, evaluate with --mode=eval"):
        source.choose_evaluation([run], None)


def test_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        source.choose_evaluation([Workdir(tmp_path / "empty")], None)
    with pytest.raises(UserError, match=r"did you mean .*empty\?"):
        source.choose_evaluation([Workdir(tmp_path / "emty")], None)


def test_a_missing_or_damaged_file_is_named(run):
    target = run.root / "eval" / "csv_val"
    (target / "scores.npz").unlink()
    with pytest.raises(UserError, match=r"scores\.npz is missing"):
        source.read(run, "csv_val", name="run")
    (target / "summary.json").write_text('{"map": 1')
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        source.read(run, "csv_val", name="run")


def test_without_labels_there_is_nothing_to_report(tmp_path):
    run = Workdir(write_run(tmp_path, np.zeros_like(LABEL), LOGITS))
    with pytest.raises(UserError, match="has no labels to compare the predictions with"):
        source.read(run, "csv_val", name="run")


def read(folder, label=LABEL, logits=LOGITS, **words):
    return source.read(Workdir(write_run(folder, label, logits, **words)), "csv_val", name="run")


def test_images_are_matched_by_name(tmp_path):
    first = read(tmp_path / "a", images=IMAGES)
    other = read(tmp_path / "b", LABEL[::-1], LOGITS[::-1], images=IMAGES[::-1])
    again = source.aligned(first, other)
    assert again.images == first.images
    np.testing.assert_array_equal(again.logits, first.logits)
    np.testing.assert_array_equal(again.label, first.label)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [*IMAGES[:-1], "x.jpg"]}, r"2 are in one .*0011\.jpg"),
        ({"class_names": ["a", "b", "c"]}, "have other classes"),
        ({"label": np.ones_like(LABEL)}, "with other labels: .*eval.difficult"),
    ],
)
def test_other_evaluations_are_not_compared(tmp_path, changes, message):
    first = read(tmp_path / "a")
    other = read(tmp_path / "b", **changes)
    with pytest.raises(UserError, match=message):
        source.aligned(first, other)


def test_runs_are_named_as_briefly_as_tells_them_apart(tmp_path):
    folders = [Workdir(tmp_path / name) for name in ("a/seed0", "b/seed0", "c")]
    assert source.short_names(folders[1:]) == ["seed0", "c"]
    names = source.short_names(folders)
    assert names[:2] == ["a/seed0", "b/seed0"]
    assert source.short_names([folders[0], folders[0]]) == ["seed0", "seed0"]
