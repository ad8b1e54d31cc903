"""Data sets that tfds has prepared, whatever they are of."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from oass_jax.data import pipeline
from oass_jax.errors import UserError

LABEL = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
WITH_LABELS = {"image": tfds.features.Image(), "labels": tfds.features.Sequence(LABEL)}
WITH_OBJECTS = {
    "image": tfds.features.Image(),
    "image/filename": tfds.features.Text(),
    "objects": tfds.features.Sequence(
        {"bbox": tfds.features.BBoxFeature(), "label": LABEL, "is_crowd": np.bool_}
    ),
}


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def prepare(folder, features, examples):
    """Prepares a data set, and gives its folder."""
    features_dict = tfds.features.FeaturesDict(features)

    class AnyName(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.3.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=features_dict, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(examples)

    builder = AnyName(data_dir=folder)
    builder.download_and_prepare(file_format="array_record")
    return builder.data_path


def box(label, is_crowd):
    return {"bbox": tfds.features.BBox(0.0, 0.0, 0.5, 1.0), "label": label, "is_crowd": is_crowd}


@pytest.fixture
def with_labels(tmp_path):
    labels = [["ant"], ["cat", "ant"], []]
    examples = [{"image": png(n), "labels": present} for n, present in enumerate(labels)]
    return prepare(tmp_path, WITH_LABELS, examples)


def opened(path, split="train"):
    return pipeline.open_split("tfds", split, pipeline.Location(path=path))


def test_labels_alone(with_labels):
    split = opened(with_labels)
    assert split.class_names == ("ant", "bee", "cat")
    assert split.labels().tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert (split.has_boxes, split.version, split.filename(2)) == (False, "2.3.0", "2")
    assert len(opened(with_labels, "train[1:]")) == 2


def test_objects_with_boxes_and_crowds(tmp_path):
    examples = [
        {"image": png(0), "image/filename": "x.png", "objects": [box("cat", True)]},
        {"image": png(1), "image/filename": "y.png", "objects": [box("cat", False), box(1, True)]},
    ]
    split = opened(prepare(tmp_path, WITH_OBJECTS, examples))
    assert split.has_boxes
    assert split.filename(1) == "y.png"
    options = pipeline.ReadOptions(
        canvas_px=8, max_boxes=2, difficult="ignore", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 2, "process_index": 0, "process_count": 1}
    (batch,) = pipeline.eval_batches(split, options, **share)
    assert batch["label"].tolist() == [[0, 0, -1], [0, -1, 1]]
    assert batch["boxes"][0].tolist() == [[0, 0, 0.5, 1], [0, 0, 0, 0]]
    assert batch["image"][1, 0, 0].tolist() == [1, 0, 0]


def test_difficult_objects_without_boxes_count_as_such(tmp_path):
    objects = tfds.features.Sequence({"label": LABEL, "is_crowd": np.bool_})
    examples = [
        {
            "image": png(0),
            "objects": [{"label": "cat", "is_crowd": True}, {"label": "ant", "is_crowd": False}],
        }
    ]
    split = opened(
        prepare(tmp_path, {"image": tfds.features.Image(), "objects": objects}, examples)
    )
    assert not split.has_boxes
    assert split.labels("ignore").tolist() == [[1, 0, -1]]
    assert split.labels("negative").tolist() == [[1, 0, 0]]
    options = pipeline.ReadOptions(
        canvas_px=8, max_boxes=1, difficult="ignore", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 1, "process_index": 0, "process_count": 1}
    (batch,) = pipeline.eval_batches(split, options, **share)
    assert batch["label"].tolist() == [[1, 0, -1]]
    assert batch["box_label"].tolist() == [[-1]]


def test_other_data_of_the_same_number_of_records_is_told_apart(with_labels, tmp_path):
    """Else an evaluation of it would take the place of the run's own, with its thresholds."""
    examples = [{"image": png(n), "labels": ["bee", "ant"]} for n in range(3)]
    other = prepare(tmp_path / "other", WITH_LABELS, examples)
    one, two = opened(with_labels), opened(other)
    assert len(one) == len(two)
    assert pipeline.sources_checksum(one) != pipeline.sources_checksum(two)
    moved = with_labels.rename(tmp_path / "moved")
    assert pipeline.sources_checksum(opened(moved)) == pipeline.sources_checksum(one)


