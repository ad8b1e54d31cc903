import numpy as np

from oass_jax.data import sources
from oass_jax.data.sources.scene_builder import scene


def test_labels_are_the_classes_ascending_each_once():
    example = scene(
        image=b"i",
        filename="f",
        boxes=np.array([[0, 0, 1, 1], [0.5, 0, 1, 1], [0, 0.5, 1, 1]]),
        labels=np.array([7, 2, 7]),
        difficult=np.array([True, False, False]),
        segmentation_mask=b"",
    )
    assert example["labels"] == [2, 7]
    assert [o["label"] for o in example["objects"]] == [7, 2, 7]
    assert [o["is_difficult"] for o in example["objects"]] == [True, False, False]
    assert example["objects"][1]["bbox"].ymin == 0.5


def test_all_data_sets_have_the_same_features(tmp_path):
    features = [
        sources.find_builder(name)(
            data_dir=tmp_path, config=name.partition("/")[2] or None
        ).info.features
        for name in ("voc/2012", "voc/2007", "digit_scenes")
    ]
    assert (
        len({str(sorted(f.items(), key=lambda i: i[0])).replace("10", "20") for f in features}) == 1
    )
    assert features[0]["labels"].feature.names == sorted(features[0]["labels"].feature.names)
    assert features[0]["labels"].num_classes == 20
