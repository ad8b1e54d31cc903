import pytest

from oass_jax.errors import UserError
from oass_jax.figures import markdown, paper, table
from oass_jax.figures.runs import find, read_all

VAL = "voc-2012_val"


def groups_in(folder, evaluation=VAL):
    runs, _ = read_all(find([folder]))
    return table.group_runs(runs, evaluation)


def line_of(number, name, folder, evaluation=VAL):
    groups, _ = groups_in(folder, evaluation)
    made = table.create_table(paper.TABLES[number - 1], evaluation, groups)
    (line,) = [line for line in made.lines if line.row.name == name]
    return line


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path, write_seeds):
    write_seeds(tmp_path / "max", [90.0, 91.0, 92.0])
    groups, notes = groups_in(tmp_path)
    (group,) = groups["max"]
    assert (group.maps, group.differs, notes) == ({0: 90.0, 1: 91.0, 2: 92.0}, "", [])


def test_other_settings_are_another_group_that_says_so(tmp_path, write_seeds):
    write_seeds(tmp_path / "a", [80.0], batch_size=16)
    write_seeds(tmp_path / "b", [90.0, 91.0])
    write_seeds(tmp_path / "c", [70.0], images=755)
    groups, _ = groups_in(tmp_path)
    assert [(group.maps, group.differs) for group in groups["max"]] == [
        ({0: 90.0, 1: 91.0}, ""),
        ({0: 80.0}, "batch_size=16 instead of 32"),
        ({0: 70.0}, "eval.num_images=755 instead of 1449"),
    ]


def test_whole_numbers_and_others_are_the_same_setting(tmp_path, write_run):
    write_run(tmp_path / "a", seed=0, num_epochs=8)
    write_run(tmp_path / "b", seed=1, num_epochs=8.0)
    assert len(groups_in(tmp_path)[0]["max"]) == 1


def test_of_the_same_seed_the_newest_counts(tmp_path, write_run):
    # Neither the first nor the last by name.
    write_run(tmp_path / "a", 90.0, day=2)
    write_run(tmp_path / "b", 92.0, day=9)
    write_run(tmp_path / "c", 91.0, day=1)
    groups, notes = groups_in(tmp_path)
    assert groups["max"][0].maps == {0: 92.0}
    assert len(notes) == 2
    assert notes[-1] == (
        f"max, seed 0 was run twice: {tmp_path}/b counts, it is newer than {tmp_path}/a"
    )


def test_a_map_of_nothing_is_omitted(tmp_path, write_run):
    write_run(tmp_path / "run", None)
    assert groups_in(tmp_path) == (
        {},
        [f"{tmp_path}/run is omitted from {VAL}: " + "no class has positives"],
    )


def test_seeds_at_different_steps_are_reported(tmp_path, write_run):
    write_run(tmp_path / "a", seed=0, step=1000)
    write_run(tmp_path / "b", seed=1, step=2000)
    _, (note,) = groups_in(tmp_path)
    assert note == f"max was evaluated on {VAL} at different steps: 1,000 (seed 0), 2,000 (seed 1)"


def test_differences_to_both_baselines_and_to_the_row_without_csi(tmp_path, write_seeds):
    write_seeds(tmp_path / "puzzlecam", [80.0, 82.0, 81.0], config="puzzlecam")
    write_seeds(tmp_path / "supervised", [70.0], config="supervised")
    write_seeds(tmp_path / "max", [90.0, 91.0], first=1)
    write_seeds(tmp_path / "max_csi", [91.0, 91.0, 92.0], config="max_csi")
    line = line_of(3, "max_csi", tmp_path)
    assert list(line.compared) == ["puzzlecam", "supervised", "without_csi"]
    assert line.compared["puzzlecam"].mean == pytest.approx((11 + 9 + 11) / 3)
    assert line.compared["puzzlecam"].num_seeds == 3
    assert line.compared["supervised"] is None  # one common seed
    assert line.compared["without_csi"].mean == pytest.approx(1.0)
    assert line.compared["without_csi"].num_seeds == 2
    assert line_of(3, "max", tmp_path).compared["without_csi"] is None
    assert line_of(1, "puzzlecam", tmp_path).compared["puzzlecam"] is None


def test_of_several_baselines_the_most_alike_is_compared_with(tmp_path, write_seeds):
    write_seeds(tmp_path / "a", [80.0, 80.0, 80.0], config="puzzlecam")
    write_seeds(tmp_path / "b", [60.0, 60.0], batch_size=16, config="puzzlecam")
    write_seeds(tmp_path / "c", [65.0, 65.0], batch_size=16, config="max_csi")
    assert line_of(1, "max_csi", tmp_path).compared["puzzlecam"].mean == pytest.approx(5.0)


