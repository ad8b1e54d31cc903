"""End to end on real scenes with the tiny network: training, and what it leaves."""

import contextlib
import csv
import functools
import json
import re
import shlex
import shutil
import signal
import sys
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from oass_jax import config_file
from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import average_precision, evaluator, score_files
from oass_jax.run import model_card
from oass_jax.run.console import Console
from oass_jax.run.workdir import Workdir
from oass_jax.training import build as training_build
from oass_jax.training import loop, monitor
from oass_jax.training.metric_writer import MetricWriter
from tests.commands import (
    COMMAND,
    call,
    complete_checkpoints,
    environment,
    events,
    leaves,
    losses,
    recomputed_summary,
    rows,
    without_rates,
    words,
)
from tests.commands import run as run_process

STEPS = 6
EVALUATION = "eval/digit_scenes_val[:48]"


def test_the_workdir_is_complete(six_steps):
    folder, _ = six_steps
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    expected = {"README.md", "config.json", "env.json", "classes.txt", "metrics.jsonl"}
    expected |= {"thresholds.json"}
    files = ("summary.json", "per_class.csv", "predictions.csv", "scores.npz")
    found = {name for name in names if name.startswith("eval/")}
    assert found == {f"{EVALUATION}/{name}" for name in files}
    assert expected <= names
    assert not [name for name in names if "tmp" in name]
    assert sorted(int(p.name) for p in (folder / "checkpoints").iterdir())[-1] == STEPS
    env_json = json.loads((folder / "env.json").read_text())
    assert env_json["starts"][0]["end"]
    assert env_json["starts"][0]["packages"]["jax"]
    assert "mAP" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("page", "method"),
    [
        ("supervised", "supervised"),
        ("puzzlecam", "siamese teacher, keypoint center"),
        ("ctopk_w_csi", "ema teacher, keypoint ctopk_w, class-specific instances"),
        ("mcar", "4 regions of MCAR"),
        ("ssgrl", "SSGRL's graph"),
    ],
)
def test_the_title_says_what_makes_the_method(page, method):
    config = config_file.load(page)
    assert (
        model_card.title(config_file.flatten(config.to_dict())) == f"resnet50 on voc/2012, {method}"
    )


def test_the_summary_can_be_computed_from_the_predictions(six_steps, digits):
    folder, _ = six_steps
    summary = json.loads((folder / EVALUATION / "summary.json").read_text())
    with (folder / EVALUATION / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    split = pipeline.open_split("digit_scenes", "val[:48]", pipeline.Location(data_dir=digits))
    assert [row["image"] for row in table] == [split.filename(i) for i in range(48)]
    scores = np.array([[float(row[name]) for name in split.class_names] for row in table])
    label = np.zeros_like(scores)
    for i, record in enumerate(split.source):
        label[i, record["labels"]] = 1
    result = average_precision.mean_average_precision(scores, label)
    assert summary["map"] == pytest.approx(result.map, abs=1e-6)
    assert list(summary["ap"]) == list(split.class_names)
    assert summary["num_images"] == 48
    assert Workdir(folder).read_classes() == split.class_names


def test_the_summary_can_be_computed_from_the_logits(six_steps):
    evaluation = six_steps[0] / EVALUATION
    summary = json.loads((evaluation / "summary.json").read_text())
    again = recomputed_summary(evaluation / "scores.npz")
    assert again == {name: summary[name] for name in again}
    with np.load(evaluation / "scores.npz") as arrays:
        assert {"student/base", "ema/base"} <= set(arrays)
        np.testing.assert_array_equal(arrays["prediction"], arrays["student/base"])


def test_the_summary_says_how_it_was_made(six_steps):
    summary = json.loads((six_steps[0] / EVALUATION / "summary.json").read_text())
    made = {
        "dataset": "digit_scenes",
        "split": "val[:48]",
        "step": STEPS,
        "checkpoint": "last",
        "command": shlex.join(sys.orig_argv),
        "weights": "student",
        "logits": "base",
        "difficult": "positive",
        "image_px": 32,
        "scales": [1.0],
        "flip": False,
    }
    assert {name: summary[name] for name in made} == made


def test_a_pipe_gets_a_line_each_step_and_the_table(six_steps):
    folder, out = six_steps
    assert f"step {STEPS}/{STEPS}  epoch 2.00  loss " in out
    assert "\x1b" not in out
    assert re.search(r"mAP +\d+\.\d\d", out)
    assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows(folder) if "val/map" in row] == [3, 6]
    assert {"val/map_voc", "val/map_ema", "val/ap/zero"} <= set(rows(folder)[-1])


