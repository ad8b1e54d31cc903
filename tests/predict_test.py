"""The command predict, as the words a user types."""

import csv
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

import oass_jax
from oass_jax import predict
from oass_jax.evaluation.predictor import Predictor
from oass_jax.run import build
from tests.commands import call, finish, words

EVALUATION = "eval/digit_scenes_val[:48]"


def run(folder, *rest):
    return call([f"--workdir={folder}", *rest], command=predict.main)


def table(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(scenes, tmp_path):
    """A folder of three images, two of one name."""
    files = sorted(scenes.iterdir())
    folder = tmp_path / "photos"
    for place, file in zip(("b/x.PNG", "a/x.PNG", "c.png"), files, strict=False):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / place)
    (folder / "a" / "notes.txt").write_text("no image")
    return folder


def test_labels_are_printed_a_line_for_each_image(finished_run, photos):
    done = run(finished_run, photos, "--threshold=0.000001")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # Files of a folder come before those in its folders.
    assert [line.partition(": ")[0] for line in lines] == [
        str(photos / name) for name in ("c.png", "a/x.PNG", "b/x.PNG")
    ]
    names = (finished_run / "classes.txt").read_text().split()
    for line in lines:
        labels = [label.split() for label in line.partition(": ")[2].split(", ")]
        assert {name for name, _ in labels} == set(names)
        assert [p for _, p in labels] == sorted((p for _, p in labels), reverse=True)
    assert done.stderr == "step 6; thresholds: 1e-06 for every class\n"
    done = run(finished_run, photos / "c.png", "--threshold=1")
    assert ": no label (" in done.stdout


def test_the_table_is_that_of_the_evaluation(finished_run, scenes, tmp_path):
    done = run(finished_run, scenes, f"--out={tmp_path / 'out'}", "--batch_size=10")
    assert (done.returncode, done.stdout) == (0, f"written to {tmp_path / 'out'}\n")
    rows = table(tmp_path / "out")
    with (finished_run / EVALUATION / "predictions.csv").open() as file:
        evaluated = {row.pop("image"): row for row in csv.DictReader(file)}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(rows) == len(evaluated) == summary["num_images"] == 48
    chosen = json.loads((finished_run / "thresholds.json").read_text())["classes"]
    assert summary["thresholds"] == {name: one["threshold"] for name, one in chosen.items()}
    assert summary["thresholds_from"].startswith("best F1 on digit_scenes val[:48], 48 images")
    assert (summary["step"], summary["weights"], summary["logits"]) == (6, "student", "csi")
    for row in rows:
        image, labels = row.pop("image"), row.pop("labels")
        expected = evaluated[image.removeprefix(f"{scenes}/")]
        assert list(row) == list(expected)
        found = {name: float(p) for name, p in row.items()}
        np.testing.assert_allclose(
            list(found.values()), [float(p) for p in expected.values()], atol=1e-5
        )
        above = [name for name, p in found.items() if p >= summary["thresholds"][name]]
        assert labels == "|".join(sorted(above, key=found.get, reverse=True))
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert "predicted: 48 of 48\n" in done.stderr


def test_class_maps_of_every_image_have_a_folder_of_their_own(run_with, photos, tmp_path):
    folder = run_with()
    names = (folder / "classes.txt").read_text().split()
    names[:3] = ["../../cat/dog", "..", "a%2Fb"]
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    out = tmp_path / "deep" / "out"
    done = run(folder, photos, f"--out={out}", "--cams", "--threshold=1e-9")
    assert done.returncode == 0, done.stderr
    images = ("c.png", "a/x.PNG", "b/x.PNG")
    classes = ["..%2F..%2Fcat%2Fdog", "..", "a%252Fb", *names[3:]]
    expected = {out / "cams" / image / f"{name}.png" for image in images for name in classes}
    assert set((tmp_path / "deep").rglob("*.png")) - expected == {out / "cams" / "c.png"}
    assert all(path.is_file() for path in expected)
    maps = [np.load(out / "cams" / image / "maps.npy") for image in images]
    assert {(each.dtype.name, len(each)) for each in maps} == {("float32", len(names))}
    assert np.abs(maps[1] - maps[2]).max() > 0
    with Image.open(out / "cams" / "c.png" / "...png") as image:
        assert image.mode == "RGB"


