import json
from pathlib import Path

import pytest

from oass_jax.errors import UserError
from oass_jax.figures import runs

CHANGES_NOTHING = {
    "seed": 4,
    "data.data_dir": "d",
    "data.num_threads": 3,
    "data.cache": True,
    "data.max_boxes": 128,
    "eval.every_epochs": 2.0,
    "distributed.timeout_s": 1200.0,
    "model.remat": True,
}


def test_workdirs_are_found_two_levels_down_once(tmp_path, write_run):
    one = write_run(tmp_path / "max" / "seed0")
    two = write_run(tmp_path / "alone")
    write_run(tmp_path / "alone" / "model")  # what lies in a workdir is no run
    write_run(tmp_path / "a" / "b" / "c")
    assert runs.find([tmp_path, two]) == [two, one]
    assert runs.find([one, two / ".." / "max"]) == [one]


def test_no_folder_and_no_run_are_reported(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"is no folder: did you mean .*/runs\?"):
        runs.find([tmp_path / "rnus"])
    with pytest.raises(UserError, match=r"runs holds no run: there is no config.json"):
        runs.find([tmp_path / "runs"])


def test_unfinished_and_damaged_runs_are_omitted_and_reported(tmp_path, write_run):
    good = write_run(tmp_path / "good", seed=3)
    going_on = write_run(tmp_path / "going_on", ended=False)
    no_env = write_run(tmp_path / "no_env")
    (no_env / "env.json").unlink()
    cut = write_run(tmp_path / "cut")
    (cut / "config.json").write_text('{"seed": 0, "mod')
    half = write_run(tmp_path / "half")
    (half / "eval/voc-2012_val/summary.json").write_text('{"map": 90.0}')
    word = write_run(tmp_path / "word")
    (word / "eval/voc-2012_val/summary.json").write_text(
        '{"map": "high", "map_voc": null, "step": 1, "num_images": 2}'
    )
    other = write_run(tmp_path / "other")
    (other / "config.json").write_text('{"architectures": ["ResNet"]}')
    a_list = write_run(tmp_path / "a_list")
    (a_list / "config.json").write_text("[1]")
    folders = [good, going_on, no_env, cut, half, word, other, a_list]
    found, notes = runs.read_all(folders)
    assert [(one.folder, one.seed) for one in found] == [(good, 3)]
    assert [Path(note.split()[0]) for note in notes] == folders[1:]
    assert [("not finished" in note) for note in notes] == [True, True, *[False] * 5]


def test_the_last_start_decides_whether_a_run_is_finished(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    starts = [{"end": "2026-01-01T00:00:00+0000"}, {"end": None}]
    (folder / "env.json").write_text(json.dumps({"starts": starts}))
    assert runs.read_all([folder])[0] == []


def test_settings_are_what_can_change_the_result():
    base = {"batch_size": 32, "teacher.mode": "ema", "keypoint.top_k": 5, "model.csi": False}
    assert runs.settings(base | CHANGES_NOTHING) == runs.settings(base)
    older = {name: value for name, value in base.items() if name != "model.csi"}
    assert runs.settings(older) == runs.settings(base)
    changes = {"batch_size": 16, "keypoint.top_k": 3, "model.csi": True, "data.path": "b.csv"}
    for change in ({name: value} for name, value in changes.items()):
        assert runs.settings(base | change) != runs.settings(base)


def test_without_a_loss_of_patches_they_do_not_matter():
    none = {"teacher.mode": "none", "keypoint.strategy": "max", "loss.alpha_p": 1.0}
    other = none | {"keypoint.strategy": "center", "loss.alpha_p": 2.0, "teacher.ema_decay": 0.9}
    assert runs.settings(none) == runs.settings(other)
    unused = other | {"teacher.mode": "ema", "loss.alpha_p": 0.0, "loss.alpha_re": 0.0}
    assert runs.settings(unused) == runs.settings(none)
    assert runs.settings(unused | {"loss.alpha_re": 0.1}) != runs.settings(none)
    # But for those who look at the teacher.
    decays = [runs.settings(unused | {"teacher.ema_decay": x}, {"weights": "ema"}) for x in (0, 1)]
    assert decays[0] != decays[1]
    assert runs.settings(none | {"loss.label_smoothing": 0.1}) != runs.settings(none)


def test_the_evaluation_knows_best_how_it_was_made():
    fields = {"eval.weights": "student", "eval.scales": [1.0]}
    summary = {"weights": "ema", "scales": [0.5, 1.0], "num_images": 9, "map": 3.0, "step": 1}
    assert runs.settings(fields, summary) == {
        "eval.weights": "ema",
        "eval.scales": [0.5, 1.0],
        "eval.num_images": 9,
    }


def test_differences_name_both_values():
    one = {"batch_size": 16, "same": 1, "model.csi": True}
    other = {"batch_size": 32, "same": 1}
    assert runs.differences(one, other) == [
        "batch_size=16 instead of 32",
        "model.csi=True instead of off",
    ]
    assert runs.differences(one, one) == []


CONFIGS = {
    "b": {"teacher.mode": "ema", "data.dataset": "voc", "model.encoder": "small", "lr": 1},
    "a": {"teacher.mode": "ema", "data.dataset": "voc", "model.encoder": "small", "lr": 2},
    "large": {"teacher.mode": "ema", "data.dataset": "voc", "model.encoder": "large", "lr": 1},
    "none": {"data.dataset": "voc", "model.encoder": "small", "lr": 7, "regions.count": 4},
    "demo": {"teacher.mode": "ema", "data.dataset": "demo", "model.encoder": "tiny", "lr": 9},
}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "b"),
        ({"lr": 2}, "a"),
        ({"lr": 3}, "a"),  # as far from both: the alphabet
        ({"lr": 9, "batch_size": 1}, "a"),
        ({"model.encoder": "large", "lr": 9}, "large"),
        ({"model.encoder": "own"}, "b"),  # as far from large
        ({"model.encoder": "tiny"}, "b"),  # no config of this data set has it
        ({"data.dataset": "own"}, "b"),
        ({"data.dataset": "demo"}, "demo"),
        ({"data.dataset": "own", "model.encoder": "tiny"}, "demo"),
        ({"teacher.mode": "none"}, None),
        ({"model.csi": True}, None),
        ({"teacher.mode": None, "regions.count": 3, "lr": 1}, "none"),
        ({"teacher.mode": None, "regions.count": 4, "model.encoder": "large"}, None),
    ],
)
def test_the_nearest_config_has_the_method_and_the_fewest_differences(change, name):
    own = {name: value for name, value in (CONFIGS["b"] | change).items() if value}
    assert runs.nearest_config(own, CONFIGS) == name
    backwards = dict(reversed(CONFIGS.items()))
    assert runs.nearest_config(own, backwards) == name
