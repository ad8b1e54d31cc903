import json

from oass_jax.figures.report import pictures
from tests.reports import labels_and_logits, write_pictures, write_run

LABEL, LOGITS = labels_and_logits(6, 2)


def evaluated(tmp_path):
    return write_run(tmp_path / "run", LABEL, LOGITS) / "eval" / "csv_val"


def test_pictures_are_embedded_as_far_as_there_is_room(tmp_path):
    folder = evaluated(tmp_path)
    write_pictures(tmp_path / "run", ["a.jpg", "b.jpg", "c.jpg"])
    found, more = pictures.read(folder, max_bytes=10**6)
    assert [one.image for one in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert more == 0
    assert found[0].uri.startswith("data:image/jpeg;base64,")
    assert (found[0].labels, found[0].predicted) == (("cat",), ("cat", "dog"))
    room = len(found[0].uri) + len(found[1].uri)
    found, more = pictures.read(folder, max_bytes=room)
    assert [one.image for one in found] == ["a.jpg", "b.jpg"]
    assert more == 1


def test_without_pictures_there_are_none(tmp_path):
    assert pictures.read(evaluated(tmp_path), max_bytes=10**6) == ([], 0)


def test_damaged_entries_are_skipped(tmp_path):
    folder = evaluated(tmp_path)
    write_pictures(tmp_path / "run", ["a.jpg", "b.jpg"])
    index = folder / "pictures" / "index.json"
    good = json.loads(index.read_text())
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    bad = [None, {}, good[0] | {"file": "x.jpg"}, good[0] | {"file": f"../../../../{secret.name}"}]
    bad += [good[0] | {"file": str(index)}, good[0] | {"width": "wide"}]
    index.write_text(json.dumps([*bad, good[1]]))
    found, more = pictures.read(folder, max_bytes=10**6)
    assert [one.image for one in found] == ["b.jpg"]
    assert more == len(bad)
    index.write_text("[{")
    assert pictures.read(folder, max_bytes=10**6) == ([], 0)
