import os
import signal
import subprocess
import sys

import pytest

from oass_jax import prepare as command
from oass_jax.data.prepare import is_prepared, prepare
from oass_jax.errors import UserError


@pytest.fixture
def manual_dir(tmp_path, voc_files, write_tar):
    folder = tmp_path / "manual"
    folder.mkdir()
    write_tar(folder / "x.tar", voc_files())
    return folder


def left_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "/1.0.0/" not in str(p))


PREPARED = [".voc_2012.lock", "voc", "voc/.config", "voc/.config/metadata.json", "voc/2012"]


def test_prepares_once_and_leaves_nothing_else(manual_dir, tmp_path, capfd):
    data_dir = tmp_path / "data"
    builder = prepare("voc/2012", data_dir=data_dir, manual_dir=manual_dir)
    assert set(builder.info.splits) == {"train", "val", "main_train", "main_val"}
    assert left_in(data_dir) == [*PREPARED, "voc/2012/1.0.0"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "\r" not in err
    assert "preparing voc/2012" in err
    prepare("voc/2012", data_dir=data_dir, manual_dir=manual_dir)
    assert capfd.readouterr() == ("", "")


def test_whether_it_is_prepared_is_asked_without_doing_it(manual_dir, tmp_path):
    assert not is_prepared("voc/2012", data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)
    assert is_prepared("voc/2012", data_dir=tmp_path / "data")


def test_the_folder_may_be_left_out_or_its_tar_renamed_later(manual_dir, tmp_path):
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=None)
    (manual_dir / "x.tar").rename(manual_dir / "y.tar")
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)


def test_other_archives_are_not_passed_over_silently(manual_dir, tmp_path, voc_files, write_tar):
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)
    write_tar(manual_dir / "2007.tar", voc_files(), year="2007")
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)
    (manual_dir / "train_aug.txt").write_text("2011_000001\n")
    with pytest.raises(UserError, match=r"prepared from other archives \(x\.tar\)"):
        prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)


def test_a_folder_with_archives_of_another_data_set_says_nothing_of_this_one(
    manual_dir, tmp_path, voc_files, write_tar
):
    other = tmp_path / "2007"
    other.mkdir()
    write_tar(other / "y.tar", voc_files(), year="2007")
    prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=manual_dir)
    (other / "train_aug.txt").write_text("2011_000001\n")
    assert prepare("voc/2012", data_dir=tmp_path / "data", manual_dir=other).info.splits


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("voc/2021", r"unknown data set 'voc/2021': did you mean voc/2012\?"),
        ("voc", r"unknown data set 'voc': did you mean voc/20"),
        ("voc/2007", r"holds no uncompressed tar that begins with VOCdevkit/VOC2007"),
    ],
)
def test_mistakes_are_a_sentence(name, sentence, manual_dir, tmp_path):
    with pytest.raises(UserError, match=sentence):
        prepare(name, data_dir=tmp_path / "data", manual_dir=manual_dir)


def test_a_folder_that_is_none_is_a_sentence(tmp_path):
    flags = r"{0} \(of oass_jax\.main: --config\.data\.{0}\)$"
    with pytest.raises(UserError, match="is no folder.*--" + flags.format("manual_dir")):
        prepare("voc/2012", data_dir=tmp_path, manual_dir=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*--" + flags.format("data_dir")):
        prepare("voc/2012", data_dir=tmp_path / "file", manual_dir=None)


def test_command(manual_dir, tmp_path, capfd):
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={manual_dir}"]
    assert not command.main(["--dataset=voc/2012", *arguments])
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[1:]]
    assert ["val", "3"] in rows
    assert ["train", "2"] in rows
    with pytest.raises(SystemExit, match="2"):
        command.main(["--dataset=vok/2012", *arguments])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: unknown data set 'vok/2012'")
    assert err.count("\n") == 1


# Prepares digit scenes, and waits on the way for a line or the end of its input.
HALTING = """
import sys
from oass_jax.data import prepare
from oass_jax.data.sources import digit_scenes

def halting(items, **_):
    for number, item in enumerate(items):
        if number == 3:
            print("begun", file=sys.stderr, flush=True)
            sys.stdin.readline()
        if number == 6:
            return
        yield item

digit_scenes.report_progress = halting
prepare.prepare("digit_scenes", data_dir=sys.argv[1], manual_dir=None)
"""


def start(data_dir):
    return subprocess.Popen(
        [sys.executable, "-c", HALTING, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def test_a_killed_preparation_starts_again_cleanly(tmp_path):
    victim = start(tmp_path)
    assert "begun\n" in iter(victim.stderr.readline, "")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert list(tmp_path.glob("digit_scenes/incomplete*"))

    # What tfds leaves of a killed download.
    (tmp_path / "downloads" / "digit_scenes" / "digit_scenes" / "x.tar.tmp.0a1b").mkdir(
        parents=True
    )

    again = start(tmp_path)
    again.communicate(timeout=600)
    assert again.returncode == 0
    assert left_in(tmp_path) == [".digit_scenes.lock", "digit_scenes", "digit_scenes/1.0.0"]
    builder = prepare("digit_scenes", data_dir=tmp_path, manual_dir=None)
    assert builder.info.splits["train"].num_examples == 6


def test_a_second_process_waits_for_the_first(tmp_path):
    first = start(tmp_path)
    assert "begun\n" in iter(first.stderr.readline, "")
    second = start(tmp_path)
    assert any("waiting for another process" in line for line in iter(second.stderr.readline, ""))
    for process in (first, second):
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0
    assert "preparing" not in error
