"""oass_jax.load: the numbers of the evaluation for any image, and maps that lie in place."""

import csv
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import oass_jax
from oass_jax.errors import UserError
from oass_jax.evaluation import cam
from tests.commands import call, mesh_of
from tests.imports_test import imported

EVALUATION = "eval/digit_scenes_val[:48]"


@pytest.fixture(autouse=True, scope="module")
def _one_device():
    with mesh_of(1):
        yield


@pytest.fixture(scope="module")
def model(finished_run):
    return oass_jax.load(finished_run)


@pytest.fixture(scope="module")
def photo(scenes):
    return min(scenes.iterdir())


def evaluated(folder):
    """File name -> class -> probability, as the evaluation wrote them."""
    with (folder / EVALUATION / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row.pop("image"): {name: float(p) for name, p in row.items()} for row in rows}


def assert_as_evaluated(results, folder):
    expected = evaluated(folder)
    for result in results:
        wanted = expected[result.name.rpartition("/")[2]]
        assert list(result.probability) == list(wanted)
        found = np.array(list(result.probability.values()))
        np.testing.assert_allclose(found, list(wanted.values()), atol=1e-5, rtol=0)
    assert len({tuple(wanted.values()) for wanted in expected.values()}) > 40


def test_importing_the_package_is_light():
    assert imported("oass_jax", ("jax", "numpy", "PIL", "ml_collections")) == "[]"


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "3"])
def test_a_batch_is_a_whole_number_of_images(batch_size):
    with pytest.raises(UserError, match=f"batch_size={batch_size}: must be a whole number"):
        oass_jax.load("any", batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_probabilities_are_those_of_the_evaluation(finished_run, scenes, batch_size):
    model = oass_jax.load(finished_run, batch_size=batch_size)
    results = model(sorted(scenes.iterdir()))
    assert [result.name for result in results] == sorted(map(str, scenes.iterdir()))
    assert_as_evaluated(results, finished_run)
    assert_as_evaluated([model(results[3].name)], finished_run)


def test_the_config_of_the_run_says_how_to_predict(run_with, scenes):
    fields = {"weights": "ema", "logits": "mean", "scales": [0.5], "flip": True}
    fields |= {"image_px": 64, "checkpoint": "best"}
    folder = run_with({f"eval.{name}": value for name, value in fields.items()})
    done = call([f"--workdir={folder}", "--mode=eval"])
    assert done.returncode == 0, done.stderr
    results = oass_jax.load(folder, batch_size=5)(sorted(scenes.iterdir()))
    assert_as_evaluated(results, folder)


def test_a_precision_is_taken_of_the_network_that_predicts(run_with):
    folder = run_with()
    decided = oass_jax.load(folder, threshold="precision=0.5").decision
    assert decided.source.startswith("precision >= 0.5 on digit_scenes_val[:48], 48 images")
    summary = folder / EVALUATION / "summary.json"
    made = json.loads(summary.read_text())
    summary.write_text(json.dumps(made | {"step": made["step"] - 1}))
    sentence = f"at step {made['step'] - 1}, and the run predicts with the network of step "
    with pytest.raises(UserError, match=sentence):
        oass_jax.load(folder, threshold="precision=0.5")


def test_several_devices_share_a_batch(finished_run, scenes):
    with mesh_of(2):
        model = oass_jax.load(finished_run, batch_size=3)
        assert model.batch_size == 4
        assert_as_evaluated(model(sorted(scenes.iterdir())[:5]), finished_run)


def test_a_cpu_computes_in_float32(run_with, photo, model):
    other = oass_jax.load(run_with({"model.dtype": "bfloat16"}))
    assert other(photo).probability == model(photo).probability


def test_paths_bytes_images_of_pil_and_arrays_are_one(model, photo):
    image = Image.open(photo)
    pixels = np.asarray(image.convert("RGB"))
    results = model([photo, str(photo), image, pixels, photo.read_bytes()])
    assert len({tuple(result.probability.values()) for result in results}) == 1
    assert [result.name for result in results] == [str(photo)] * 3 + ["image 4", "image 5"]
    gray = pixels[..., 0]
    as_rgb = np.repeat(gray[..., None], 3, axis=-1)
    assert model(gray).probability == model(as_rgb).probability
    assert model([]) == []


def test_an_image_is_upright(model, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(photo).convert("RGB"))[:20]
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = np.rot90(pixels, -1)
    result, expected = model([tmp_path / "x.png", upright])
    assert result.size == upright.shape[:2]
    assert result.probability == expected.probability


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no/where.jpg", "no/where.jpg cannot be read: No such file"),
        (
            np.zeros([4, 4, 3], np.float32),
            r"image 1 is float32 \[4, 4, 3\] of ndarray: an image is",
        ),
        (np.zeros([4, 4, 4], np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros([0, 4, 3], np.uint8), r"uint8 \[0, 4, 3\]"),
        (7, "of int: an image is a path"),
        (Image.new("F", (4, 4)), "image 1 cannot be decoded .*no known range"),
    ],
)
def test_what_is_no_image_is_one_sentence(model, image, message):
    with pytest.raises(UserError, match=message):
        model(image)