def test_a_start_says_what_is_about_to_happen(six_steps):
    folder, out = six_steps
    for line in (
        "resnet_tiny on digit_scenes, ema teacher, keypoint max; 0.5 million parameters",
        "trains on digit_scenes train[:48]: 48 images of 10 classes, 3.0 steps an epoch, 6 in all",
        "evaluates on digit_scenes val[:48]: 48 images",
        f"writes to {folder}",
    ):
        assert f"{line}\n" in out
    assert re.search(r"compiling the training step\ncompiling the training step took \d", out)


def test_a_line_that_was_interrupted_is_that_of_the_whole_run(
    six_steps, digits, tmp_path, monkeypatch
):
    """Stopped in the middle of what is averaged, where nothing is saved by itself."""
    add = monitor.Monitor.add

    def add_and_stop(self, step, metrics):
        add(self, step, metrics)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    given = words(digits, tmp_path, "--config.log_every_steps=4")
    with monkeypatch.context() as patched:
        patched.setattr(monitor.Monitor, "add", add_and_stop)
        assert call(given).returncode == 75
    assert call(given).returncode == 0
    losses = [row for row in rows(six_steps[0]) if "train/loss" in row]
    averaged = [name for name in losses[0] if "loss" in name or "norm" in name]
    lines = {row["step"]: row for row in rows(tmp_path) if "train/loss" in row}
    for step, steps in ((4, losses[:4]), (6, losses[4:])):
        for name in averaged:
            assert lines[step][name] == sum(row[name] for row in steps) / len(steps)


def test_a_finished_run_shows_its_result_again_and_changes_nothing(six_steps, digits):
    folder, _ = six_steps
    before = (folder / "metrics.jsonl").read_text()
    done = call(words(digits, folder))
    assert done.returncode == 0
    assert "mAP" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == before


def test_another_seed_gives_other_bits(six_steps, digits, tmp_path):
    """Without this, tests that compare the bits of two runs could compare nothing."""
    done = call(words(digits, tmp_path, "--config.seed=1"))
    assert done.returncode == 0, done.stderr
    first, other = (leaves(folder, STEPS)["model"] for folder in (six_steps[0], tmp_path))
    kernels = [path for path in first if "'kernel'" in path]
    assert kernels
    assert all(first[path] != other[path] for path in kernels)


KINDS = {
    "supervised": {"loss_cls"},
    "puzzlecam": {"loss_cls", "loss_pcl", "loss_re"},
    "ctopk_w_csi": {"loss_cls", "loss_pcl", "loss_re", "loss_csi"},
    "mcar": {"loss_cls", "loss_regions"},
    "ssgrl": {"loss_cls", "loss_graph"},
}
WITH_PICTURE = "ctopk_w_csi"


@pytest.fixture(scope="session")
def one_step(digits, tmp_path_factory):
    """page -> the words and folder of a run of one step on two devices."""
    runs = {}

    def train(page):
        if page not in runs:
            folder = tmp_path_factory.mktemp(page)
            changes = ["--config.num_epochs=0.3", "--config.eval.split=val[:16]"]
            changes += [f"--config.eval.num_pictures={int(page == WITH_PICTURE)}"]
            runs[page] = words(digits, folder, *changes, config=f"demo:{page}"), folder
            done = call(runs[page][0], devices=2)
            assert done.returncode == 0, done.stderr
        return runs[page]

    return train


@pytest.mark.parametrize("page", KINDS)
def test_every_kind_of_method_runs_in_the_same_loop(one_step, page):
    _, folder = one_step(page)
    first, last = rows(folder)
    assert first["step"] == last["step"] == 1
    assert last["val/map"] > 0
    assert {name.removeprefix("train/") for name in first if "loss_" in name} == KINDS[page]
    assert all(np.isfinite(value) for value in first.values())


def test_tensorboard_shows_the_pictures_of_an_evaluation(one_step):
    _, folder = one_step(WITH_PICTURE)
    picture = folder / "eval" / "digit_scenes_val[:16]" / "pictures" / "01_val_00008.jpg"
    shown = [(event.step, value) for event in events(folder) for value in event.summary.value]
    ((step, value),) = (each for each in shown if each[1].HasField("image"))
    assert (step, value.tag) == (1, "val/01_val_00008")
    assert value.image.encoded_image_string == picture.read_bytes()