def test_a_baseline_on_other_images_is_not_compared_with(tmp_path, write_seeds):
    write_seeds(tmp_path / "a", [80.0, 80.0], images=755, config="puzzlecam")
    write_seeds(tmp_path / "b", [90.0, 90.0], config="max_csi")
    assert line_of(1, "max_csi", tmp_path).compared["puzzlecam"] is None


@pytest.mark.parametrize(
    ("evaluation", "images", "comparable"),
    [(VAL, 1449, True), (VAL, 755, False), ("digit_scenes_val", 1449, False)],
)
def test_only_the_papers_own_images_are_comparable(
    tmp_path, write_run, evaluation, images, comparable
):
    write_run(tmp_path / "run", evaluations={evaluation: 90.0}, images=images)
    assert line_of(3, "max", tmp_path, evaluation).comparable is comparable


def test_rows_without_a_run_stay(tmp_path, write_run):
    write_run(tmp_path / "run")
    groups, _ = groups_in(tmp_path)
    made = table.create_table(paper.TABLES[2], VAL, groups)
    assert [line.row for line in made.lines] == list(paper.TABLES[2].rows)
    assert [line.row.name for line in made.lines if line.group] == ["max"]


@pytest.mark.parametrize(
    ("there", "wanted", "is_test", "chosen"),
    [
        ([VAL, "digit_scenes_val"], None, False, VAL),
        (["digit_scenes_val"], None, False, "digit_scenes_val"),
        (["digit_scenes_val", VAL], "digit_scenes_val", False, "digit_scenes_val"),
        (["voc-2007_test"], None, False, VAL),
        ([], None, False, VAL),
        ([VAL, "digit_scenes_test"], None, True, "digit_scenes_test"),
        ([VAL], None, True, "voc-2007_test"),
    ],
)
def test_the_evaluation_that_is_there_is_taken(tmp_path, write_run, there, wanted, is_test, chosen):
    for name in there:
        write_run(tmp_path / name, evaluations={name: 1.0})
    runs, _ = read_all(tmp_path / name for name in there)
    flag, default = ("--test", "voc-2007_test") if is_test else ("--eval", VAL)
    found = table.choose_evaluation(
        runs, flag=flag, wanted=wanted, default=default, is_test=is_test
    )
    assert found == chosen


def test_several_evaluations_are_asked_about(tmp_path, write_run):
    names = ["digit_scenes_val", "voc-2007_val"]
    runs, _ = read_all(write_run(tmp_path / x, evaluations={x: 1.0}) for x in names)
    shared = {"flag": "--eval", "default": VAL, "is_test": False}
    with pytest.raises(UserError, match="there are digit_scenes_val, voc-2007_val"):
        table.choose_evaluation(runs, wanted=None, **shared)
    with pytest.raises(UserError, match="did you mean voc-2007_val"):
        table.choose_evaluation(runs, wanted="voc-2007_vall", **shared)


def test_a_group_says_what_differs_from_its_config(tmp_path, write_run):
    write_run(tmp_path / "a", config="cmax")
    write_run(tmp_path / "b", num_epochs=8.0, eval__logits="mean")
    write_run(tmp_path / "c", config="max_csi", eval__logits="base")
    write_run(tmp_path / "d", config="demo:ctopk", batch_size=16)
    groups, _ = groups_in(tmp_path)
    assert {row: group.differs for row, (group,) in groups.items()} == {
        "cmax": "",
        "max": "eval.logits=mean instead of base, num_epochs=8.0 instead of 120.0",
        "max_csi": "eval.logits=base instead of csi",
        "ctopk": "batch_size=16 instead of 32",
    }


def test_runs_without_a_place_are_reported(tmp_path, write_run):
    write_run(tmp_path / "b", evaluations={"digit_scenes_val": 1.0})
    write_run(tmp_path / "c")
    runs, _ = read_all(find([tmp_path]))
    assert table.in_no_table(runs, [VAL, "voc-2007_test"]) == [
        f"{tmp_path}/b is in no table: it was not evaluated on {VAL} or voc-2007_test",
    ]


def test_an_encoder_the_paper_does_not_have_is_shown_under_its_own_name():
    def shown(encoder):
        group = table.Group("max", {"model.encoder": encoder}, {}, {})
        return markdown.architecture(table.Line(paper.TABLES[0].rows[0], group, {}, False))

    assert [shown(x) for x in ("resnet50", "swin")] == ["ResNet-50", "swin"]
    assert markdown.architecture(table.Line(paper.TABLES[0].rows[0], None, {}, False)) == (
        "ResNet-101"
    )
