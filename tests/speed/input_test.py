"""The input benchmark runs, and its routes take the same images."""

import itertools
import json
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as benchmark
from oass_jax.data import pipeline
from tests.commands import call_benchmark

SMALL = ["--split=train_aug", "--batch_size=4", "--images=9", "--repeats=2", "--threads", "1"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, voc_files, write_tar):
    archives, folder = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("data")
    write_tar(archives / "any_name.tar", voc_files())
    (archives / "train_aug.txt").write_text("".join(f"2011_00000{n}\n" for n in range(1, 5)))
    pipeline.open_split("voc/2012", "val", pipeline.Location(data_dir=folder, manual_dir=archives))
    return folder


def test_every_route_decodes_the_same_images(data_dir, monkeypatch):
    split = pipeline.open_split("voc/2012", "train_aug", pipeline.Location(data_dir=data_dir))
    # In place of seconds, a route then returns what it made.
    monkeypatch.setattr(benchmark, "clock", lambda work, images: (list(work), images))
    options = Namespace(batch_size=4, images=9, threads=[1, 2])
    results = {name: route() for name, route in benchmark.routes(split, options).items()}
    assert {images for _, images in results.values()} == {16}
    for threads in (1, 2):
        batches, _ = results[f"batches, threads: {threads}"]
        canvases = itertools.chain.from_iterable(batch["image"] for batch in batches)
        for pixels, canvas in zip(results["PIL alone"][0], canvases, strict=True):
            colours = np.asarray(Image.fromarray(pixels).convert("RGB"))
            np.testing.assert_array_equal(canvas[: len(pixels), : pixels.shape[1]], colours)


def test_it_writes_what_it_prints(data_dir, tmp_path):
    done = call_benchmark(benchmark, *SMALL, f"--data_dir={data_dir}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "input.json").read_text())
    assert np.shape(list(result["seconds"].values())) == (3, 2, 2)
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())


def test_a_missing_folder_is_reported():
    done = call_benchmark(benchmark, "--data_dir=no_such_folder")
    assert done.returncode == 2
    assert "no_such_folder is no folder" in done.stderr