def test_a_data_set_by_its_name(with_labels, tmp_path):
    location = pipeline.Location(path=Path("any_name"), data_dir=tmp_path)
    assert len(pipeline.open_split("tfds", "train", location)) == 3
    location = pipeline.Location(path=Path("another"), data_dir=tmp_path)
    with pytest.raises(UserError, match=r"another is neither a folder with .* nor a prepared tfds"):
        pipeline.open_split("tfds", "train", location)


def test_what_is_no_such_data_set_is_a_sentence(with_labels, tmp_path):
    with pytest.raises(UserError, match=r"has no split 'val': there are train"):
        opened(with_labels, "val")
    with pytest.raises(UserError, match=r"'train\[x\]' is no slice"):
        opened(with_labels, "train[x]")
    with pytest.raises(UserError, match=r"is neither a folder with a dataset_info\.json nor"):
        opened(tmp_path / "nothing")
    with pytest.raises(UserError, match="needs the name or folder of its data set"):
        pipeline.open_split("tfds", "train", pipeline.Location())
    info = with_labels / "dataset_info.json"
    info.write_text(info.read_text()[:-20])
    with pytest.raises(UserError, match=r"is neither a folder with a dataset_info\.json nor"):
        opened(with_labels)


def test_other_features_are_named(tmp_path):
    features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
    path = prepare(tmp_path, features, [{"image": png(0), "caption": "a cat"}])
    with pytest.raises(UserError, match="has the features caption, image: it needs image and lab"):
        opened(path)


def test_another_file_format_is_refused(with_labels):
    info = with_labels / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"without TensorFlow: prepare it with file_format='array_"):
        opened(with_labels)


def test_what_is_not_there_is_no_label(tmp_path):
    """Class -1 is tfds' unknown; in Open Images a confidence of 0 says that people found none."""
    objects = {"bbox": tfds.features.BBoxFeature(), "label": LABEL, "confidence": np.int32}
    features = WITH_LABELS | {"objects": tfds.features.Sequence(objects)}

    def found(label, confidence):
        bbox = tfds.features.BBox(0.0, 0.0, 0.5, 1.0)
        return {"bbox": bbox, "label": label, "confidence": confidence}

    example = {"image": png(0), "labels": [-1], "objects": [found("bee", 9), found("cat", 0)]}
    split = opened(prepare(tmp_path, features, [example]))
    assert split.labels().tolist() == [[0, 1, 0]]
    record = split.source[0]["objects"]
    assert (len(record["bbox"]), record["label"].tolist()) == (1, [1])


def test_objects_of_other_classes_are_not_read(tmp_path):
    other = tfds.features.ClassLabel(names=["x", "y", "z", "w"])
    boxes = {"bbox": tfds.features.BBoxFeature(), "label": other}
    features = WITH_LABELS | {"objects": tfds.features.Sequence(boxes)}
    found = {"bbox": tfds.features.BBox(0.0, 0.0, 0.5, 1.0), "label": "z"}
    split = opened(
        prepare(tmp_path, features, [{"image": png(0), "labels": ["ant"], "objects": [found]}])
    )
    assert split.labels().tolist() == [[1, 0, 0]]
    assert not split.has_boxes
    assert "objects are not read: their classes are not those of labels" in split.notes[0]


@pytest.mark.parametrize(
    ("name", "feature", "value"),
    [
        ("labels", LABEL, "ant"),
        ("labels", tfds.features.Text(), "ant"),
        ("objects", tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()}), []),
        ("objects", {"bbox": tfds.features.Sequence(tfds.features.BBoxFeature())}, {"bbox": []}),
    ],
)
def test_a_feature_of_another_form_is_not_read(tmp_path, name, feature, value):
    objects = [box("cat", False)]
    features = {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        name: feature,
    }
    example = {"image": png(0), "image/filename": b"\xe4.jpg", name: value}
    if name == "labels":
        features["objects"], example["objects"] = WITH_OBJECTS["objects"], objects
    else:
        features["labels"], example["labels"] = WITH_LABELS["labels"], ["cat"]
    split = opened(prepare(tmp_path, features, [example]))
    assert split.labels().tolist() == [[0, 0, 1]]
    assert split.filename(0) == "\\xe4.jpg"
