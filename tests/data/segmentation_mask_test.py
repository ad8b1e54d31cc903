import io

import numpy as np
import pytest
from PIL import Image

from oass_jax.data.example import Split
from oass_jax.data.segmentation_mask import Masks
from oass_jax.errors import UserError

MASK = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def encoded(pixels, mode="P", **options):
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def record(name, mask, *, size=(2, 3), orientation=1, labels=(0,)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = np.zeros((*size, 3), np.uint8)
    return {
        "image": encoded(photograph, "RGB", exif=exif),
        "image/filename": name.encode(),
        "labels": list(labels),
        "segmentation_mask": mask,
    }


def masks(*records):
    names = ("cat", "dog")
    return Masks(Split("pets", "1.0.0", "val", names, sources={}, source=records))


def test_what_is_known_before_any_mask_is_decoded():
    known = masks(
        record("a.jpg", encoded(MASK)),
        record("b.jpg", b"", size=(7, 5), labels=(0, 1)),
        record("c.jpg", b"", size=(7, 5), orientation=6, labels=()),
        record("d.jpg", encoded(MASK), size=(4, 6)),  # of another size: the mask's counts
    )
    np.testing.assert_array_equal(known.size, [[2, 3], [7, 5], [5, 7], [2, 3]])
    np.testing.assert_array_equal(known.present, [True, False, False, True])
    assert known.max_labels == 2
    assert masks(record("c.jpg", b"", labels=())).max_labels == 0


@pytest.mark.parametrize("mode", ["P", "L"])
def test_the_values_are_those_of_the_file(mode):
    data = encoded(MASK) if mode == "P" else encoded(MASK, "L")
    np.testing.assert_array_equal(masks(record("a.jpg", data)).read(0), MASK)


def test_a_mask_turns_with_its_picture():
    known = masks(record("a.jpg", encoded(MASK), orientation=6))
    # A quarter turn clockwise: the left column becomes the top row.
    np.testing.assert_array_equal(known.read(0), [[2, 0], [255, 1], [0, 2]])
    np.testing.assert_array_equal(known.size, [[3, 2]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encoded(MASK + 3, "L"),
            r"^the mask of a\.jpg of pets val holds the value 3, .*\(1 to 2\)",
        ),
        (encoded(np.zeros((2, 3, 3), np.uint8), "RGB"), "mode RGB; a mask is one of P or L"),
        (encoded(MASK)[:-30], r"^the mask of a\.jpg of pets val cannot be decoded"),
    ],
)
def test_a_mask_that_is_none_names_itself(data, message):
    with pytest.raises(UserError, match=message):
        masks(record("a.jpg", data)).read(0)
