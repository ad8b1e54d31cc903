"""What is drawn is what the CSV says."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from oass_jax.figures import image_plots, plots, style
from oass_jax.figures.image_plots import ClassMap
from oass_jax.figures.object_shift import of_boxes
from oass_jax.figures.per_class_gain import Correlation, PerClassGain


@pytest.fixture
def shift():
    rng = np.random.default_rng(0)
    return of_boxes(rng.uniform(size=(40, 4)), np.arange(40) % 3, ("cat", "dog", "a$b$c", "none"))


@pytest.fixture
def gain():
    return PerClassGain(
        class_names=("cat", "dog", "cow"),
        ap=np.array([50.0, 60.0, np.nan]),
        baseline_ap=np.array([40.0, 70.0, np.nan]),
        interval=np.array([[5.0, 15.0], [-12.0, -8.0], [np.nan, np.nan]]),
        variance=np.array([100.0, 400.0, 200.0]),
        correlations=(
            Correlation("Pearson", -0.5, -0.75, 0.25, 3),
            Correlation("Spearman", np.nan, np.nan, np.nan, 3),
        ),
    )


def test_bars_of_the_shift_are_its_rows(shift):
    (axes,) = plots.draw_object_shift(shift, title="t").axes
    drawn = [[bar.get_height() for bar in bars] for bars in axes.containers if len(bars) == 4]
    rows = shift.rows()
    np.testing.assert_array_equal(drawn[0], [row[2] for row in rows])
    np.testing.assert_array_equal(drawn[1], [row[4] for row in rows])
    ends = axes.collections[0].get_segments()
    np.testing.assert_allclose(
        [np.ptp(end[:, 1]) / 2 for end in ends[:3]], [row[3] for row in rows[:3]]
    )
    assert [label.get_text() for label in axes.get_xticklabels()] == list(shift.class_names)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["|Δx|", "|Δy|"]


def test_bars_and_curve_of_the_gain_are_its_rows(gain):
    left, right = plots.draw_per_class_gain(gain, title="run against other").axes
    rows = np.array([row[1:] for row in gain.rows()])
    (bars,) = left.containers
    np.testing.assert_array_equal([bar.get_height() for bar in bars], rows[:, 2])
    ends = [segment[:, 1] for segment in left.collections[0].get_segments()[:2]]
    np.testing.assert_array_equal(ends, rows[:2, 3:5])
    (curve,) = right.lines
    np.testing.assert_array_equal(curve.get_ydata(), rows[:, 5])
    title = left.get_title().replace("\N{MINUS SIGN}", "-")
    assert title == "run against other\nPearson -0.50 [-0.75, +0.25], Spearman undefined"


def test_maps_stand_in_rows_of_runs_and_columns_of_images():
    image = Image.new("RGB", (20, 10))
    rows = [
        [ClassMap("1.png", "cat", run, p, image), ClassMap("2.png", "dog", run, p / 2, image)]
        for run, p in (("max", 0.5), ("a/long/path/of/a/run", 0.25))
    ]
    places = image_plots.draw_class_maps(rows).axes
    assert [place.get_title() for place in places] == ["cat\n0.50", "dog\n0.25", "0.25", "0.12"]
    assert [place.get_ylabel() for place in places] == ["max", "", "…ong/path/of/a/run", ""]
    assert image_plots.maps_rows(rows) == [
        ["1.png", "cat", "max", 0.5],
        ["1.png", "cat", "a/long/path/of/a/run", 0.25],
        ["2.png", "dog", "max", 0.25],
        ["2.png", "dog", "a/long/path/of/a/run", 0.125],
    ]


def test_equal_numbers_give_equal_files_whatever_the_users_settings_are(shift):
    files = style.render(plots.draw_object_shift, shift, title="a$b$c")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "x", "savefig.dpi": 50}):
        again = style.render(plots.draw_object_shift, shift, title="a$b$c")
    assert files == again
    assert list(files) == [".png", ".svg"]
    assert b"dc:date" not in files[".svg"]


def test_no_text_is_smaller_than_8_points(shift, gain):
    sizes = []

    def measured(draw_fn, *args, **kwargs):
        figure = draw_fn(*args, **kwargs)
        texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        sizes.extend(text.get_fontsize() for text in texts if text.get_text())
        return figure

    style.render(measured, plots.draw_object_shift, shift, title="t")
    style.render(measured, plots.draw_per_class_gain, gain, title="t")
    assert len(sizes) > 20
    assert min(sizes) >= 8
