import numpy as np
import pytest

from benchmarks.photographs import figure
from tests.commands import call

COLUMNS = "step,epoch,encoder_cls,encoder_re,loss_re,map_size\n"


@pytest.fixture
def folder(tmp_path):
    """Two rows at two moments."""
    for row, scale in (("max", 1.0), ("supervised", 2.0)):
        lines = f"89,0.5,{scale},3.0,0.2,0.4\n178,1.0,{scale},1.5,0.3,0.4\n"
        (tmp_path / f"probe_photographs-{row}.csv").write_text(COLUMNS + lines)
    return tmp_path


def test_weighted_ratio_is_the_weighted_gradient_by_that_of_the_classification(folder):
    probes = figure.read(folder)
    assert list(probes) == ["max", "supervised"]
    np.testing.assert_allclose(figure.weighted_ratio(probes["max"], 4.0), [12, 6])
    np.testing.assert_allclose(figure.weighted_ratio(probes["supervised"], 1 / 15), [0.1, 0.05])


def test_what_is_drawn_are_these_numbers(folder):
    probes = figure.read(folder)
    left, right = figure.draw(probes).axes
    drawn = {(line.get_label(), line.get_linestyle()): line.get_ydata() for line in left.lines[:4]}
    np.testing.assert_allclose(drawn["max", "--"], [12, 6])
    np.testing.assert_allclose(drawn["supervised", "-"], [0.1, 0.05])
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["1/15 (OASS)", "4 (PuzzleCAM)"]
    distances = {line.get_label(): line.get_ydata() for line in right.lines}
    np.testing.assert_allclose(distances["supervised"], [0.5, 0.75])


def test_puzzlecam_is_drawn_with_its_own_weight_alone(folder):
    (folder / "probe_photographs-max.csv").rename(folder / "probe_photographs-puzzlecam.csv")
    left, _ = figure.draw(figure.read(folder)).axes
    drawn = [(line.get_label(), line.get_linestyle()) for line in left.lines[:3]]
    assert drawn == [("puzzlecam", "--"), ("supervised", "-"), ("supervised", "--")]


def test_the_command_writes_the_same_file_each_time(folder):
    contents = []
    for name in ("a.png", "b.png"):
        done = call([folder, f"--out={folder / name}"], command=figure.main)
        assert done.returncode == 0, done.stderr
        contents.append((folder / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG")


def test_a_folder_without_probes_is_one_sentence(tmp_path):
    done = call([tmp_path, f"--out={tmp_path / 'x.png'}"], command=figure.main)
    assert done.returncode == 2
    assert "run benchmarks.photographs.probe first" in done.stderr
