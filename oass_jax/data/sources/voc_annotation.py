"""`Annotations/<id>.xml` -> boxes, labels and difficulty of the objects in an image."""

import dataclasses
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from oass_jax.errors import UserError

_MAX_BYTES = 1_000_000
# Rounding after a rescaling moves a border by up to a pixel; further out is another image's box.
_SLACK_PX = 1.0


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The objects in an image, in the order of the file.

    Attributes:
      boxes: float64 `[N, 4]` ymin, xmin, ymax, xmax in [0, 1] of the stored pixels.
      labels: N names of classes.
      difficult: bool `[N]`.
      size: height and width in pixels that the boxes were given in; None without objects.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]
    difficult: np.ndarray
    size: tuple[int, int] | None = None


NO_OBJECTS = Annotation(np.zeros([0, 4]), (), np.zeros([0], bool))


def parse_annotation(
    data: bytes,
    *,
    name: str,
    class_names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Annotation:
    """Reads an annotation strictly: what is not one is an error, never an empty image.

    Args:
      data: the XML file's bytes, at most 1 MB, without a document type.
      name: what the errors call the file.
      class_names: all classes there are; None accepts any.
      size: height and width of the stored image in pixels; None for those of its `<size>`.

    Returns:
      The objects. VOC counts pixels from 1 and includes the last, so that the box 1, 1, width,
      height becomes 0, 0, 1, 1. Boxes of `<part>`s are not objects.

    Raises:
      UserError: no VOC annotation, an unknown class or encoding, a box that is empty or not in
        the image, or a `<difficult>` that is neither 0 nor 1.
    """
    try:
        root = _parse_xml(data)
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        objects = root.findall("object")
        if _num_boxes(root) > sum(map(_num_boxes, objects)):
            raise ValueError("a <bndbox> is in no <object>")
        if not objects:
            return NO_OBJECTS
        height, width = size or [int(_text(root, f"size/{side}")) for side in ("height", "width")]
        boxes = [_box(o, height=height, width=width) for o in objects]
        labels = tuple(_label(o, class_names) for o in objects)
        difficult = [_difficult(o) for o in objects]
    except (ValueError, LookupError, expat.ExpatError) as error:  # LookupError: of an encoding
        raise UserError(f"{name} is no usable annotation: {error}") from error
    return Annotation(np.array(boxes), labels, np.array(difficult), (height, width))


def _parse_xml(data: bytes) -> ElementTree.Element:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, more than {_MAX_BYTES:,}")
    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    # ElementTree's own parser cannot forbid what entity bombs are made with.
    parser.StartDoctypeDeclHandler = _forbid_doctype
    parser.Parse(data, True)
    return tree.close()


def _forbid_doctype(*unused_declaration) -> None:
    raise ValueError("it declares a document type")


def _num_boxes(element: ElementTree.Element) -> int:
    return sum(1 for _ in element.iter("bndbox"))


def _label(element: ElementTree.Element, class_names: Sequence[str] | None) -> str:
    name = _text(element, "name").strip()
    if not name or (class_names is not None and name not in class_names):
        raise ValueError(f"unknown class {name!r}")
    return name


def _box(element: ElementTree.Element, *, height: int, width: int) -> list[float]:
    ymin, xmin, ymax, xmax = (
        float(_text(element, f"bndbox/{side}")) for side in ("ymin", "xmin", "ymax", "xmax")
    )
    ymin, xmin = ymin - 1, xmin - 1
    described = f"box {xmin + 1:g}, {ymin + 1:g}, {xmax:g}, {ymax:g}"
    if not (ymin < ymax and xmin < xmax):
        raise ValueError(f"{described} is empty")
    outside = max(-ymin, -xmin, ymax - height, xmax - width)
    if outside > _SLACK_PX:
        raise ValueError(f"{described} is not inside the {width}x{height} image")
    scale = np.array([height, width, height, width])
    return list(np.clip(np.array([ymin, xmin, ymax, xmax]) / scale, 0.0, 1.0))


def _difficult(element: ElementTree.Element) -> bool:
    value = _text(element, "difficult", default="0").strip()
    if value not in ("0", "1"):
        raise ValueError(f"<difficult> is {value!r}, neither 0 nor 1")
    return value == "1"


def _text(element: ElementTree.Element, path: str, *, default: str | None = None) -> str:
    text = element.findtext(path, default)
    if text is None:
        raise ValueError(f"<{element.tag}> has no <{path}>")
    return text
