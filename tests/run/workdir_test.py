import json

import pytest

from oass_jax.errors import UserError
from oass_jax.run import workdir

CONFIG = {"batch_size": 4, "loss": {"alpha_p": 0.5}, "augment": {"long_side_px": (3, 4)}}


def start(folder, step=0, config=CONFIG):
    return workdir.write_start(folder, step=step, config=config, class_names=("cat", "dog"))


def test_starts_are_kept_one_after_another(tmp_path):
    assert start(tmp_path) == []
    workdir.write_end(tmp_path)
    assert start(tmp_path, step=10) == []
    starts = json.loads((tmp_path / "env.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, 10]
    assert [bool(s["end"]) for s in starts] == [True, False]
    assert workdir.read_classes(tmp_path) == ("cat", "dog")


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
    workdir.write_readme(tmp_path, title="t")
    assert "Not evaluated yet." in (tmp_path / "README.md").read_text()
    summary = {"map": 91.5, "map_voc": 92.0, "num_images": 3, "weights": "ema", "step": 2}
    workdir.write_json(tmp_path / "eval" / "voc-2012_val" / "summary.json", summary)
    workdir.write_readme(tmp_path, title="t")
    assert "voc-2012_val: mAP 91.50, 92.00 by VOC's" in (tmp_path / "README.md").read_text()


def test_a_workdir_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --workdir"):
        workdir.create(tmp_path / "file" / "run")


def test_an_empty_folder_holds_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        workdir.read_classes(tmp_path)
