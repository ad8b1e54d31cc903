import hashlib
import tarfile

import pytest

from oass_jax.data.sources import voc_devkit
from oass_jax.data.sources.voc_devkit import Devkit
from oass_jax.errors import UserError

LIST = "ImageSets/Main/val.txt"


def tiny(ids=("a", "b")):
    return {LIST: "\n".join(ids).encode()} | {f"JPEGImages/{i}.jpg": i.encode() for i in ids}


@pytest.mark.parametrize("prefix", ["", "./"])
def test_reads_in_place(tmp_path, write_tar, prefix):
    devkit = Devkit([write_tar(tmp_path / "x.tar", tiny(), prefix=prefix)], year="2012")
    assert devkit.read("JPEGImages/b.jpg") == b"b"
    assert devkit.read("SegmentationClass/b.png") == b""
    assert devkit.ids(LIST) == ["a", "b"]


def test_several_tars_make_one_devkit(tmp_path, write_tar):
    tars = [
        write_tar(tmp_path / "1.tar", {"JPEGImages/a.jpg": b"a"}),
        write_tar(tmp_path / "2.tar", {"JPEGImages/b.jpg": b"b", LIST: b"a\nb\n"}),
    ]
    assert Devkit(tars, year="2012").ids(LIST) == ["a", "b"]


def test_tars_that_disagree_on_a_list_are_refused(tmp_path, write_tar):
    tars = [write_tar(tmp_path / f"{ids}.tar", tiny(ids)) for ids in ("ab", "a")]
    with pytest.raises(UserError, match=r"ab\.tar and a\.tar hold different"):
        Devkit(tars, year="2012").ids(LIST)


def test_a_list_with_an_image_that_is_not_there_is_refused(tmp_path, write_tar):
    files = tiny()
    del files["JPEGImages/b.jpg"]
    devkit = Devkit([write_tar(tmp_path / "x.tar", files)], year="2012")
    with pytest.raises(UserError, match=r"lists 2 images, 1 of which .* JPEGImages/b\.jpg"):
        devkit.ids(LIST)


def test_find_tars_goes_by_content(tmp_path, write_tar):
    write_tar(tmp_path / "holiday.bin", tiny())
    write_tar(tmp_path / "VOC2012.tar", tiny(), year="2007")
    (tmp_path / "train_aug.txt").write_text("a\n")
    (tmp_path / "folder.tar").mkdir()
    found = voc_devkit.find_tars(tmp_path, year="2012")
    assert [path.name for path in found] == ["holiday.bin"]


def replaced(data, start, part):
    return data[:start] + part + data[start + len(part) :]


def header_of_last(data):
    """Where the last member's header begins, a member of one block."""
    return len(data.rstrip(b"\0")) // 512 * 512 - 512


def negative_size(data):
    """The first member's size made -1, with the right checksum."""
    header = bytearray(replaced(data[:512], 124, b"\xff" * 12))
    header[148:156] = b" " * 8
    return replaced(data, 0, replaced(bytes(header), 148, b"%06o\0 " % sum(header)))


