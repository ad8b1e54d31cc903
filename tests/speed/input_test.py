"""The input benchmark runs, and its arithmetic is right."""

import io
import itertools
import json
import sys
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as benchmark
from oass_jax.data import pipeline
from tests.commands import call_benchmark, environment, help_of, run

SMALL = [
    *("--encoder=resnet_tiny", "--image_px=32", "--page=supervised", "--steps=4"),
    *("--batch_size=4", "--images=9", "--repeats=2", "--canvas_px=96", "--threads", "1", "2"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, voc_files, write_tar):
    archives, folder = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("data")
    write_tar(archives / "any_name.tar", voc_files())
    (archives / "train_aug.txt").write_text("".join(f"2011_00000{n}\n" for n in range(1, 5)))
    pipeline.open_split("voc/2012", "val", data_dir=folder, manual_dir=archives)
    return folder


def test_records_are_repeated_to_a_length():
    assert list(benchmark.Repeated(["a", "b"], 5)) == ["a", "b", "a", "b", "a"]
    assert list(benchmark.Repeated(["a", "b", "c"], 2)) == ["a", "b"]


def test_a_line_is_found():
    line = benchmark.fit([0, 1e6, 2e6, 4e6], [0.5, 2.5, 4.5, 8.5])
    assert (line["start"], line["slope"], line["r2"]) == pytest.approx((0.5, 2, 1))
    # By hand: the line is 1, 2, 3 with residuals 1/3, -2/3, 1/3; the mean is 2.
    line = benchmark.fit([1e6, 2e6, 3e6], [4 / 3, 4 / 3, 10 / 3])
    assert (line["start"], line["slope"]) == pytest.approx((0, 1))
    assert line["r2"] == pytest.approx(1 - (6 / 9) / (24 / 9))


def test_photographs_are_encoded_at_a_long_side():
    buffer = io.BytesIO()
    Image.new("L", (30, 60), 200).save(buffer, "PNG")
    image = Image.open(io.BytesIO(benchmark.resize(buffer.getvalue(), 16)))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (8, 16))
    assert benchmark.describe([buffer.getvalue()]).startswith("30 x 60 px")


def test_the_clock_gives_seconds_an_image(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", iter([100.0, 106.0]).__next__)
    monkeypatch.setattr(time, "process_time", iter([3.0, 12.0]).__next__)
    work = iter("ab")
    assert benchmark._clock(work, 3) == (2.0, 3.0)
    assert not list(work)


def test_every_route_takes_the_same_images(data_dir, monkeypatch):
    split = pipeline.open_split("voc/2012", "train_aug", data_dir=data_dir, manual_dir=None)
    monkeypatch.setattr(sys, "argv", ["input", *SMALL])
    # In place of seconds, a route then returns what it made.
    monkeypatch.setattr(benchmark, "_clock", lambda work, images: (list(work), images))
    routes = benchmark.routes(split, benchmark._parse())
    seen, images = {}, {}
    for name, route in routes.items():
        seen[name], images[name] = route()
    assert set(images.values()) == {16}
    expected = [example["image"] for example in seen["reader"]]
    assert len(expected) == 16
    for pixels, other in zip(seen["PIL alone"], expected, strict=True):
        assert pixels.shape[:2] == other.shape[:2]  # a gray one stays gray
    for threads in (1, 2):
        batches = seen[f"batches, threads: {threads}"]
        canvases = itertools.chain.from_iterable(batch["image"] for batch in batches)
        for pixels, other in zip(canvases, expected, strict=True):
            np.testing.assert_array_equal(pixels[: len(other), : other.shape[1]], other)


def test_help_answers_without_the_heavy_libraries():
    answer, loaded = help_of("benchmarks.input")
    assert "--manual_dir" in answer
    assert not {"jax", "grain", "matplotlib"} & set(loaded)


def test_it_writes_what_it_prints(data_dir, tmp_path):
    words = [*SMALL, f"--data_dir={data_dir}", f"--out={tmp_path}"]
    # It waits until as many threads are left as there were: not in a process with others.
    done = run([sys.executable, "-m", "benchmarks.input", *words], environment(1))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "input.json").read_text())
    assert np.shape(list(result["seconds"].values())) == (5 + len(benchmark.SIZES), 2, 2)
    assert len(result["growth"]["pixels"]) == len(benchmark.SIZES)
    assert len(result["run"]["images_per_sec"]) == 3
    assert all(0 <= share <= 1 for share in result["run"]["input_wait"])
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
    assert Image.open(tmp_path / "input_vs_size.png").format == "PNG"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data_dir=no_such_folder"], "no_such_folder is no folder"),
        (["--dataset=voc/2021"], "did you mean voc/2012?"),
        (["--manual_dir=no_such_folder"], "no_such_folder is no folder"),
        (["--steps=2"], "--steps=2"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, complaint):
    done = call_benchmark(benchmark, *SMALL, *words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_fails_tells_why(data_dir, monkeypatch, capfd):
    split = pipeline.open_split("voc/2012", "train_aug", data_dir=data_dir, manual_dir=None)
    monkeypatch.setattr(sys, "argv", ["input", *SMALL, f"--data_dir={data_dir}", "--page=maxx"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.train(split, benchmark._parse())
    error = capfd.readouterr().err
    assert "configs/maxx.py is not a config" in error
    assert "Traceback" not in error
