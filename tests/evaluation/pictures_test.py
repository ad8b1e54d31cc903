"""The pictures of a run: which images, what is drawn of them, what is left in the workdir."""

import io
import json

import numpy as np
import pytest
import scipy.special
from PIL import Image

from oass_jax.evaluation import decision, panels, pictures
from oass_jax.evaluation.evaluator import Evaluator, open_split
from oass_jax.evaluation.pictures import Pictures
from oass_jax.evaluation.predictor import Predictor
from oass_jax.evaluation.result import Result
from oass_jax.run.console import Console
from oass_jax.run.restore import open_run
from oass_jax.run.workdir import Workdir
from tests.commands import call, mesh_of

PX = 64  # of 96: cells of 16 px, four by four


@pytest.mark.parametrize(
    ("num_images", "count", "expected"),
    [(10, 2, [2, 7]), (3, 8, [0, 1, 2]), (7, 3, [1, 3, 5]), (5, 0, []), (1449, 1, [724])],
)
def test_the_sample_is_spread_evenly(num_images, count, expected):
    assert pictures.sample(num_images, count) == expected


def result_of(probabilities, labels):
    return Result("x.png", probabilities, labels, (4, 4), None, (1.0, 1.0), None)


def test_what_is_present_or_predicted_is_found_in_the_order_of_importance():
    probabilities = {"a": 0.6, "b": 0.9, "c": 0.2, "d": 0.3, "e": 0.1, "f": 0.7, "g": 0.8}
    result = result_of(probabilities, ("b", "g", "f", "a"))
    label = np.array([1, 1, 1, 1, 0, 0, -1])
    found = [("b", "true"), ("a", "true"), ("d", "missed"), ("c", "missed"), ("f", "false")]
    assert pictures.findings(result, label) == [*found, ("g", "predicted")]
    nothing_known = [(name, "predicted") for name in "bgfa"]
    assert pictures.findings(result, None) == nothing_known


@pytest.fixture(scope="module")
def evaluated(finished_run):
    """The run, its split and what is predicted of it, on a larger canvas."""
    folder = Workdir(finished_run, writes=False)
    with mesh_of(1):
        run = open_run(folder)
    run.config.eval.image_px = PX
    split = open_split(run.config, folder, run.config.eval.split, run.class_names)
    evaluator = Evaluator(run.config, folder, split, run.network, run.mesh, Console())
    evaluation, _ = evaluator(run.model, run.step)
    return run, split, evaluation


@pytest.fixture
def draw(evaluated, tmp_path, monkeypatch):
    """A function that draws two images; gives the pictures, and how each image itself was drawn."""
    run, split, evaluation = evaluated

    def draw(fields=None, **changes):
        config = run.config.copy_and_resolve_references()
        config.update_from_flattened_dict({"eval.num_pictures": 2} | (fields or {}))
        drawn, draw_image = [], panels.draw_image

        def spy(image, title, **options):
            drawn.append(options | {"title": title})
            return draw_image(image, title, **options)

        with monkeypatch.context() as patched:
            patched.setattr(panels, "draw_image", spy)
            draw_fn = Pictures(config, Workdir(tmp_path), run.network, run.mesh, split)
            return draw_fn(run.model, evaluation._replace(**changes)), drawn

    return draw


def test_the_cut_is_where_the_maps_of_the_labels_peak(draw, evaluated):
    run, split, evaluation = evaluated
    found, drawn = draw()
    names = [split.filename(index).removesuffix(".jpg") for index in (12, 36)]
    assert [picture.name for picture in found] == [f"01_{names[0]}", f"02_{names[1]}"]
    decided = decision.Decision(np.full(len(split.class_names), 0.5), "")
    model = Predictor(None, run, decided, batch_size=1)
    for image, index in zip(drawn, [12, 36], strict=True):
        record = split.source[index]
        result = model(np.asarray(Image.open(io.BytesIO(record["image"]))))
        merged = result.maps[evaluation.label[index] == 1].max(axis=0)
        assert merged.shape == (4, 4)
        peak = np.array(np.unravel_index(merged.argmax(), merged.shape))
        assert image["title"] == "max keypoint"
        np.testing.assert_array_equal(image["keypoint_yx"], 80 * peak)  # cells of 320 / 4 px
        np.testing.assert_array_equal(image["cut_yx"], 80 * peak.clip(1, 3))
        np.testing.assert_array_equal(image["boxes"], record["objects"]["bbox"])