@pytest.mark.parametrize(("page", "heads"), [("puzzlecam", 1), ("ctopk_w_csi", 2)])
def test_eval_at_other_sizes_and_by_all_logits_there_are(one_step, tmp_path, page, heads):
    trained, folder = one_step(page)
    folder = shutil.copytree(folder, tmp_path / "run")
    scales = ["--config.eval.scales=(0.5,1.0)", "--config.eval.flip=True"]
    changes = [f"--workdir={folder}", "--mode=eval", "--config.eval.logits=mean", *scales]
    done = call([*trained, *changes], devices=2)
    assert done.returncode == 0, done.stderr
    evaluation = folder / "eval" / "digit_scenes_val[:16]"
    with np.load(evaluation / "scores.npz") as arrays:
        found = [array for name, array in arrays.items() if name.startswith("student/")]
        assert len(found) == heads
        np.testing.assert_allclose(arrays["prediction"], np.mean(found, axis=0), atol=1e-6)
    summary = json.loads((evaluation / "summary.json").read_text())
    assert (summary["scales"], summary["flip"], summary["logits"]) == ([0.5, 1.0], True, "mean")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.batch_size=8"], "batch_size was 16 and is now 8"),
        (["--config.teacher.mode=none"], "not of this config"),
        (["--mode=eval", "--config.eval.split=vall"], "vall"),
        (["--config.batch_size=17"], "choose a multiple of 4"),
        (["--workdir=/proc/run"], "cannot write to the workdir"),
        (["--mode=eval", "--workdir=runs/nothing"], "train there first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(changes, message, six_steps, digits):
    require_mistake(call(words(digits, six_steps[0], *changes), devices=4), message)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.optimizer.weight_decay=0",
            "has ended with other settings, optimizer.weight_decay was 0.0001, is 0.0",
        ),
        ("--config.num_epochs=1", "has made 6 steps already, and num_epochs=1 makes 3"),
        ("--config.log_every_steps=2", None),
    ],
)
def test_a_run_that_has_ended_is_not_taken_for_another(six_steps, digits, tmp_path, flag, message):
    folder = shutil.copytree(six_steps[0], tmp_path / "run")
    before = (folder / "config.json").read_bytes()
    done = call(words(digits, folder, flag))
    if message is None:
        assert done.returncode == 0
    else:
        require_mistake(done, message)
        assert (folder / "config.json").read_bytes() == before


def test_a_run_that_has_ended_is_evaluated_again_by_other_settings(six_steps, digits, tmp_path):
    """Those that it predicts by, which are in its config."""
    folder = shutil.copytree(six_steps[0], tmp_path / "run")
    done = call(words(digits, folder, "--config.eval.weights=ema"))
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / EVALUATION / "summary.json").read_text())
    assert (summary["weights"], summary["step"]) == ("ema", STEPS)
    assert Workdir(folder).fields()["eval.weights"] == "ema"
    assert "ema weights" in json.loads((folder / "thresholds.json").read_text())["source"]
    assert [row["step"] for row in rows(folder) if "val/map" in row] == [3, 6]
    assert leaves(folder, STEPS) == leaves(six_steps[0], STEPS)


def test_a_mistake_of_a_process_is_one_line_and_exit_status_2(digits, tmp_path):
    # On a cluster JAX would join what it finds there.
    places = ("KUBERNETES_", "SLURM_", "OMPI_", "JAX_COORDINATOR_", "JAX_NUM_", "JAX_PROCESS_")
    env = {name: x for name, x in environment(1).items() if not name.startswith(places)}
    done = run_process([*COMMAND, *words(digits, tmp_path, "--distributed")], env)
    require_mistake(done, "found no run to join")


