import contextlib

import numpy as np
import pytest

from oass_jax.errors import UserError
from oass_jax.evaluation import scores

LABEL = np.array([[1, 0], [0, -1], [1, 1]], np.int8)
LOGITS = np.array([[2.0, -1.0], [0.5, 0.0], [-3.0, 4.0]], np.float32)


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        arrays = {
            "image": np.array(["a.jpg", "b.jpg", "ç.jpg"]),
            "class_name": np.array(["cat", "dog"]),
            "label": LABEL,
            "prediction": LOGITS,
            "student/base": LOGITS,
        } | changes
        np.savez(tmp_path / "scores.npz", **{k: x for k, x in arrays.items() if x is not None})
        return tmp_path / "scores.npz"

    return write


def test_what_was_written_is_read(write):
    found = scores.read(write())
    assert (found.image, found.class_name) == (("a.jpg", "b.jpg", "ç.jpg"), ("cat", "dog"))
    np.testing.assert_array_equal(found.label, LABEL)
    np.testing.assert_array_equal(found.prediction, LOGITS)
    assert (found.threshold, found.thresholds_of) == (None, None)
    found = scores.read(write(threshold=np.array([0.25, 1.0]), thresholds_of=np.array("csv val")))
    assert (found.threshold.tolist(), found.thresholds_of) == ([0.25, 1.0], "csv val")


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": LOGITS[:, :1]},
        {"prediction": np.full_like(LOGITS, np.nan)},
        {"label": np.full_like(LABEL, 7)},
        {"label": np.array([None])},
        {"label": None},
        {"image": np.array(["a.jpg"])},
        {"threshold": np.array([0.5, 2.0])},
        {"threshold": np.array([0.5])},
    ],
)
def test_arrays_that_do_not_fit_are_damaged(write, changes):
    with pytest.raises(UserError, match=r"scores\.npz is damaged .*evaluate with --mode=eval"):
        scores.read(write(**changes))


@pytest.mark.parametrize("size", [0, 10, 700, -100])
def test_half_a_file_is_damaged(write, size):
    path = write()
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"scores\.npz is damaged"):
        scores.read(path)


def test_every_byte_may_be_damaged(write, tmp_path):
    """Compressed, as another program may write it: an error of zlib is none of NumPy's."""
    with np.load(write()) as arrays:
        np.savez_compressed(tmp_path / "scores.npz", **dict(arrays))
    path = tmp_path / "scores.npz"
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        with contextlib.suppress(UserError):  # some bytes mean nothing
            scores.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"scores\.npz is missing: evaluate with --mode=eval"):
        scores.read(tmp_path / "scores.npz")