def test_an_image_that_cannot_be_read_is_skipped(finished_run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos / 'c.png'}\n\n{tmp_path / 'gone.png'}\nx\0.png\n")
    done = run(finished_run, photos, f"@{listed}", f"--out={tmp_path}")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "broken.jpg cannot be decoded" in errors[0]
    assert errors[1] == f"error: {tmp_path / 'gone.png'} cannot be read: No such file or directory"
    assert errors[2] == "error: x\0.png cannot be read: embedded null byte"
    assert errors[3] == "error: 3 of 7 images could not be read"
    assert len(table(tmp_path)) == 4


def test_files_are_found_by_pattern_and_name(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "@c[1].png").write_bytes((photos / "c.png").read_bytes())
    assert list(predict._find(["**/x.PNG", "@c[1].png"], None, print)) == [
        "a/x.PNG",
        "b/x.PNG",
        "@c[1].png",
    ]
    assert list(predict._find(["."], None, print)) == [
        "./@c[1].png",
        "./c.png",
        "./a/x.PNG",
        "./b/x.PNG",
    ]
    # What an earlier command wrote there is not predicted.
    assert list(predict._find(["."], Path("a"), print)) == ["./@c[1].png", "./c.png", "./b/x.PNG"]
    (photos / "a" / "notes.txt").touch()
    each = ["@c[1].png", "a/x.PNG", "b/x.PNG", "c.png"]
    assert sorted(predict._find(["**"], None, print)) == each
    assert sorted(predict._find(["**"], Path("a"), print)) == [*each[:1], *each[2:]]
    assert list(predict._find(["**/a"], None, print)) == ["a/x.PNG"]
    for out in (Path("."), Path("..")):
        assert sorted(predict._find(["**"], out, print)) == each
    assert list(predict._find(["a/**"], Path("a"), print)) == ["a/x.PNG"]
    (photos / "cams").mkdir()
    (photos / "cams" / "x.png").touch()
    assert "./cams/x.png" not in list(predict._find(["."], Path("."), print))
    (photos / "list.txt").write_text("\ufeffc.png\n", encoding="utf-8")
    assert list(predict._find(["@list.txt"], None, print)) == ["c.png"]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (["{photos}/c.pgn"], "there is no image {photos}/c.pgn: did you mean {photos}/c.png?"),
        (["{photos}/*.jpg"], "there is no image {photos}/*.jpg: check the path"),
        (["{empty}"], "there is no image in {empty}"),
        (["@{photos}/no.txt"], "the list @{photos}/no.txt cannot be read: No such file"),
        (["{photos}", "--cams"], "--cams writes files: name a folder for them"),
        (["{photos}", "--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["{photos}", "--threshold=f1"], "the threshold f1 is not best_f1"),
        (["{photos}", "--workdir={empty}"], "{empty} holds no run"),
        (["{photos}", "--out={photos}/c.png"], "cannot write to {photos}/c.png"),
        (["{photos}", "--workdr=x"], "--workdr is not a flag: did you mean --workdir?"),
    ],
)
def test_an_error_is_one_line(finished_run, photos, tmp_path, rest, message):
    (tmp_path / "empty").mkdir()
    names = {"photos": photos, "empty": tmp_path / "empty"}
    done = run(finished_run, *(word.format(**names) for word in rest))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: " + message.format(**names))


