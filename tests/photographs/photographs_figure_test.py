import numpy as np
import pytest

from benchmarks.photographs import figure
from tests.commands import call

COLUMNS = "seed,step,epoch,encoder_cls,encoder_re,loss_re,map_size\n"


@pytest.fixture
def folder(tmp_path):
    """Two rows at two moments."""
    for row, scale in (("max", 1.0), ("supervised", 2.0)):
        lines = f"4,89,0.5,{scale},3.0,0.2,0.4\n4,178,1.0,{scale},1.5,0.3,0.4\n"
        (tmp_path / f"probe_{row}_seed4.csv").write_text(COLUMNS + lines)
    return tmp_path


def test_weighted_ratio_is_the_weighted_gradient_by_that_of_the_classification(folder):
    probes = figure.read(folder)
    assert list(probes) == [("supervised", 4), ("max", 4)]
    # PuzzleCAM's weight is 2 after half an epoch and 4 from the first on; that of OASS rises for
    # two epochs by 1.2.
    np.testing.assert_allclose(figure.weighted_ratio(probes["max", 4], "puzzlecam"), [6, 6])
    expected = [1.5 * 0.3 / 15, 0.75 * 0.6 / 15]
    found = figure.weighted_ratio(probes["supervised", 4], "max")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_drawn_are_these_numbers(folder):
    probes = figure.read(folder)
    left, right = figure.draw(probes).axes
    drawn = {(line.get_label(), line.get_linestyle()): line.get_ydata() for line in left.lines[:4]}
    np.testing.assert_allclose(drawn["max, seed 4", "--"], [6, 6])
    np.testing.assert_allclose(drawn["supervised, seed 4", "-"], [0.03, 0.03], rtol=1e-6)
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["OASS", "PuzzleCAM"]
    distances = {line.get_label(): line.get_ydata() for line in right.lines}
    np.testing.assert_allclose(distances["supervised, seed 4"], [0.5, 0.75])


def test_puzzlecam_is_drawn_with_its_own_weight_alone(folder):
    (folder / "probe_max_seed4.csv").rename(folder / "probe_puzzlecam_seed4.csv")
    left, _ = figure.draw(figure.read(folder)).axes
    drawn = [(line.get_label(), line.get_linestyle()) for line in left.lines[:3]]
    assert drawn == [
        ("supervised, seed 4", "-"),
        ("supervised, seed 4", "--"),
        ("puzzlecam, seed 4", "--"),
    ]


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
