import io
import tarfile

import numpy as np

from oass_jax.evaluation import voc_server

SCORES = np.array([[1.5, -0.1], [-12.25, 1e-7], [np.float32(1) / 3, 3e7]], np.float32)


def files(**changes):
    arguments = {
        "challenge": "VOC2012",
        "split": "test",
        "competition": "comp2",
        "class_names": ("cat", "dog"),
        "filenames": ["2008_000001.jpg", "2008_000004.jpg", "2008_000005.jpg"],
        "scores": SCORES,
    }
    return voc_server.result_files(**arguments | changes)


def test_a_file_a_class_and_a_line_an_image():
    folder = "results/VOC2012/Main"
    assert files() == {
        f"{folder}/comp2_cls_test_cat.txt": (
            "2008_000001 1.5\n2008_000004 -12.25\n2008_000005 0.33333334\n"
        ),
        f"{folder}/comp2_cls_test_dog.txt": (
            "2008_000001 -0.1\n2008_000004 0.0000001\n2008_000005 30000000.0\n"
        ),
    }


def test_names_follow_challenge_split_and_competition():
    names = files(challenge="VOC2007", split="val", competition="comp1").keys()
    assert min(names) == "results/VOC2007/Main/comp1_cls_val_cat.txt"


def test_scores_read_back_as_they_were():
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(500, 1)) * 10 ** rng.uniform(-6, 2, (500, 1))).astype(np.float32)
    (text,) = files(
        class_names=("cat",), filenames=[f"{i}.jpg" for i in range(500)], scores=scores
    ).values()
    words = [line.split(" ") for line in text.splitlines()]
    assert [word for word, _ in words] == [str(i) for i in range(500)]
    assert not [number for _, number in words if "e" in number]
    np.testing.assert_array_equal(np.array([n for _, n in words], np.float32), scores[:, 0])


def test_the_archive_holds_the_files_in_their_folder():
    with tarfile.open(fileobj=io.BytesIO(voc_server.archive(files())), mode="r:gz") as tar:
        read = {name: tar.extractfile(name).read().decode() for name in tar.getnames()}
    assert read == files()