def test_what_is_complete_stays_where_the_command_is_interrupted(
    finished_run, photos, tmp_path, monkeypatch
):
    stream = Predictor.stream

    def interrupted(self, images, **kwargs):
        yield next(stream(self, images, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "stream", interrupted)
    done = run(finished_run, photos, f"--out={tmp_path}")
    assert done.returncode == 128 + signal.SIGINT
    assert not (tmp_path / "predictions.csv").exists()
    header, row = (tmp_path / "predictions.csv.tmp").read_text().splitlines()
    assert header.startswith("image,labels,")
    assert row.startswith(f"{photos / 'c.png'},")


def test_predictions_that_are_not_finite_end_with_71(finished_run, photos, monkeypatch):
    monkeypatch.setattr(Predictor, "_run", lambda *_: ({"csi": np.full([1, 10], np.nan)}, [0], [0]))
    done = run(finished_run, photos)
    assert done.returncode == 71
    assert "of step 6 predicts" in done.stderr.splitlines()[-1]


def test_the_workdir_is_all_that_is_needed(digits, scenes, tmp_path, monkeypatch):
    """Neither data, nor pretrained weights, nor the label vectors that the training began with."""
    vectors, folder = tmp_path / "vectors.npy", tmp_path / "run"
    np.save(vectors, np.random.default_rng(0).normal(size=(10, 7)))
    name = f"--config.model.label_vectors={vectors}"
    finish(words(digits, folder, name, config="demo:ssgrl"))
    vectors.unlink()
    before = (folder / EVALUATION / "predictions.csv").read_text()
    shutil.rmtree(folder / EVALUATION)
    done = call([f"--workdir={folder}", "--mode=eval"])
    assert done.returncode == 0, done.stderr
    assert (folder / EVALUATION / "predictions.csv").read_text() == before
    config = json.loads((folder / "config.json").read_text())
    config["model"]["pretrained"] = config["data"]["manual_dir"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "eval")
    monkeypatch.delattr(build, "open_split")
    done = run(folder, min(scenes.iterdir()))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_links_are_followed_and_each_image_is_found_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "c.png", tmp_path / "elsewhere" / "d.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "loop").symlink_to(photos)
    each = ["a/x.PNG", "b/x.PNG", "c.png", "link/d.png"]
    assert sorted(map(os.path.normpath, predict._find(["."], None, print))) == each
    assert sorted(predict._find(["**"], None, print)) == each
    # What is written through a link is not predicted either.
    assert sorted(predict._find(["**"], tmp_path / "elsewhere", print)) == each[:3]
    (tmp_path / "to_photos").symlink_to(photos)
    found = predict._find([str(tmp_path / "to_photos")], photos / "a", print)
    assert "a" not in {Path(path).parent.name for path in found}


def test_a_folder_that_cannot_be_read_is_reported(finished_run, photos, monkeypatch):
    walk = os.walk

    def denied(top, onerror, followlinks):
        onerror(PermissionError(errno.EACCES, "Permission denied", f"{top}/secret"))
        return walk(top, onerror=onerror, followlinks=followlinks)

    monkeypatch.setattr(os, "walk", denied)
    done = run(finished_run, photos)
    assert done.returncode == 1
    assert f"error: {photos}/secret cannot be read: Permission denied" in done.stderr.splitlines()
    assert len(done.stdout.splitlines()) == 3


def test_one_prediction_at_a_time_writes_to_a_folder(finished_run, photos, tmp_path):
    with filelock.FileLock(tmp_path / ".predict.lock"):
        done = run(finished_run, photos, f"--out={tmp_path}")
    assert done.returncode == 2
    assert f"another prediction is writing to {tmp_path}: wait for its end" in done.stderr
    assert not (tmp_path / "predictions.csv.tmp").exists()


def test_class_maps_are_those_of_the_labels(run_with, photos, tmp_path):
    folder, out = run_with(), tmp_path / "out"
    names = (folder / "classes.txt").read_text().split()
    names[:2] = ["\u732b" * 84, "\u732b" * 85]
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    for threshold in ("1e-9", "1"):
        done = run(folder, photos / "c.png", f"--out={out}", "--cams", f"--threshold={threshold}")
        assert done.returncode == 0, done.stderr
        found = sorted(path.name for path in (out / "cams" / "c.png").iterdir())
        assert len(found) == 1 + (10 if threshold == "1e-9" else 0)


def test_an_error_that_is_kept_does_not_keep_the_image(finished_run, photos):
    (photos / "broken.png").write_bytes((photos / "c.png").read_bytes()[:-30])
    errors = []
    list(oass_jax.load(finished_run).stream([photos / "broken.png"], on_error=errors.append))
    (error,) = errors
    assert "broken.png cannot be decoded" in str(error)
    assert error.__traceback__ is error.__cause__ is error.__context__ is None


def test_what_is_no_file_is_not_waited_for(finished_run, photos):
    os.mkfifo(photos / "pipe.png")
    done = run(finished_run, photos / "pipe.png", photos)
    assert done.returncode == 1
    assert f"error: {photos / 'pipe.png'} is no file" in done.stderr.splitlines()
    assert len(done.stdout.splitlines()) == 3