def test_a_channel_wise_method_cuts_for_the_most_probable_label(draw, evaluated):
    _, split, evaluation = evaluated
    _, drawn = draw({"keypoint.strategy": "ctopk_w"})
    for image, index in zip(drawn, [12, 36], strict=True):
        logits = np.where(evaluation.label[index] == 1, evaluation.prediction[index], -np.inf)
        label = split.class_names[logits.argmax()]
        assert image["title"] == f"ctopk_w keypoint of {label}"


def test_where_there_are_no_labels_the_image_is_cut_for_what_is_predicted(draw, evaluated):
    _, _, evaluation = evaluated
    no_labels = {"label": np.zeros_like(evaluation.label)}
    fields = {"keypoint.strategy": "cmax"}
    found, drawn = draw(fields, **no_labels)
    for picture, image in zip(found, drawn, strict=True):
        assert picture.labels == []
        assert image["title"] == f"cmax keypoint of {picture.predicted[0]}"
    nothing = np.full_like(evaluation.prediction, -9)
    found, drawn = draw(fields, **no_labels, prediction=nothing, thresholds=None)
    assert [image["title"] for image in drawn] == ["image: not cut"] * 2
    assert {picture.size[0] for picture in found} == {320}


@pytest.mark.parametrize(
    "off", [{"teacher.mode": "none"}, {"loss.alpha_p": 0.0, "loss.alpha_re": 0.0}]
)
def test_a_method_without_patches_has_no_keypoint(draw, off):
    _, drawn = draw(off)
    assert [image["title"] for image in drawn] == ["image"] * 2
    assert all(image.keys() == {"title", "boxes"} for image in drawn)


def test_six_maps_are_drawn_and_the_others_named(draw, evaluated):
    _, _, evaluation = evaluated
    found, _ = draw(prediction=np.full_like(evaluation.prediction, 9))
    assert {picture.size[0] for picture in found} == {9 * 320 + 8 * 4}
    assert {len(picture.predicted) for picture in found} == {10}


def test_an_evaluation_leaves_its_pictures_and_their_index(run_with):
    folder = run_with({"eval.num_pictures": 3})
    done = call([f"--workdir={folder}", "--mode=eval"])
    assert done.returncode == 0, done.stderr
    evaluation = folder / "eval" / "digit_scenes_val[:48]"
    index = json.loads((evaluation / "pictures" / "index.json").read_text())
    with np.load(evaluation / "scores.npz") as arrays:
        images, names = arrays["image"].tolist(), arrays["class_name"]
        label, probability = arrays["label"], scipy.special.expit(arrays["prediction"])
        threshold = arrays["threshold"]
    assert [entry["image"] for entry in index] == [images[n] for n in (8, 24, 40)]
    for entry, n in zip(index, (8, 24, 40), strict=True):
        assert set(entry["labels"]) == set(names[label[n] == 1])
        assert set(entry["predicted"]) == set(names[probability[n] >= threshold])
        with Image.open(evaluation / "pictures" / entry["file"]) as picture:
            assert picture.size == (entry["width"], entry["height"])


def test_the_folder_holds_the_pictures_of_the_last_evaluation(draw, tmp_path):
    target = tmp_path / "eval" / "digit_scenes_val[:48]" / "pictures"
    for count in (3, 2, 0):
        found, _ = draw({"eval.num_pictures": count})
        files = {f"{picture.name}.jpg": picture.jpeg for picture in found}
        assert len(files) == count
        left = {path.name: path.read_bytes() for path in target.iterdir()}
        assert (left.pop("index.json", None) is None) == (not count)
        assert left == files


def test_a_name_is_safe_and_short(draw):
    names = ["a/b*.png"] * 24 + ["long" * 80 + ".png"] * 24
    found, _ = draw(filenames=names)
    assert [picture.filename for picture in found] == [names[0], names[-1]]
    assert [picture.name for picture in found] == ["01_b%2A", "02_" + "long" * 15]
