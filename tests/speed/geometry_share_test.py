"""What is timed is the product's geometry, and what it is compared with computes the same."""

import functools
import json
from argparse import Namespace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import geometry, harness
from oass_jax.image import augment
from tests.commands import call_benchmark, help_of

SMALL = ["--encoder=resnet_tiny", "--image_px=64", "--batch_size=2", "--repeats=2"]


@functools.cache
def works():
    image, placement = geometry.random_images(Namespace(image_px=128, batch_size=5))
    views = augment.place_images(image, placement, 128)
    cut_and_tile = geometry.cut_and_tile(views, num_classes=3)
    return {"resample": geometry.place_work(image, placement)} | cut_and_tile, views


@pytest.mark.parametrize("name", ["resample", "cut", "tile"])
def test_alternatives_equal_the_product(name):
    work = works()[0][name]
    product = work.product(work.images)
    weighted = geometry.products(work, work.images)
    np.testing.assert_allclose(weighted, product, rtol=1e-4, atol=1e-5 * abs(product).max())
    gathered = geometry.gathers(work, work.images)
    np.testing.assert_allclose(gathered, product, rtol=1e-4, atol=1e-5 * abs(product).max())


def test_resampling_is_that_of_place_images():
    (work, *_), views = works()[0].values(), works()[1]
    pixels = augment.normalise(jnp.clip(work.product(work.images), 0, 255) / 255)
    inside = views != 0
    assert 0.3 < inside.mean() <= 1
    np.testing.assert_allclose(jnp.where(inside, pixels, 0), views, atol=1e-5)


def test_options_reach_the_product():
    work = works()[0]["cut"]
    product = work.product(work.images)
    np.testing.assert_array_equal(geometry.changed(work, work.images, antialias=True), product)
    assert abs(geometry.changed(work, work.images, antialias=False) - product).max() > 0.1


def test_gathers_are_refused_where_they_differ(monkeypatch):
    work = works()[0]["tile"]
    monkeypatch.setattr(geometry, "gathers", lambda work, maps: work.product(maps) + 1.0)
    with pytest.raises(AssertionError):
        geometry.alternatives("tile", work)


def test_gradient_by_hand():
    both = geometry.with_gradient(lambda x, y: x * y)
    result, gradient = both(2.0, 3.0, 5.0)
    assert (result, *gradient) == (15.0, 10.0, 6.0)


def test_help_answers_without_jax():
    answer, loaded = help_of("benchmarks.geometry")
    assert "--image_px" in answer
    assert "jax" not in loaded


def test_shares_are_printed_and_written(tmp_path, monkeypatch):
    class Step:
        flops = 1e9

        def __init__(self, page, options):
            assert (page in ("max", "max_csi"), options.image_px) == (True, 64)

        def run(self):
            return 0.5

    monkeypatch.setattr(harness, "Step", Step)
    done = call_benchmark(geometry, *SMALL, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "geometry.json").read_text())
    seconds = {name: np.array(values) for name, values in result["seconds"].items()}
    parts = ("place_images", "cut, product", "tile, product")
    np.testing.assert_allclose(seconds["geometry"], sum(seconds[name] for name in parts))
    share = np.median(seconds["geometry"]) / 0.5
    assert result["percent"]["geometry"] == pytest.approx(100 * share)
    assert result["percent"]["max_csi less max"] == 0
    assert result["flops"]["head with CSI"] > result["flops"]["head without"] > 0
    assert result["difference"]["tile, gather"] < 1e-4
    for row in result["table"]:
        assert all(str(cell) in done.stdout for cell in row.values())
