import csv
import subprocess
import sys
from pathlib import Path

import pytest

from oass_jax import table

ROOT = Path(__file__).parents[2]
EMPTY = "\N{EN DASH}"


@pytest.fixture
def tables(capsys):
    """A function that runs the command and returns what it prints."""

    def run(*words):
        table.main([*map(str, words)])
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def cells(text, number, method, architecture=""):
    """The cells after the method, in the table of that number."""
    part = text.split(f"**Table {number}.**")[1].split("**Table")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
    (found,) = [row[1:] for row in rows if row[:1] == [method] and row[1].startswith(architecture)]
    return found


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_ours_stands_beside_the_papers(tmp_path, write_seeds, tables):
    write_seeds(tmp_path / "puzzlecam", [89.0, 89.5, 90.0], config="puzzlecam")
    write_seeds(tmp_path / "max", [92.0, 92.5, 93.5], config="max_csi")
    out = tmp_path / "out"
    text = tables(tmp_path, f"--out={out}")
    assert (out / "tables.md").read_text(encoding="utf-8") == text
    assert cells(text, 1, "PuzzleCAM", "ResNet-50") == [
        *("ResNet-50", "3", "89.50 ± 0.50", "89.30", "+0.20", EMPTY, EMPTY)
    ]
    # Differences 3, 3, 3.5: deviation 0.288675, times 4.302653 / sqrt(3).
    interval = "+3.17 [+2.45, +3.88] n=3"
    assert cells(text, 1, "Ours (Max)") == [
        *("ResNet-50", "3", "92.67 ± 0.76", "92.45", "+0.22", interval, EMPTY)
    ]
    assert cells(text, 1, "MCAR") == ["ResNet-50", "0", EMPTY, "90.04", EMPTY, EMPTY, EMPTY]
    assert "`voc-2012_val`, 1,449 images." in text
    assert "not comparable" not in text
    (line,) = [row for row in rows_of(out / "table1.csv") if row["row"] == "max_csi"]
    assert line["seeds"] == "0 1 2"
    assert (line["map_mean"], line["map_std"]) == ("92.6667", "0.7638")
    assert (line["paper_voc-2012_val"], line["difference"]) == ("92.4500", "0.2167")
    assert (line["vs_puzzlecam"], line["vs_puzzlecam_seeds"]) == ("3.1667", "3")
    assert line["vs_supervised"] == ""
    assert not list(out.glob("*.tmp"))
    assert {path.name for path in out.iterdir()} == {
        *("tables.md", "table1.csv", "table2.csv", "table3.csv", "runs.csv")
    }


def test_every_table_has_the_papers_figures_without_a_run(tmp_path, write_run, tables):
    write_run(tmp_path / "going_on", ended=False)
    text = tables(tmp_path)
    assert cells(text, 1, "Ours (w/ gt-bbox)")[3] == "92.62"
    assert cells(text, 1, "Supervised")[3] == EMPTY
    assert cells(text, 2, "PuzzleCAM")[3] == "81.37"
    assert cells(text, 2, "Ours (Max) w/ CSI")[3] == "84.27"
    assert cells(text, 2, "Ours (cTopk-w) w/o CSI")[3] == "88.43"
    assert cells(text, 3, "Ours (cMax) w/o CSI")[3] == "91.58"
    assert cells(text, 3, "Ours (cMax) w/ CSI")[3] == "92.08"
    assert f"{tmp_path}/going_on is omitted: the run is not finished" in text


def test_table_2_is_of_another_split_than_the_papers(tmp_path, write_run, tables):
    both = {"voc-2012_val": 92.0, "voc-2007_test": 88.0}
    write_run(tmp_path / "run", evaluations=both, config="max_csi")
    text = tables(tmp_path, f"--out={tmp_path}")
    row = ["ResNet-50", "1", f"88.00 ± {EMPTY}", "84.27", EMPTY, EMPTY, EMPTY]
    assert cells(text, 2, "Ours (Max) w/ CSI") == row
    assert "The labels of VOC2012 test are not public" in text
    assert [
        (row["evaluation"], row["map"], row["map_voc"]) for row in rows_of(tmp_path / "runs.csv")
    ] == [
        ("voc-2012_val", "92.0000", "93.0000"),
        ("voc-2007_test", "88.0000", "89.0000"),
    ]


def test_the_demo_is_not_comparable_with_the_paper(tmp_path, write_run, tables):
    found = {"evaluations": {"digit_scenes_val": 96.25}, "images": 1000}
    write_run(tmp_path / "run", config="demo:max", **found)
    text = tables(tmp_path)
    assert cells(text, 3, "Ours (Max) w/o CSI")[:5] == [
        *("tiny ResNet", "1", f"96.25 ± {EMPTY}", "92.38", EMPTY)
    ]
    assert "`digit_scenes_val`, 1,000 images." in text
    assert "of VOC2012 val, 1,449 images: they stand here for reference" in text
    assert "instead of" not in text


