import concurrent.futures
import json
import os
import platform
import re
import sys

import pytest

from oass_jax.errors import UserError
from oass_jax.run import model_card
from oass_jax.run.workdir import Workdir
from tests.commands import run

CONFIG = {"batch_size": 4, "loss": {"alpha_p": 0.5}, "augment": {"long_side_px": (3, 4)}}


def start(folder, step=0, config=CONFIG):
    return Workdir(folder).write_start(
        step=step, config=config, class_names=("cat", "dog"), devices=["cpu"], num_processes=1
    )


def test_starts_are_kept_one_after_another(tmp_path):
    assert start(tmp_path) == []
    Workdir(tmp_path).write_end()
    assert start(tmp_path, step=10) == []
    starts = json.loads((tmp_path / "env.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, 10]
    assert [bool(s["end"]) for s in starts] == [True, False]
    assert Workdir(tmp_path).read_classes() == ("cat", "dog")


def test_the_files_of_a_folder_are_replaced_and_its_folders_are_not(tmp_path):
    target = tmp_path / "pictures"
    (target / "mine").mkdir(parents=True)
    (target / "old.jpg").write_bytes(b"old")
    Workdir(tmp_path).replace_files(target, {"a.jpg": b"a", "b.jpg": b"b"})
    assert {path.name for path in target.iterdir()} == {"a.jpg", "b.jpg", "mine"}
    Workdir(tmp_path, writes=False).replace_files(target, {"c.jpg": b"c"})
    Workdir(tmp_path).replace_files(target, {"b.jpg": b"new"})
    assert {path.name for path in target.iterdir()} == {"b.jpg", "mine"}
    assert (target / "b.jpg").read_bytes() == b"new"
    Workdir(tmp_path).replace_files(tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    (tmp_path / "a.jpg.0a1b2c3d.tmp").write_bytes(b"half")
    Workdir(tmp_path).replace_files(tmp_path, {"a.jpg": b"a"})
    assert {path.name for path in tmp_path.iterdir()} == {"a.jpg", "a.jpg.0a1b2c3d.tmp"}
    os.utime(tmp_path / "a.jpg.0a1b2c3d.tmp", (0, 0))  # of a writer that was killed long ago
    Workdir(tmp_path).replace_files(tmp_path, {"a.jpg": b"a"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_file_may_be_written_by_several_at_once(tmp_path):
    path = tmp_path / "summary.json"
    contents = [bytes([n]) * 100_000 for n in range(4)]

    def write(content):
        for _ in range(50):
            Workdir(tmp_path).write_bytes(path, content)
            assert path.read_bytes() in contents

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(write, contents))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="directory"):
        Workdir(tmp_path).write_bytes(tmp_path / "x", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_split_of_validation_is_that_of_the_config(tmp_path):
    folder = Workdir(tmp_path)
    assert folder.validation() == (None, None)
    start(tmp_path, config=CONFIG | {"eval": {"dataset": "voc/2012", "split": "val"}})
    assert folder.validation() == ("voc/2012", "val")
    folder.config.write_text("{")
    assert folder.validation() == (None, None)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None])
def test_a_damaged_list_of_classes_is_reported(tmp_path, content):
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content)
    sentence = "is damaged: it lists the classes" if content is not None else "holds no run"
    with pytest.raises(UserError, match=sentence):
        Workdir(tmp_path).read_classes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="holds no run"):
        Workdir(tmp_path / "file").read_classes()


def test_a_changed_field_is_told(tmp_path):
    start(tmp_path)
    notes = start(tmp_path, config=CONFIG | {"loss": {"alpha_p": 1.0}})
    assert notes == ["changed since the last start: loss.alpha_p was 0.5, is 1.0"]


def test_starts_that_come_to_nothing_are_told(tmp_path):
    for _ in range(3):
        assert start(tmp_path, step=5) == []
    (note,) = start(tmp_path, step=5)
    assert "lower checkpoint.every_steps" in note


