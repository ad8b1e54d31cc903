"""The study's numbers, on runs of three classes and a few images that are made up here."""

import csv
import json
import shutil

import numpy as np
import pytest

from benchmarks.photographs import analyses, collect, study, tables
from oass_jax.errors import UserError
from oass_jax.evaluation.average_precision import mean_average_precision
from tests.commands import ROOT, call

CLASSES = ["aeroplane", "cat", "train"]
NUM_IMAGES = 60


def label():
    return (np.random.default_rng(0).random((NUM_IMAGES, 3)) < 0.3).astype(np.int8)


def logits(row, seed):
    """The better row sees the labels with less noise, which is mostly that of the seed."""
    rng = np.random.default_rng(seed)
    noise = 1.5 if row.startswith("supervised") else 0.5
    return (label() + noise * rng.normal(size=(NUM_IMAGES, 3))).astype(np.float32)


def write_run(folder, row, seed, *, head="base"):
    """What a finished run leaves that `collect` reads."""
    target = folder / f"photographs-{row}" / f"seed{seed}"
    evaluation = target / "eval" / collect.EVALUATION
    evaluation.mkdir(parents=True)
    cams = target / "cams" / collect.EVALUATION
    cams.mkdir(parents=True)
    maps = {"miou": 30.0 + seed * (2 if row == "max" else 1)}  # without boxes no game
    (cams / "summary.json").write_text(json.dumps(maps))
    alpha = 0.0 if row.startswith("supervised") else 1 / 15
    config = {
        "seed": seed,
        "num_epochs": 2.0,
        "batch_size": 16,
        "optimizer": {"encoder_learning_rate": 1e-4},
        "loss": {"alpha_p": alpha, "alpha_re": alpha},
        "eval": {"logits": head},
    }
    (target / "config.json").write_text(json.dumps(config))
    start = {"start": "2026-01-01T00:00:00+0000", "end": "2026-01-01T01:00:00+0000"}
    (target / "env.json").write_text(json.dumps({"starts": [start | {"command": ""}]}))
    lines = [{"step": step, "perf/images_per_sec": 8.0} for step in (50, 90)]
    (target / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    student = logits(row, seed)
    np.savez(
        evaluation / "scores.npz",
        image=np.array([f"{n}.jpg" for n in range(NUM_IMAGES)]),
        class_name=np.array(CLASSES),
        label=label(),
        prediction=student,
        **{f"student/{head}": student, f"ema/{head}": student + 1, "student/other": -student},
    )
    result = mean_average_precision(student, label())
    summary = {"map": result.map, "map_voc": result.map_voc, "num_images": NUM_IMAGES, "step": 90}
    (evaluation / "summary.json").write_text(json.dumps(summary))
    return target


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three seeds of two rows, collected; the last of `max` by the logits of CSI."""
    folder = tmp_path_factory.mktemp("runs")
    for row in ("supervised", "max"):
        for seed in range(3):
            head = "csi" if (row, seed) == ("max", 2) else "base"
            write_run(folder, row, seed, head=head)
    out = folder.parent / "results"
    done = call([folder, f"--out={out}"], command=collect.main)
    assert done.returncode == 0, done.stderr
    return out


def test_the_table_has_a_row_for_each_run(results):
    with (results / "photographs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"]) for row in rows] == [
        (row, str(seed)) for row in ("max", "supervised") for seed in range(3)
    ]
    expected = mean_average_precision(logits("max", 0), label()).map
    assert float(rows[0]["map"]) == pytest.approx(expected, abs=1e-4)
    assert float(rows[0]["hours"]) == pytest.approx(90 * 16 / 8 / 3600, abs=1e-4)
    assert (rows[1]["miou"], rows[1]["pointing_game"]) == ("32.0000", "")


def test_tuning_runs_have_a_table_of_their_own(tmp_path):
    for name, rate in (("a", 1e-4), ("b", 3e-5)):
        folder = write_run(tmp_path / name, "max", 0)
        (folder / "eval" / collect.EVALUATION).rename(folder / "eval" / collect.TUNING)
        config = json.loads((folder / "config.json").read_text())
        config["optimizer"]["encoder_learning_rate"] = rate
        (folder / "config.json").write_text(json.dumps(config))
    words = [tmp_path / "a", tmp_path / "b", f"--out={tmp_path}", "--tuning"]
    assert call(words, command=collect.main).returncode == 0
    table = tables.tuning_table(tmp_path / "photographs_tuning.csv")
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["0.0001", "3e-05"]
    assert "| `max` | " in table


def test_what_is_kept_gives_the_metrics_again(results):
    """float16 exchanges a few neighbours at most."""
    found = study.read(results)
    for (row, seed), columns in found.runs.items():
        again = mean_average_precision(found.scores[row, seed], found.label)
        assert again.map == pytest.approx(float(columns["map"]), abs=0.2)
    np.testing.assert_allclose(found.scores["max", 2], logits("max", 2), atol=2e-3)
    np.testing.assert_allclose(found.ema_scores["max", 2], logits("max", 2) + 1, atol=4e-3)


def test_runs_of_other_images_are_refused(results, tmp_path):
    folder = write_run(tmp_path, "max", 7)
    path = folder / "eval" / collect.EVALUATION / "scores.npz"
    arrays = dict(np.load(path))
    for other in (1 - arrays["label"], arrays["label"][1:]):
        np.savez(path, **arrays | {"label": other})
        done = call([tmp_path, f"--out={results}"], command=collect.main)
        assert done.returncode == 2
        assert "evaluated on other images or labels" in done.stderr


def test_a_difference_has_intervals_over_seeds_images_and_both(results):
    found = study.read(results)
    difference = found.difference("max", "supervised")
    gains = found.ap("max").mean(axis=1) - found.ap("supervised").mean(axis=1)
    assert difference.seeds == (0, 1, 2)
    assert difference.mean == pytest.approx(gains.mean())
    margin = 4.302653 * gains.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees
    expected = (gains.mean() - margin, gains.mean() + margin)
    assert difference.over_seeds == pytest.approx(expected, abs=1e-4)
    for low, high in (difference.over_images, difference.over_both):
        assert 0 < low < difference.mean < high

    def width(interval):
        return interval[1] - interval[0]

    assert width(difference.over_both) > width(difference.over_images)


def test_one_seed_says_nothing_about_seeds(tmp_path):
    """An interval over both would be that over the images under another name."""
    for row in ("supervised", "max"):
        write_run(tmp_path / "runs", row, 0)
    words = [tmp_path / "runs", f"--out={tmp_path}"]
    assert call(words, command=collect.main).returncode == 0
    found = study.read(tmp_path)
    difference = found.difference("max", "supervised")
    assert difference.over_seeds is difference.over_both is None
    sentence = tables.comparison(found, "max", "supervised")
    low, high = difference.over_images
    assert sentence.startswith("`max` against `supervised`, one seed: ")
    assert sentence.endswith(f"95 % interval over images {low:+.2f} to {high:+.2f}.")


def test_a_row_does_not_differ_from_itself_and_its_ema_ranks_alike(results):
    found = study.read(results)
    ema = np.nanmean(found.ap("max", ema=True), axis=1)
    assert ema == pytest.approx(np.nanmean(found.ap("max"), axis=1), abs=0.2)
    assert found.difference("max", "max").over_both == (0.0, 0.0)
    assert found.difference("max", "gt_bbox") is None


def test_classes_can_be_chosen(results):
    found = study.read(results)
    cat = found.difference("max", "supervised", classes=["cat"])
    aps = [found.ap(row)[:, 1] for row in ("max", "supervised")]
    assert cat.mean == pytest.approx((aps[0] - aps[1]).mean())


def test_tables_say_what_the_study_does(results, tmp_path):
    docs = tmp_path / "results.md"
    names = list(tables.create_blocks(results))
    marks = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\nkept\n" for name in names)
    docs.write_text(marks)
    done = call([results, f"--docs={docs}"], command=tables.main)
    assert done.returncode == 0, done.stderr
    text = docs.read_text(encoding="utf-8")
    difference = study.read(results).difference("max", "supervised")
    assert text.count("kept") == len(names)
    assert "old" not in text
    low, high = difference.over_seeds
    assert f"3 seeds: {difference.mean:+.2f} points of mAP" in text
    assert f"over seeds (Student's t) {low:+.2f} to {high:+.2f}: `max` is better" in text
    assert "| `max` | 3 | " in text
    assert "| cat | " in text
    before = docs.read_bytes()
    assert call([results, f"--docs={docs}"], command=tables.main).returncode == 0
    assert docs.read_bytes() == before


def test_class_maps_are_compared_over_seeds(results):
    one, two = tables.maps_table(study.read(results)).splitlines()[2:]
    # Differences of 0, 1 and 2: their mean and 4.302653 / sqrt(3) on either side.
    none = [tables.NONE] * 3
    expected = ["`supervised`", tables.NONE, "31.00 ± 1.00", *none[1:], *none]
    assert one.strip("| ").split(" | ") == expected
    expected = ["`max`", "`supervised`", "32.00 ± 2.00", "+1.00", "-1.48 to +3.48", *none]
    assert two.strip("| ").split(" | ") == expected


def test_a_longer_training_is_compared_with_one_as_long(results, tmp_path):
    for row in ("supervised", "max", "supervised_long", "max_long"):
        write_run(tmp_path / "runs", row, 0)
    words = [tmp_path / "runs", f"--out={tmp_path}"]
    assert call(words, command=collect.main).returncode == 0
    found = study.read(tmp_path)
    cells = {
        cells[0]: cells[5:7]
        for line in tables.rows_table(found).splitlines()[2:]
        for cells in [line.strip("| ").split(" | ")]
    }
    gain = found.difference("max_long", "supervised_long").mean
    assert cells["`max_long`"][1] == f"{gain:+.2f}"
    name, value = cells["`max_long`"][0].split(", ")
    (baseline,) = found.ap("supervised_long").mean(axis=1)
    assert name == "`supervised_long`"
    assert float(value) == pytest.approx(baseline, abs=0.2)  # float16
    assert cells["`supervised_long`"][0].startswith("`supervised`, ")
    assert cells["`supervised`"] == [tables.NONE] * 2


def cells_of(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_twins_are_compared_with_what_another_seed_changes(results):
    found = study.read(results)
    first, *_, last = cells_of(analyses.twins_table(found))
    seeds = [found.scores["supervised", seed].ravel() for seed in range(3)]
    pairs = [np.corrcoef(seeds[i], seeds[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    none = [tables.NONE] * 3
    assert last == ["`supervised`, any two seeds", *none, f"{np.mean(pairs):.3f}"]
    twin = np.corrcoef(found.scores["max", 1].ravel(), seeds[1])[0, 1]
    assert first[:1] + first[2:3] == ["`max`, `supervised`", f"{twin:.3f}"]


def test_other_weights_are_compared_with_those_seeds_of_max(results, tmp_path):
    """A row of one seed beside the mean of three would show what seeds do, not weights."""
    out = shutil.copytree(results, tmp_path / "results")
    write_run(tmp_path / "runs", "max_step1", 1)
    assert call([tmp_path / "runs", f"--out={out}"], command=collect.main).returncode == 0
    found = study.read(out)
    lines = cells_of(analyses.weights_table(found))
    assert [line[:2] for line in lines] == [
        ["`supervised`", "0, 1, 2"],
        ["`max`", "0, 1, 2"],
        ["`max`", "1"],
        ["`max_step1`", "1"],
    ]
    alone = found.difference("max", "supervised", seeds=(1,))
    assert lines[2][4] == f"{alone.mean:+.2f}"
    assert alone.mean != pytest.approx(found.difference("max", "supervised").mean, abs=0.01)


def test_heads_are_compared_with_one_another_and_with_the_row_without(results, tmp_path):
    out = shutil.copytree(results, tmp_path / "results")
    for seed in (0, 1):
        folder = write_run(tmp_path / "runs", "max_csi", seed, head="csi")
        path = folder / "eval" / collect.EVALUATION / "scores.npz"
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"student/base": logits("supervised", seed)})
    assert call([tmp_path / "runs", f"--out={out}"], command=collect.main).returncode == 0
    found = study.read(out)
    base, own, both, mean, mean_both = cells_of(analyses.heads_table(found))
    assert [line[:3] for line in (base, own, both, mean, mean_both)] == [
        ["`max_csi, base`", "`max`", "0, 1"],
        ["`max_csi, csi`", "`max_csi, base`", "0, 1"],
        ["`max_csi, csi`", "`max`", "0, 1"],
        ["`max_csi, the mean of both`", "`max_csi, base`", "0, 1"],
        ["`max_csi, the mean of both`", "`max`", "0, 1"],
    ]
    # Made up: its base is that of `supervised`, its csi that of `max`.
    gain = found.difference("max", "supervised", seeds=(0, 1)).mean
    assert float(base[3]) == pytest.approx(-gain, abs=0.2)
    assert float(own[3]) == pytest.approx(gain, abs=0.2)
    assert float(both[3]) == pytest.approx(0, abs=0.01)
    means = [np.mean([logits(row, s) for row in ("supervised", "max")], axis=0) for s in (0, 1)]
    aps = [mean_average_precision(x, found.label).ap for x in means]
    expected = np.mean(aps - found.ap("supervised")[:2])
    assert float(mean[3]) == pytest.approx(expected, abs=0.2)
    assert float(mean_both[3]) == pytest.approx(expected - gain, abs=0.2)
    assert abs(expected) > 1


def test_a_part_of_the_images_and_the_mean_of_seeds_are_studies_of_their_own(results):
    found = study.read(results)
    several = found.label.sum(axis=1) >= 2
    part = found.of_images(several)
    expected = mean_average_precision(found.scores["max", 1][several], found.label[several]).ap
    np.testing.assert_array_equal(part.ap("max")[1], expected)
    together = found.of_mean_logits(("max", "supervised"))
    mean = np.mean([found.scores["max", seed] for seed in range(3)], axis=0)
    (ap,) = together.ap("max")
    np.testing.assert_array_equal(ap, mean_average_precision(mean, found.label).ap)
    first, second = cells_of(analyses.afterwards_table(found))
    assert first[0].startswith(f"{several.sum()} images with several labels")
    assert second[2] == f"{together.difference('max', 'supervised').mean:+.2f}"


def test_a_run_without_class_maps_is_reported(tmp_path):
    folder = write_run(tmp_path / "runs", "max", 0)
    (folder / "cams" / collect.EVALUATION / "summary.json").unlink()
    done = call([tmp_path / "runs", f"--out={tmp_path}"], command=collect.main)
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        ["max, seed 0 has no class maps: --mode=cam --config.cam.split=val"],
    )


def test_a_document_without_a_place_and_a_folder_without_runs_are_one_sentence(results, tmp_path):
    (tmp_path / "docs.md").write_text("nothing")
    done = call([results, f"--docs={tmp_path / 'docs.md'}"], command=tables.main)
    assert done.returncode == 2
    assert "<!-- tuning --> is missing" in done.stderr
    done = call([tmp_path], command=tables.main)
    assert "run benchmarks.photographs.collect first" in done.stderr
    with pytest.raises(UserError, match=r"photographs\.csv"):
        study.read(tmp_path)


def test_the_document_has_a_place_for_every_block(results):
    blocks = tables.create_blocks(results)
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert all(block in tables.replace(text, blocks, name="docs") for block in blocks.values())


def test_runs_that_were_collected_before_stay(tmp_path):
    out = tmp_path / "results"
    for runs_dir, seeds in ((tmp_path / "first", (0, 1)), (tmp_path / "second", (1, 2))):
        for seed in seeds:
            write_run(runs_dir, "max", seed)
        done = call([runs_dir, f"--out={out}"], command=collect.main)
        assert done.returncode == 0, done.stderr
    with (out / "photographs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert study.read(out).seeds("max") == (0, 1, 2)
