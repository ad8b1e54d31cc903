"""--mode=eval end to end: what it reads of a run, and splits without labels."""

import json
import shutil

import numpy as np
import pytest

from oass_jax.evaluation import evaluator, thresholds
from oass_jax.evaluation.precision_recall import precision_recall, predicted
from oass_jax.run.workdir import Workdir
from oass_jax.training import build as training_build
from oass_jax.training import optimizer
from tests.commands import call, complete_checkpoints, finish, recomputed_summary, words


@pytest.fixture
def trained(six_steps):
    return six_steps[0]


def test_evaluation_reads_the_model_alone_and_builds_no_optimiser(
    trained, digits, tmp_path, monkeypatch
):
    folder = shutil.copytree(trained, tmp_path / "run")
    evaluation = folder / "eval" / "digit_scenes_val[:48]"
    with np.load(evaluation / "scores.npz") as arrays:
        expected = dict(arrays)
    shutil.rmtree(evaluation)
    shutil.rmtree(folder / "checkpoints" / "6" / "optimizer")
    with monkeypatch.context() as patched:
        for module in (optimizer, training_build):
            patched.delattr(module, "create_optimizer")
        done = call(words(digits, folder, "--mode=eval"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("restored the checkpoint of step 6\n")
    with np.load(evaluation / "scores.npz") as arrays:
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name])


def test_training_resumes_from_the_last_checkpoint_with_an_optimiser(trained, digits, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "6" / "optimizer")
    before = (folder / "checkpoints" / "6" / "record" / "metadata").read_bytes()
    done = call(words(digits, folder))
    assert done.returncode == 0, done.stderr
    assert "resumed from the checkpoint of step 4\n" in done.stdout
    # And the checkpoint is whole again, bit for bit.
    assert (folder / "checkpoints" / "6" / "record" / "metadata").read_bytes() == before
    assert (folder / "checkpoints" / "6" / "optimizer").is_dir()
    for step in complete_checkpoints(folder):
        shutil.rmtree(folder / "checkpoints" / str(step) / "optimizer")
    done = call(words(digits, folder))
    assert done.returncode == 2
    assert "can be read; remove the folder to start again" in done.stderr


def test_the_summary_says_how_the_evaluation_was_made(trained, digits, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    settings = {"image_px": 64, "scales": (0.5,), "flip": True, "difficult": "ignore"}
    changes = [f"--config.eval.{name}={value}" for name, value in settings.items()]
    split = "--config.eval.split=val[48:64]"
    best = "--config.eval.checkpoint=best"
    done = call(words(digits, folder, "--mode=eval", split, best, *changes))
    assert done.returncode == 0, done.stderr
    path = folder / "eval" / "digit_scenes_val[48:64]" / "summary.json"
    summary = json.loads(path.read_text())
    made = settings | {"scales": [0.5], "dataset": "digit_scenes", "split": "val[48:64]"}
    made |= {"checkpoint": "best", "weights": "student", "logits": "base", "num_images": 16}
    assert {name: summary[name] for name in made} == made


def test_a_later_evaluation_is_not_replaced(trained, digits, tmp_path, monkeypatch):
    """By one that was begun beside a training, and ends after it."""
    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "eval" / "digit_scenes_val[:48]" / "summary.json"
    read = evaluator.read_batches

    def read_beside_a_training(*args):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 7}))
        yield from read(*args)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "read_batches", read_beside_a_training)
        done = call(words(digits, folder, "--mode=eval"))
    assert done.returncode == 2
    assert "step 7 was evaluated meanwhile: " in done.stderr
    assert json.loads(path.read_text())["step"] == 7
    # What was there before is replaced, as where the checkpoint of that step is damaged.
    done = call(words(digits, folder, "--mode=eval"))
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["step"] == 6


def arrays_of(evaluation):
    with np.load(evaluation / "scores.npz") as arrays:
        return dict(arrays)