def test_a_readme_gathers_every_evaluation(tmp_path):
    model_card.write(Workdir(tmp_path))
    assert "Not evaluated yet." in (tmp_path / "README.md").read_text()
    summary = {"map": 91.5, "map_voc": 92.0, "num_images": 3, "weights": "ema", "step": 2, "ap": {}}
    folder = Workdir(tmp_path)
    path = folder.evaluation("voc/2012", "val") / "summary.json"
    folder.write_json(path, summary | {"image_px": 448})
    model_card.write(Workdir(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert "voc-2012_val: mAP 91.50, 92.00 by VOC's formula, over 3 images at 448 px" in text


def test_a_workdir_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="choose another --workdir"),
        Workdir(tmp_path / "file" / "run").locked(),
    ):
        pass


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    with Workdir(tmp_path).locked():
        told = f"another run is in {tmp_path}: process {os.getpid()} on {platform.node()}"
        with pytest.raises(UserError, match=re.escape(told)), Workdir(tmp_path).locked():
            pass
        Workdir(tmp_path, writes=False).locked().__enter__()  # another process of the same run
    with Workdir(tmp_path).locked():
        pass


def test_the_lock_goes_with_the_process(tmp_path):
    code = f"""
import os
from pathlib import Path
from oass_jax.run import model_card
from oass_jax.run.workdir import Workdir
with Workdir(Path({str(tmp_path)!r})).locked():
    os.kill(os.getpid(), 9)
"""
    assert run([sys.executable, "-c", code], os.environ).returncode == -9
    with Workdir(tmp_path).locked():
        pass


@pytest.mark.parametrize("name", ["README.md", "classes.txt", "thesis.tmp", "config.json"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(UserError, match="is not empty and holds no run"),
        Workdir(tmp_path).locked(),
    ):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_that_was_killed_before_its_first_file_can_start_again(tmp_path):
    folder = Workdir(tmp_path)
    folder.checkpoints.mkdir()
    for name in (".lock.json.0a1b2c3d.tmp", "config.json.0a1b2c3d.tmp", ".shared-0a1b2c3d"):
        (tmp_path / name).touch()
    for _ in range(2):
        with folder.locked():
            pass
    os.utime(tmp_path / "config.json.0a1b2c3d.tmp", (0, 0))
    with folder.locked():
        assert not (tmp_path / "config.json.0a1b2c3d.tmp").exists()


@pytest.mark.parametrize("data", [b"", b"\xff\xfe{}", b"[1]", b"null", b"{", b'{"starts": 3}'])
def test_a_damaged_file_does_not_stop_a_start(tmp_path, data):
    assert start(tmp_path, step=0) == []
    folder = Workdir(tmp_path)
    summary = folder.evaluation("voc/2012", "val") / "summary.json"
    folder.write_bytes(summary, data)
    for path in (folder.config, folder.env):
        path.write_bytes(data)
    start(tmp_path, step=0)
    folder.write_end()
    model_card.write(folder)
    assert json.loads(folder.config.read_text()) == json.loads(json.dumps(CONFIG))
    (begun,) = json.loads(folder.env.read_text())["starts"]
    assert begun["end"]


def test_an_empty_folder_holds_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        Workdir(tmp_path).read_classes()


def test_a_process_that_does_not_write_leaves_nothing(tmp_path):
    folder = Workdir(tmp_path / "run", writes=False)
    folder.root.mkdir()
    assert (
        folder.write_start(
            step=0, config=CONFIG, class_names=("cat",), devices=["cpu"], num_processes=2
        )
        == []
    )
    folder.write_end()
    model_card.write(folder)
    folder.write_csv(folder.evaluation("voc/2012", "val") / "per_class.csv", ["a"], [[1]])
    assert list(tmp_path.rglob("*")) == [folder.root]


def test_a_file_is_written_whole_or_not(tmp_path, monkeypatch):
    folder = Workdir(tmp_path)
    folder.write_text(folder.readme, "first")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        folder.write_text(folder.readme, "second")
    assert folder.readme.read_text() == "first"