def test_other_settings_are_a_line_and_a_footnote(tmp_path, write_seeds, tables):
    write_seeds(tmp_path / "a", [92.0, 92.0])
    write_seeds(tmp_path / "b", [80.0], num_epochs=8.0)
    text = tables(tmp_path, f"--out={tmp_path}")
    assert cells(text, 3, "Ours (Max) w/o CSI")[1] == "2"
    assert cells(text, 3, "Ours (Max) w/o CSI [1]")[1] == "1"
    assert "\n[1] num_epochs=8.0 instead of 120.0\n" in text
    assert [row["differs"] for row in rows_of(tmp_path / "runs.csv")] == [
        *("", "", "num_epochs=8.0 instead of 120.0")
    ]


def test_an_encoder_of_no_config_stands_in_under_its_own_name(tmp_path, write_run, tables):
    write_run(tmp_path / "run", model__encoder="convnext")
    assert cells(tables(tmp_path), 3, "Ours (Max) w/o CSI [1]")[:2] == ["convnext", "1"]


def test_equal_footnotes_are_one(tmp_path, write_run, tables):
    write_run(tmp_path / "a", num_epochs=8.0)
    write_run(tmp_path / "b", config="cmax", num_epochs=8.0)
    write_run(tmp_path / "c", config="ctopk", batch_size=16)
    text = tables(tmp_path)
    for method in ("Ours (Max) w/o CSI [1]", "Ours (cMax) w/o CSI [1]", "Ours (cTopk) w/o CSI [2]"):
        assert cells(text, 3, method)[1] == "1"
    assert text.count("\n[1] num_epochs=8.0 instead of 120.0\n") == 1
    assert text.count("\n[2] batch_size=16 instead of 32\n") == 1


def test_what_the_paper_has_no_row_for_is_a_table_of_its_own(tmp_path, write_seeds, tables):
    write_seeds(tmp_path / "max", [92.0, 92.5, 93.5])
    write_seeds(tmp_path / "mine", [93.0, 93.5, 94.0], keypoint__strategy="mine")
    write_seeds(tmp_path / "small", [80.0], keypoint__strategy="mine", batch_size=16)
    text = tables(tmp_path, f"--out={tmp_path}")
    others = text.split("**Others.** ")[1]
    assert others.startswith("What the paper has no row for: `voc-2012_val`, 1,449 images.\n")
    lines = [line.split("|")[1:-1] for line in others.splitlines() if "keypoint mine" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        [
            *("ema teacher, keypoint mine", "ResNet-50", "3", "93.50 ± 0.50", EMPTY, EMPTY),
            *(EMPTY, EMPTY, "+0.83 [+0.12, +1.55] n=3"),
        ],
        [
            *("ema teacher, keypoint mine [1]", "ResNet-50", "1", f"80.00 ± {EMPTY}"),
            *[EMPTY] * 5,
        ],
    ]
    assert "[1] batch_size=16 instead of 32\n" in others
    first, _ = rows_of(tmp_path / "table_others.csv")
    assert (first["vs_max"], first["vs_max_seeds"], first["paper_voc-2012_val"]) == (
        *("0.8333", "3", ""),
    )
    assert "in no table" not in text


def test_a_run_that_was_made_again_does_not_count(tmp_path, write_run, tables):
    write_run(tmp_path / "a", keypoint__strategy="center")
    write_run(tmp_path / "b", 91.0, day=2)
    write_run(tmp_path / "c", 92.0, day=1)
    tables(tmp_path, f"--out={tmp_path}")
    assert [(row["row"], row["counts"]) for row in rows_of(tmp_path / "runs.csv")] == [
        ("ema teacher, keypoint center", "1"),
        ("max", "1"),
        ("max", "0"),
    ]


def test_columns_are_aligned_and_no_note_is_repeated(tmp_path, write_run, tables):
    both = {"voc-2012_val": 90.0, "voc-2007_test": 80.0}
    write_run(tmp_path / "a", evaluations=both)
    write_run(tmp_path / "b", evaluations=both)
    lines = tables(tmp_path).splitlines()
    grids = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in grids}) == 3
    (note,) = [line for line in lines if line.startswith("* ")]
    assert "max, seed 0 was run twice" in note


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: WORKDIR"),
        (["{}/nowhere"], "is no folder"),
        (["{}/empty"], "holds no run"),
        (["{}/runs", "--evaluation=x"], "--evaluation is not a flag: did you mean --eval?"),
        (["{}/runs", "--eval=voc-2012_vall"], "did you mean voc-2012_val?"),
        (["{}/runs", "--test=voc-2012_test"], "no finished run was evaluated on it"),
        (["{}/runs", "--out={}/runs/run/config.json"], "cannot write to --out="),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(tmp_path, write_run, capsys, words, message):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "runs" / "run")
    with pytest.raises(SystemExit) as status:
        table.main([word.replace("{}", str(tmp_path)) for word in words])
    printed = capsys.readouterr()
    assert (status.value.code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err


def test_it_does_without_jax(tmp_path, write_run):
    write_run(tmp_path / "run")
    code = (
        "import sys; from oass_jax import table; table.main(sys.argv[1:]);"
        "print([name for name in ('jax', 'flax', 'sklearn') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_of_the_command_names_the_flags():
    words = [sys.executable, "-m", "oass_jax.table", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("WORKDIR", "--out", "--eval", "--test"))