def test_training_leaves_the_thresholds_of_its_last_evaluation(trained):
    folder = Workdir(trained)
    evaluation = folder.evaluation("digit_scenes", "val[:48]")
    found = thresholds.read(folder, folder.read_classes())
    assert found.source == "digit_scenes val[:48], 48 images, step 6, student weights"
    arrays = arrays_of(evaluation)
    expected = thresholds.best_f1(arrays["prediction"], arrays["label"], source=found.source)
    np.testing.assert_array_equal(found.probability, expected.probability)
    summary = json.loads((evaluation / "summary.json").read_text())
    guess = thresholds.predicted_by_halves(arrays["prediction"], arrays["label"])
    quality = precision_recall(guess, arrays["label"])
    assert summary["precision_recall"]["best_f1"] == quality.overview()


def test_another_split_is_measured_at_the_thresholds_of_the_run(trained, digits, tmp_path):
    folder = Workdir(shutil.copytree(trained, tmp_path / "run"))
    before = folder.thresholds.read_bytes()
    stored = thresholds.read(folder, folder.read_classes())
    evaluate = words(digits, folder.root, "--mode=eval", "--config.eval.split=val[48:80]")
    done = call(evaluate)
    assert done.returncode == 0, done.stderr
    assert folder.thresholds.read_bytes() == before
    assert f"(thresholds of {stored.source})\n" in done.stdout
    evaluation = folder.evaluation("digit_scenes", "val[48:80]")
    arrays = arrays_of(evaluation)
    guess = predicted(arrays["prediction"], thresholds=stored.probability)
    summary = json.loads((evaluation / "summary.json").read_text())
    expected = precision_recall(guess, arrays["label"]).overview()
    assert summary["precision_recall"]["best_f1"] == expected
    assert summary["thresholds_of"] == stored.source
    again = recomputed_summary(evaluation / "scores.npz")
    assert again == {name: summary[name] for name in again}
    # A run older than its thresholds, or one whose file is damaged.
    folder.thresholds.write_text("{")
    assert call(evaluate).returncode == 0
    summary = json.loads((evaluation / "summary.json").read_text())
    assert "best_f1" not in summary["precision_recall"]
    # The split of the training gives them back, but only for what the run predicts with.
    done = call(words(digits, folder.root, "--mode=eval", "--config.eval.weights=ema"))
    assert done.returncode == 0, done.stderr
    assert "(best F1, by halves)\n" in done.stdout
    assert folder.thresholds.read_text() == "{"
    assert call(words(digits, folder.root, "--mode=eval")).returncode == 0
    assert folder.thresholds.read_bytes() == before


def test_a_split_without_labels_gives_files_for_the_server_and_no_score(
    voc_files, write_tar, tmp_path
):
    files, folder = voc_files(), tmp_path / "run"
    files["ImageSets/Main/test.txt"] = b"2011_000005\n2011_000006\n2011_000007\n"
    write_tar(tmp_path / "x.tar", files)
    command = words(
        tmp_path / "data",
        folder,
        f"--config.data.manual_dir={tmp_path}",
        "--config.data.dataset=voc/2012",
        "--config.data.split=train",
        "--config.eval.split=val",
        "--config.batch_size=2",
        "--config.num_epochs=1",
        config="demo:supervised",
    )
    refused = call([*command, "--config.eval.split=test"])
    assert refused.returncode == 2
    message = "error: voc/2012 test has no labels, which training needs: set eval.split"
    assert refused.stderr.splitlines()[-1].startswith(message)
    finish(command)
    done = call([*command, "--mode=eval", "--config.eval.split=test"])
    assert done.returncode == 0, done.stderr
    target = folder / "eval" / "voc-2012_test"
    _, line = done.stdout.splitlines()
    assert line == (
        "voc/2012 test, 3 images, step 6: there are no labels to score the predictions with; "
        f"{target}/results.tgz is for the server"
    )
    summary = json.loads((target / "summary.json").read_text())
    assert summary["map"] is None
    assert set(summary["precision_recall"]["top_3"].values()) == {None}
    assert set(summary["precision_recall"]["best_f1"].values()) == {None}
    assert summary["thresholds_of"] == "voc/2012 val, 3 images, step 6, student weights"
    assert len(list((target / "results/VOC2012/Main").glob("comp2_cls_test_*.txt"))) == 20
    assert "voc-2012_test" not in (folder / "README.md").read_text()