def test_labels_are_at_or_above_their_threshold_most_probable_first(finished_run, model, photo):
    probability = model(photo).probability
    ranked = sorted(probability, key=probability.get, reverse=True)
    third = probability[ranked[2]]
    model = oass_jax.load(finished_run, threshold=third)
    assert model(photo).labels == tuple(ranked[:3])
    assert model.decision.source == f"{third:g} for every class"


def test_one_program_serves_every_number_and_size_of_images(model, photo):
    model([photo] * 3)
    for height, width in ((5, 3), (200, 90), (32, 32)):
        model(np.zeros([height, width, 3], np.uint8))
    assert model._predict_fn._cache_size() == 1


def test_a_stream_reads_a_few_images_ahead(finished_run, photo):
    model = oass_jax.load(finished_run, batch_size=2)
    taken = itertools.count()
    endless = ((next(taken) and photo) or photo for _ in itertools.repeat(None))
    stream = model.stream(endless)
    assert next(stream).name == str(photo)
    stream.close()
    assert next(taken) < 500


def test_a_stream_goes_on_after_an_image_that_cannot_be_read(model, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:100])
    images = [photo, tmp_path / "broken.jpg", photo, "no/where.jpg"]
    errors = []
    results = list(model.stream(images, on_error=errors.append))
    assert [result.name for result in results] == [str(photo)] * 2
    assert len(errors) == 2
    with pytest.raises(UserError, match=r"broken\.jpg cannot be decoded"):
        list(model.stream(images))


# Class maps.


def colours(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def test_the_mean_of_the_raw_map_is_the_base_logit(run_with):
    result = oass_jax.load(run_with({"eval.logits": "base"}))(colours(32, 32))
    probability = np.array(list(result.probability.values()))
    logits = np.log(probability / (1 - probability))
    np.testing.assert_allclose(result.maps.mean(axis=(1, 2)), logits, atol=1e-5)
    assert result.maps.dtype == np.float32
    assert result.class_map(next(iter(result.probability))).dtype == np.float32


@pytest.mark.parametrize(("scales", "scale"), [([1.0], 1.0), ([0.5, 1.5], 0.5)])
def test_class_maps_lie_where_the_measurement_of_class_maps_has_them(run_with, scales, scale):
    model = oass_jax.load(run_with({"eval.image_px": 64, "eval.scales": scales}))
    for size in ((64, 64), (40, 64), (200, 130), (7, 5), (33, 3)):
        assert_lies_as_measured(model(colours(*size)), size, scale)


def assert_lies_as_measured(result, size, scale):
    assert result.size == size
    name, stride = list(result.probability)[2], 16
    shrunk = np.array(result.image.shape[:2])
    on_canvas = np.maximum(np.round(shrunk * scale), 1)
    rows, columns = np.ceil(on_canvas / stride).astype(int)
    assert result.maps.shape == (len(result.probability), rows, columns)
    maps = np.zeros([1, 8, 8, 1], np.float32)
    maps[0, :rows, :columns, 0] = result.maps[2]
    expected = cam.to_pixels(
        jnp.asarray(maps),
        jnp.asarray(on_canvas[None]),
        jnp.array([size]),
        stride=stride,
        mirrored=False,
        out_px=256,
    )
    expected = np.asarray(expected)[0, : size[0], : size[1], 0]
    np.testing.assert_allclose(result.class_map(name), expected, atol=1e-5)
    y, x = result.keypoint(name)
    found = result.class_map(name)
    assert found.shape == size
    # The cell's centre is a corner of pixels or near one.
    assert found[y, x] >= found.max() - 0.1 * np.ptp(result.maps[2])


def test_maps_come_from_the_pass_of_the_scores(model, photo, monkeypatch):
    passes = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: passes.append(x) or device_get(x))
    result = model(photo)
    name = next(iter(result.probability))
    result.class_map(name), result.overlay(name), result.keypoint(name)
    assert len(passes) == 1


def test_an_unknown_class_is_reported(model, photo):
    result = model(photo)
    for method in (result.class_map, result.overlay, result.keypoint):
        with pytest.raises(UserError, match="'11' is not a class"):
            method("11")


def test_an_overlay_is_large_enough_for_its_title(model):
    for size in ((32, 20), (3, 64), (600, 400)):
        image = model(colours(*size)).overlay("three")
        assert max(image.size) >= 320
        assert image.mode == "RGB"


def test_an_unfinished_or_missing_run_is_reported(finished_run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        oass_jax.load(tmp_path)
    for name in ("classes.txt", "config.json"):
        shutil.copy(finished_run / name, tmp_path)
    with pytest.raises(UserError, match="there are no checkpoints"):
        oass_jax.load(tmp_path)