def require_mistake(done, message):
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_damaged_image_does_not_cost_the_steps_before_it(tmp_path, monkeypatch, num_processes):
    """Of several processes the others would not take part in the save."""
    monkeypatch.setattr(loop.jax, "process_count", lambda: num_processes)

    def batches():
        yield from ({}, {}, {})
        raise UserError("x.jpg cannot be decoded")

    class State(NamedTuple):
        step: int

    class NeverStops(contextlib.nullcontext):
        def reached(self):
            return False

    saved = []
    writer = MetricWriter(Workdir(tmp_path), step=0)
    watched = monitor.Monitor(
        writer,
        Console(),
        start=4,
        total_steps=9,
        steps_per_epoch=9.0,
        batch_size=1,
        log_every=100,
        rates={},
        images_of=None,
        chance_loss_fn=None,
    )
    with pytest.raises(UserError, match=r"x\.jpg"):
        loop._loop(
            State(4),
            training_build.Schedule(9.0, 9, frozenset({9}), 100),
            batches(),
            train_fn=lambda state, batch: (State(state.step + 1), {"loss": 1.0}),
            monitor=watched,
            stop=NeverStops(),
            evaluation_due=False,
            evaluate_fn=lambda state, step: 0.0,
            save_fn=lambda state, **about: saved.append((state.step, about)),
        )
    writer.close()
    alone = [(7, {"step": 7, "val_map": None, "evaluation_due": False})]
    assert saved == (alone if num_processes == 1 else [])


def test_losses_that_are_not_finite_stop_a_run_and_are_never_saved(digits, tmp_path):
    changes = [
        "--config.optimizer.encoder_learning_rate=1e30",
        "--config.optimizer.head_learning_rate=1e30",
        "--config.checkpoint.every_steps=1",
    ]
    evaluated = call(words(digits, tmp_path / "evaluated", *changes))
    assert evaluated.returncode == 71
    assert "what the network of step 3 predicts is not finite; the last" in evaluated.stderr
    tmp_path /= "run"
    changes += ["--config.eval.every_epochs=2"]
    done = call(words(digits, tmp_path, *changes))
    assert done.returncode == 71
    (line,) = done.stderr.splitlines()
    step = int(re.search(r"3 steps in a row were skipped, the last was (\d+) ", line)[1])
    assert re.search(r"with the images \S+, .* and 8 more: ", line)
    assert f"the last checkpoint is of step {step - 1}" in line
    assert complete_checkpoints(tmp_path)[-1] == step - 1
    first, last = (leaves(tmp_path, saved)["model"] for saved in complete_checkpoints(tmp_path))
    assert first == last  # nothing of the skipped steps is in it


@pytest.mark.parametrize(
    ("val_map", "predicts_best", "keeps"), [(40, True, False), (50, True, True), (40, False, True)]
)
def test_thresholds_are_of_the_checkpoint_that_will_predict(
    val_map, predicts_best, keeps, monkeypatch
):
    written = []
    nothing = score_files.Evaluation(*[None] * len(score_files.Evaluation._fields))
    evaluation = nothing._replace(keeps_thresholds=True)
    monkeypatch.setattr(loop.score_files, "write", lambda folder, found: written.append(found))
    anything = mock.Mock()
    evaluate_fn = functools.partial(loop._evaluate, folder=anything, writer=anything, stop=anything)
    found = evaluate_fn(
        anything,
        3,
        evaluator=lambda *args, **kwargs: (evaluation, {"val/map": val_map}),
        pictures=lambda *args: [],
        console=Console(quiet=True),
        checkpoints=mock.Mock(best_map=lambda: 50.0),
        predicts_best=predicts_best,
    )
    assert (found, written) == (val_map, [nothing._replace(keeps_thresholds=keeps)])


def test_a_folder_in_the_place_of_a_file_is_reported(digits, six_steps, tmp_path):
    shutil.copytree(six_steps[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.unlink()
    path.mkdir()
    done = call(words(digits, tmp_path / "run"))
    require_mistake(done, f"{path} cannot be written: Is a directory")


def test_an_evaluation_that_was_left_is_made_up_for(six_steps, digits, tmp_path, monkeypatch):
    """Stopped within the evaluation of step 3; the end is that of a whole run."""
    given = words(digits, tmp_path, "--config.eval.checkpoint=best")
    read = evaluator.read_batches

    def read_and_stop(*args):
        for number, batch in enumerate(read(*args)):
            if number == 0:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "read_batches", read_and_stop)
        done = call(given)
    assert done.returncode == 75
    assert "stopped and saved at step 3" in done.stdout
    assert not list(tmp_path.glob("eval/*"))
    assert call(given).returncode == 0
    assert without_rates(tmp_path) == without_rates(six_steps[0])
    assert leaves(tmp_path, STEPS) == leaves(six_steps[0], STEPS)
    assert complete_checkpoints(tmp_path) == complete_checkpoints(six_steps[0])
    # Whichever checkpoint others are to take, a training evaluates its last.
    summary = json.loads((tmp_path / EVALUATION / "summary.json").read_text())
    assert (summary["step"], summary["checkpoint"]) == (STEPS, "last")
