"""The rules for difficult objects, from annotation files to average precision."""

import numpy as np
import pytest

from oass_jax.data import pipeline
from oass_jax.evaluation import average_precision, predict

DIFFICULT, PLAIN = b"<difficult>1</difficult>", b"<difficult>0</difficult>"


@pytest.fixture(scope="module")
def split(voc_files, write_tar, tmp_path_factory):
    """Seven images: dogs that are difficult in 1 and 4, plain in 2 and 5, none in the others."""
    folder = tmp_path_factory.mktemp("voc")
    files = voc_files()
    ids = [f"2011_00000{n}" for n in range(1, 8)]
    for number, image_id in enumerate(ids, start=1):
        path = f"Annotations/{image_id}.xml"
        person, _, dog = files[path].partition(b"<object><name>dog")
        dog = b"<object><name>dog" + dog.removesuffix(b"</annotation>")
        if number == 2:  # one object that is not difficult decides
            dog += dog.replace(DIFFICULT, PLAIN)
        elif number == 5:
            dog = dog.replace(DIFFICULT, PLAIN)
        elif number in (3, 6, 7):
            dog = b""
        files[path] = person + dog + b"</annotation>"
    files["ImageSets/Segmentation/val.txt"] = "".join(f"{i}\n" for i in ids).encode()
    write_tar(folder / "x.tar", files)
    return pipeline.open_split(
        "voc/2012", "val", pipeline.Location(data_dir=folder / "data", manual_dir=folder)
    )


@pytest.mark.parametrize(
    ("difficult", "ap", "ap_voc"),
    [
        # The ranking is that of the images: 1 1 0 1 1 0 0.
        ("positive", (1 + 1 + 3 / 4 + 4 / 5) / 4, (1 + 1 + 4 / 5 + 4 / 5) / 4),
        # Without the first and the fourth: 1 0 1 0 0.
        ("ignore", (1 + 2 / 3) / 2, (1 + 2 / 3) / 2),
        # 0 1 0 0 1 0 0.
        ("negative", (1 / 2 + 2 / 5) / 2, (1 / 2 + 2 / 5) / 2),
    ],
)
def test_average_precision_by_hand(difficult, ap, ap_voc, split):
    options = pipeline.ReadOptions(
        canvas_px=32, max_boxes=4, difficult=difficult, num_workers=0, num_threads=0, cache=False
    )
    batches = pipeline.eval_batches(split, options, batch_size=4, process_index=0, process_count=1)

    def predict_fn(batch):
        score = np.repeat(-batch["index"][:, None], len(split.class_names), axis=1)
        return {"scores": {"student": {"base": score.astype(np.float32)}}} | {
            name: batch[name] for name in ("label", "mask", "index")
        }

    rows = predict.predict(predict_fn, batches)
    np.testing.assert_array_equal(split.labels(difficult), rows.label)
    result = average_precision.mean_average_precision(rows.scores["student"]["base"], rows.label)
    dog, person = (split.class_names.index(name) for name in ("dog", "person"))
    assert result.ap[dog] == pytest.approx(100 * ap)
    assert result.ap_voc[dog] == pytest.approx(100 * ap_voc)
    assert result.ap[person] == 100
    assert result.map == pytest.approx((100 * ap + 100) / 2)
