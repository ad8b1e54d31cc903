import numpy as np
import pytest

from oass_jax.data.sources.voc_annotation import parse_annotation
from oass_jax.errors import UserError

CLASSES = ("cat", "dog")
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
WHOLE = BOX.format(1, 1, 100, 50)


def parse(text):
    data = text if isinstance(text, bytes) else text.encode()
    return parse_annotation(data, name="a.xml", class_names=CLASSES, size=(50, 100))


def one(box, name="dog", extra=""):
    return f"<annotation><object><name>{name}</name>{extra}{box}</object></annotation>"


def test_pixels_count_from_one_and_include_the_last():
    whole = parse(one(BOX.format(1, 1, 100, 50)))
    np.testing.assert_array_equal(whole.boxes, [[0, 0, 1, 1]])
    part = parse(one(BOX.format(11, "21.5", 60, 40), extra="<difficult>1</difficult>"))
    np.testing.assert_allclose(part.boxes, [[20.5 / 50, 0.1, 0.8, 0.6]])
    assert part.labels == ("dog",)
    assert part.difficult.tolist() == [True]


def test_parts_are_not_objects():
    inner = f"<part><name>head</name>{BOX.format(1, 1, 2, 2)}</part>"
    parsed = parse(one(inner + BOX.format(1, 1, 100, 50)))
    np.testing.assert_array_equal(parsed.boxes, [[0, 0, 1, 1]])
    assert not parsed.difficult[0]


def test_an_image_may_be_empty():
    assert parse("<annotation/>").boxes.shape == (0, 4)


def test_without_a_size_that_of_the_file_counts_and_any_class():
    size = "<size><height>50</height><width>100</width></size>"
    text = one(WHOLE, name="okapi").replace("<object>", f"{size}<object>", 1)
    annotation = parse_annotation(text.encode(), name="a.xml")
    np.testing.assert_array_equal(annotation.boxes, [[0, 0, 1, 1]])
    assert annotation.labels == ("okapi",)
    with pytest.raises(UserError, match="<annotation> has no <size/height>"):
        parse_annotation(one(WHOLE).encode(), name="a.xml")


def test_a_border_off_by_rounding_is_clipped():
    np.testing.assert_array_equal(parse(one(BOX.format(0, 1, 101, 50))).boxes, [[0, 0, 1, 1]])


BOMB = '<!DOCTYPE a [<!ENTITY x "yyyy"><!ENTITY z "&x;&x;">]><annotation>&z;</annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (one(BOX.format(1, 1, 100, 50), name="unicorn"), "unknown class 'unicorn'"),
        (one(BOX.format(60, 1, 40, 50)), "box 60, 1, 40, 50 is empty"),
        (one(BOX.format(1, 1, 103, 50)), "not inside the 100x50 image"),
        (one(BOX.format("nan", 1, 100, 50)), "box"),
        (one(BOX.format("left", 1, 100, 50)), "left"),
        (one(""), "no <bndbox/ymin>"),
        (one(WHOLE, extra="<difficult>2</difficult>"), "<difficult> is '2', neither 0 nor 1"),
        (one(WHOLE, extra="<difficult/>"), "<difficult> is '', neither 0 nor 1"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "unknown encoding: no-such"),
        ('<?xml version="1.0" encoding="hex"?><annotation/>', "not a text encoding"),
        ('<?xml version="1.0" encoding="shift_jis"?><annotation/>', "multi-byte encodings"),
        (one(WHOLE).replace("object", "objekt"), "a <bndbox> is in no <object>"),
        ("<html><body>404</body></html>", "root is <html>"),
        (BOMB, "document type"),
        (BOMB.encode("utf-16"), "document type"),
        (b"", "no element"),
        ("<annotation>", "no element"),
        ("<annotation>" + " " * 1_000_000 + "</annotation>", "more than 1,000,000"),
    ],
)
def test_what_is_no_annotation_is_refused_by_name(text, reason):
    with pytest.raises(UserError, match=r"^a\.xml is no usable annotation") as error:
        parse(text)
    assert reason in str(error.value)