def with_long_header(data):
    """A pax header of more than the memory it may take in front of the members."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2_000_000
    return info.tobuf() + bytes(2_000_384) + data


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:20_000], "unexpected end of data"),
        (lambda data: data[: header_of_last(data) + 200], "mark is missing"),
        (lambda data: data[: header_of_last(data)], "mark is missing"),
        (lambda data: data[: header_of_last(data) + 1024], "mark is missing"),
        (lambda data: data[: header_of_last(data) + 1024 + 100], "mark is missing"),
        (lambda data: replaced(data, header_of_last(data) + 150, b"x"), "mark is missing"),
        (lambda data: replaced(data, header_of_last(data), bytes(512)), "mark is missing"),
        (lambda data: data + bytes(100_000), "mark is not at its end"),
        (negative_size, r"JPEGImages/c\.jpg is no plain file"),
        (with_long_header, "a header of 2,000,384 bytes"),
    ],
    ids=[
        *("in_a_member", "in_a_header", "before_a_header", "before_the_mark", "in_the_mark"),
        *("damaged_header", "zero_header", "zero_tail", "negative_size", "long_header"),
    ],
)
def test_a_tar_that_is_damaged_or_cut_short_is_refused(tmp_path, write_tar, damage, reason):
    path = write_tar(tmp_path / "x.tar", {"JPEGImages/c.jpg": bytes(50_000), **tiny()})
    path.write_bytes(damage(path.read_bytes()))
    sentence = rf"^{path} is damaged or cut short \(.*{reason}\): remove it and fetch it again$"
    with pytest.raises(UserError, match=sentence):
        Devkit([path], year="2012")


@pytest.mark.parametrize("padding", [b"", bytes(512), bytes(512) + b"left in a buffer" * 32])
def test_what_follows_the_mark_does_not_matter(tmp_path, write_tar, padding):
    path = write_tar(tmp_path / "x.tar", tiny())
    data = path.read_bytes()
    path.write_bytes(data[: header_of_last(data) + 1024] + bytes(512) + padding)
    assert Devkit([path], year="2012").ids(LIST) == ["a", "b"]


def test_a_tar_by_name_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"x\.tar is damaged or cut short"):
        voc_devkit.find_tars(tmp_path, year="2012")


def test_a_file_that_is_too_large_is_not_read(tmp_path, write_tar, monkeypatch):
    monkeypatch.setattr(voc_devkit, "_MAX_IMAGE_BYTES", 4)
    files = tiny() | {"JPEGImages/b.jpg": bytes(5), "JPEGImages/a.jpg": bytes(4)}
    files[LIST] = b"a\n" * 500_001
    devkit = Devkit([write_tar(tmp_path / "x.tar", files)], year="2012")
    assert devkit.read("JPEGImages/a.jpg") == bytes(4)
    with pytest.raises(UserError, match=r"^JPEGImages/b\.jpg of .*x\.tar has 5 bytes, more than"):
        devkit.read("JPEGImages/b.jpg")
    with pytest.raises(UserError, match=rf"^{LIST} of .* 1,000,002 bytes, more than the 1,000,000"):
        devkit.ids(LIST)


def test_links_are_not_followed(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages/a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "JPEGImages/a.jpg" not in Devkit([path], year="2012")


@pytest.mark.parametrize(
    ("text", "reason"), [(b"a\nb\nb\n", "lists b twice"), (b"<html>\n", "no list of image ids")]
)
def test_parse_ids_refuses(text, reason):
    with pytest.raises(UserError, match=reason):
        voc_devkit.parse_ids(text, name="list")


def test_parse_ids_takes_the_first_word():
    assert voc_devkit.parse_ids(b"a -1\r\n\nb  1\n", name="list") == ["a", "b"]


def test_a_fingerprint_is_of_the_size_and_the_first_mib(tmp_path):
    def fingerprint(data):
        (tmp_path / "x").write_bytes(data)
        return voc_devkit.file_fingerprint(tmp_path / "x")

    head, tail = bytes(1 << 20), b"\0\0"
    assert fingerprint(head + tail) == f"{2**20 + 2}:{hashlib.sha256(head).hexdigest()}"
    assert fingerprint(head + b"\0\1") == fingerprint(head + tail)
    assert fingerprint(head + b"\0") != fingerprint(head + tail)
    assert fingerprint(head[:-1] + b"\1" + tail) != fingerprint(head + tail)


def test_a_checksum_is_of_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(voc_devkit, "_READ_BYTES", 4)
    (tmp_path / "x").write_bytes(b"0123456789")
    expected = hashlib.sha256(b"0123456789").hexdigest()
    assert voc_devkit.file_sha256(tmp_path / "x") == expected
