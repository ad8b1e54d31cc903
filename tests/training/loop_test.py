"""End to end on real scenes with the tiny network: the commands a user runs, killed and resumed."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from oass_jax import config_file
from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import average_precision, score_files
from oass_jax.run import build
from oass_jax.run.workdir import Workdir
from oass_jax.training import build as training_build
from oass_jax.training import loop, monitor
from oass_jax.training.metric_writer import Console, MetricWriter

ROOT = Path(__file__).parents[2]
STEPS = 30


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    pipeline.open_split("digit_scenes", "val", data_dir=folder, manual_dir=None)
    return folder


def command(data_dir, folder, *changes, page="demo.py"):
    return [
        sys.executable,
        "-m",
        "oass_jax.main",
        f"--config=configs/{page}",
        f"--workdir={folder}",
        f"--config.data.data_dir={data_dir}",
        "--config.data.split=train[:240]",
        "--config.eval.split=val[:50]",
        "--config.batch_size=16",
        "--config.num_epochs=2",
        "--config.augment.image_px=32",
        "--config.augment.long_side_px=(32, 48)",
        "--config.eval.image_px=32",
        "--config.eval.batch_size=16",
        "--config.eval.every_epochs=1",
        "--config.checkpoint.every_steps=4",
        "--config.log_every_steps=1",
        *changes,
    ]


def run(words, devices=1):
    return subprocess.run(words, cwd=ROOT, env=env(devices), capture_output=True, text=True)


def env(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(words):
    return subprocess.Popen(
        words, cwd=ROOT, env=env(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


def rows(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_step(folder):
    return max((row["step"] for row in rows(folder)), default=0)


def final_leaves(folder):
    """Checksums of every array of the last checkpoint, as they were saved."""
    record = folder / "checkpoints" / str(STEPS) / "record" / "metadata"
    return json.loads(record.read_text())["leaves"]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run from start to end, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = run(command(data_dir, folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_workdir_is_complete(finished):
    folder, _ = finished
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    evaluation = "eval/digit_scenes_val[:50]/"
    expected = {"README.md", "config.json", "env.json", "classes.txt", "metrics.jsonl"}
    files = ("summary.json", "per_class.csv", "predictions.csv", "scores.npz")
    assert {name for name in names if name.startswith("eval/")} == {evaluation + n for n in files}
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
    assert build.title(config) == f"resnet50 on voc/2012, {method}"


def test_the_summary_can_be_computed_from_the_predictions(finished, data_dir):
    folder, _ = finished
    evaluation = folder / "eval" / "digit_scenes_val[:50]"
    summary = json.loads((evaluation / "summary.json").read_text())
    with (evaluation / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    split = pipeline.open_split("digit_scenes", "val[:50]", data_dir=data_dir, manual_dir=None)
    assert [row["image"] for row in table] == [split.filename(i) for i in range(50)]
    scores = np.array([[float(row[name]) for name in split.class_names] for row in table])
    label = np.zeros_like(scores)
    for i, record in enumerate(split.source):
        label[i, record["labels"]] = 1
    result = average_precision.mean_average_precision(scores, label)
    assert summary["map"] == pytest.approx(result.map, abs=1e-6)
    assert list(summary["ap"]) == list(split.class_names)
    assert summary["num_images"] == 50
    assert summary["step"] == STEPS
    assert Workdir(folder).read_classes() == split.class_names


def test_the_summary_can_be_computed_from_the_logits(finished):
    evaluation = finished[0] / "eval" / "digit_scenes_val[:50]"
    summary = json.loads((evaluation / "summary.json").read_text())
    again = score_files.recompute_summary(evaluation / "scores.npz")
    assert again == {name: summary[name] for name in again}
    with np.load(evaluation / "scores.npz") as arrays:
        assert {"student/base", "ema/base"} <= set(arrays)
        np.testing.assert_array_equal(arrays["prediction"], arrays["student/base"])


def test_a_pipe_gets_a_line_each_step_and_the_table(finished):
    folder, out = finished
    assert f"step {STEPS}/{STEPS}  epoch 2.00  loss " in out
    assert "\x1b" not in out
    assert re.search(r"mAP +\d+\.\d\d", out)
    steps = [row["step"] for row in rows(folder) if "train/loss" in row]
    assert steps == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows(folder) if "val/map" in row] == [15, 30]
    assert {"val/map_voc", "val/map_ema", "val/ap/zero"} <= set(rows(folder)[-1])


def test_a_finished_run_shows_its_result_again_and_changes_nothing(finished, data_dir):
    folder, _ = finished
    before = (folder / "metrics.jsonl").read_text()
    done = run(command(data_dir, folder))
    assert done.returncode == 0
    assert "mAP" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == before


def test_killed_at_any_moment_and_resumed_it_ends_bit_for_bit(finished, data_dir, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    moments = [
        lambda: last_step(tmp_path) >= 7,  # between two checkpoints
        lambda: any(checkpoints.glob("*.orbax-checkpoint-tmp")) and last_step(tmp_path) >= 12,
        lambda: last_step(tmp_path) >= 21,
    ]
    for moment in moments:
        process = start(command(data_dir, tmp_path))
        wait_for(moment, process)
        process.kill()
        process.communicate()
    done = run(command(data_dir, tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"resumed from the checkpoint of step (12|16|20)\n", done.stdout)
    assert final_leaves(tmp_path) == final_leaves(finished[0])
    # Every step is there once, with the same losses.
    losses, expected = (
        [(r["step"], r["train/loss"]) for r in rows(folder) if "train/loss" in r]
        for folder in (tmp_path, finished[0])
    )
    assert losses == expected


def test_what_was_compiled_is_kept_in_the_users_cache_and_gives_the_same_bits(
    finished, data_dir, tmp_path
):
    cache = tmp_path / "cache"
    apart = env(1) | {"XDG_CACHE_HOME": str(cache)}
    del apart["JAX_COMPILATION_CACHE_DIR"]
    programs = []
    for name in "ab":
        done = subprocess.run(command(data_dir, tmp_path / name), cwd=ROOT, env=apart)
        assert done.returncode == 0
        programs.append({path.name for path in (cache / "oass_jax").glob("jit_train_step*-cache")})
        assert final_leaves(tmp_path / name) == final_leaves(finished[0])
    assert len(programs[0]) == 1
    assert programs[0] == programs[1]


def test_bits_differ_where_they_should(finished, data_dir, tmp_path):
    """Without this the test above could compare nothing."""
    done = run(command(data_dir, tmp_path, "--config.seed=1"))
    assert done.returncode == 0, done.stderr
    assert final_leaves(tmp_path) != final_leaves(finished[0])


def test_sigterm_saves_and_the_same_command_continues(data_dir, tmp_path):
    words = command(data_dir, tmp_path, "--config.checkpoint.every_steps=1000")
    process = start(words)
    wait_for(lambda: last_step(tmp_path) >= 3, process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    step = int(re.search(r"stopped and saved at step (\d+)", out)[1])
    assert 3 <= step < 15
    again = run(words)
    assert f"resumed from the checkpoint of step {step}" in again.stdout
    assert again.returncode == 0


def test_eval_on_another_split_and_number_of_devices(finished, data_dir):
    folder, _ = finished
    words = command(data_dir, folder, "--mode=eval", "--config.eval.split=val[50:90]")
    done = run(words, devices=4)
    assert done.returncode == 0, done.stderr
    assert f"restored the checkpoint of step {STEPS}" in done.stdout
    summary = json.loads((folder / "eval/digit_scenes_val[50:90]/summary.json").read_text())
    assert summary["num_images"] == 40
    best = run([*words, "--config.eval.checkpoint=best", "--config.eval.weights=ema"])
    assert best.returncode == 0, best.stderr
    summary = json.loads((folder / "eval/digit_scenes_val[50:90]/summary.json").read_text())
    assert summary["weights"] == "ema"
    scores = {r["step"]: r["val/map"] for r in rows(folder) if "val/map" in r}
    assert summary["step"] == max(scores, key=scores.get)


def test_a_split_without_labels_gives_files_for_the_server_and_no_score(
    voc_files, write_tar, tmp_path
):
    files, folder = voc_files(), tmp_path / "run"
    files["ImageSets/Main/test.txt"] = b"2011_000005\n2011_000006\n2011_000007\n"
    write_tar(tmp_path / "x.tar", files)
    words = command(
        tmp_path / "data",
        folder,
        f"--config.data.manual_dir={tmp_path}",
        "--config.data.dataset=voc/2012",
        "--config.data.split=train",
        "--config.eval.split=val",
        "--config.batch_size=2",
        "--config.num_epochs=1",
    )
    refused = run([*words, "--config.eval.split=test"])
    assert refused.returncode == 2
    message = "error: voc/2012 test has no labels, which training needs: set eval.split"
    assert refused.stderr.splitlines()[-1].startswith(message)
    assert run(words).returncode == 0
    done = run([*words, "--mode=eval", "--config.eval.split=test"])
    assert done.returncode == 0, done.stderr
    target = folder / "eval" / "voc-2012_test"
    _, line = done.stdout.splitlines()
    assert line == (
        "voc/2012 test, 3 images, step 1: there are no labels to score the predictions with; "
        f"{target}/results.tgz is for the server"
    )
    summary = json.loads((target / "summary.json").read_text())
    assert summary["map"] is None
    assert set(summary["precision_recall"]["top_3"].values()) == {None}
    assert len(list((target / "results/VOC2012/Main").glob("comp2_cls_test_*.txt"))) == 20
    assert "voc-2012_test" not in (folder / "README.md").read_text()


def test_two_processes_do_what_one_does(finished, data_dir, tmp_path):
    """The second joins by hand what `--distributed` finds out on a pod; its own words are empty."""
    code = (
        "import runpy, sys, jax; jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2])); "
        "del sys.argv[1:3]; runpy.run_module('oass_jax.main', run_name='__main__')"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = command(data_dir, tmp_path)[3:]
    both = [start([sys.executable, "-c", code, address, str(i), *words]) for i in range(2)]
    out = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    assert "step" not in out[1]
    losses, expected = (
        {r["step"]: r["train/loss"] for r in rows(folder) if "train/loss" in r}
        for folder in (tmp_path, finished[0])
    )
    assert len(rows(tmp_path)) == len(rows(finished[0]))
    assert losses[1] == pytest.approx(expected[1], rel=1e-5)
    # Later, Adam has turned rounding into small differences.
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=0.05)


@pytest.mark.parametrize(
    ("page", "losses"),
    [
        ("supervised", {"loss_cls"}),
        ("puzzlecam", {"loss_cls", "loss_pcl", "loss_re"}),
        ("ctopk_w_csi", {"loss_cls", "loss_pcl", "loss_re", "loss_csi"}),
        ("mcar", {"loss_cls", "loss_regions"}),
        ("ssgrl", {"loss_cls", "loss_graph"}),
    ],
)
def test_every_kind_of_row_runs_in_the_same_loop(page, losses, data_dir, tmp_path):
    words = command(data_dir, tmp_path, "--config.num_epochs=0.2", page=f"demo.py:{page}")
    done = run(words, devices=2)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path)[-1]["val/map"] > 0
    found = {name.removeprefix("train/") for name in rows(tmp_path)[0] if "loss_" in name}
    assert found == losses


@pytest.mark.parametrize(("page", "kinds"), [("max", 1), ("max_csi", 2)])
def test_eval_at_other_sizes_and_by_all_logits_there_are(page, kinds, data_dir, tmp_path):
    words = command(data_dir, tmp_path, "--config.num_epochs=0.1", page=f"demo.py:{page}")
    assert run(words).returncode == 0
    scales = ["--config.eval.scales=(0.5,1.0)", "--config.eval.flip=True"]
    done = run([*words, "--mode=eval", "--config.eval.logits=mean", *scales])
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "eval" / "digit_scenes_val[:50]" / "scores.npz") as arrays:
        found = [array for name, array in arrays.items() if name.startswith("student/")]
        assert len(found) == kinds
        np.testing.assert_allclose(arrays["prediction"], np.mean(found, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.batch_size=8"], "batch_size was 16 and is now 8"),
        (["--config.teacher.mode=none"], "not of this config"),
        (["--mode=eval", "--config.eval.split=vall"], "vall"),
        (["--config.batch_size=17"], "choose a multiple of 4"),
        (["--distributed"], "found no pod or Slurm job to join"),
        (["--workdir=/proc/run"], "cannot write to the workdir"),
        (["--mode=eval", "--workdir=runs/nothing"], "train there first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(changes, message, finished, data_dir):
    done = run(command(data_dir, finished[0], *changes), devices=4)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_damaged_image_does_not_cost_the_steps_before_it(tmp_path):
    def batches():
        yield from ({}, {}, {})
        raise UserError("x.jpg cannot be decoded")

    class State(NamedTuple):
        step: int

    saved = []
    writer = MetricWriter(Workdir(tmp_path), step=0)
    watched = monitor.Monitor(
        writer,
        Console(step=4, total_steps=9, quiet=False),
        start=4,
        total_steps=9,
        steps_per_epoch=9.0,
        batch_size=1,
        log_every=100,
        rates={},
    )
    with pytest.raises(UserError, match=r"x\.jpg"):
        loop._loop(
            State(4),
            training_build.Schedule(9.0, 9, frozenset({9}), 100),
            batches(),
            train_fn=lambda state, batch: (State(state.step + 1), {"loss": 1.0}),
            monitor=watched,
            evaluate_fn=lambda state, step: 0.0,
            save_fn=lambda state, step, val_map: saved.append((state.step, step, val_map)),
        )
    writer.close()
    assert saved == [(7, 7, None)]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data_dir, tmp_path):
    words = command(
        data_dir,
        tmp_path,
        "--config.optimizer.encoder_learning_rate=1e30",
        "--config.optimizer.head_learning_rate=1e30",
        "--config.checkpoint.every_steps=1",
    )
    done = run(words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(r"was not finite at step \d+; the last checkpoint", line)
    assert [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
