import csv
import dataclasses
import io
import os
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

from oass_jax.data import pipeline
from oass_jax.data.sources import voc, voc_devkit
from oass_jax.errors import UserError

REAL_DATA = os.environ.get("OASS_TEST_DATA")


def opened(manual_dir, tmp_path, split="val", name="voc/2012"):
    return pipeline.open_split(
        name, split, pipeline.Location(data_dir=tmp_path / "data", manual_dir=manual_dir)
    )


@pytest.fixture
def manual_dir(tmp_path):
    folder = tmp_path / "manual"
    folder.mkdir()
    return folder


def test_features(voc_files, write_tar, manual_dir, tmp_path):
    files = voc_files()
    write_tar(manual_dir / "x.tar", files)
    record = opened(manual_dir, tmp_path, "train").source[0]
    assert record["image/filename"] == b"2011_000001.jpg"
    assert record["image"] == files["JPEGImages/2011_000001.jpg"]
    assert record["segmentation_mask"] == files["SegmentationClass/2011_000001.png"]
    dog, person = 11, 14
    assert list(record["labels"]) == [dog, person]
    assert list(record["objects"]["label"]) == [person, dog]
    assert list(record["objects"]["is_difficult"]) == [False, True]
    # 72 pixels high and 48 wide; the dog is at 11..20 by 5..24, counted from 1.
    np.testing.assert_allclose(
        record["objects"]["bbox"], [[0, 0, 1, 1], [10 / 72, 4 / 48, 20 / 72, 24 / 48]], rtol=1e-6
    )


def test_an_image_without_a_mask_has_an_empty_one(voc_files, write_tar, manual_dir, tmp_path):
    write_tar(manual_dir / "x.tar", voc_files())
    record = opened(manual_dir, tmp_path, "main_val").source[1]
    assert record["image/filename"] == b"2011_000003.jpg"
    assert record["segmentation_mask"] == b""


def test_missing_masks_are_reported_unless_there_are_none(
    voc_files, write_tar, manual_dir, tmp_path, capfd
):
    files = voc_files()
    del files["SegmentationClass/2011_000006.png"]
    write_tar(manual_dir / "x.tar", files)
    opened(manual_dir, tmp_path)
    warning = "warning: 1 of 3 images of val have no mask, such as 2011_000006\n"
    assert warning in capfd.readouterr().err
    files = {path: data for path, data in files.items() if "SegmentationClass" not in path}
    write_tar(manual_dir / "x.tar", files)
    opened(manual_dir, tmp_path / "again")
    assert "warning" not in capfd.readouterr().err


def test_a_cut_tar_has_the_splits_it_has(voc_files, write_tar, manual_dir, tmp_path):
    files = voc_files()
    files["ImageSets/Main/train.txt"] = b""
    write_tar(manual_dir / "x.tar", files)
    with pytest.raises(UserError, match=r"no split 'trian': did you mean train\?$"):
        opened(manual_dir, tmp_path, "trian")
    with pytest.raises(UserError, match="no split 'train_aug'"):
        opened(manual_dir, tmp_path, "train_aug")


def test_2007_has_its_main_splits(voc_files, write_tar, manual_dir, tmp_path):
    files = voc_files()
    files["ImageSets/Main/test.txt"] = b"2011_000005\n"
    write_tar(manual_dir / "x.tar", files, year="2007")
    test = opened(manual_dir, tmp_path, "test", name="voc/2007")
    assert [test.filename(i) for i in range(len(test))] == ["2011_000005.jpg"]
    assert list(test.source[0]["labels"]) == [11, 14]
    assert len(opened(manual_dir, tmp_path, "train", name="voc/2007")) == 1


def test_2012_test_has_no_labels(voc_files, write_tar, manual_dir, tmp_path):
    write_tar(manual_dir / "trainval.tar", voc_files())
    photo = voc_files()["JPEGImages/2011_000001.jpg"]
    test = {"ImageSets/Main/test.txt": b"2008_000001", "JPEGImages/2008_000001.jpg": photo}
    write_tar(manual_dir / "test.tar", test)
    split = opened(manual_dir, tmp_path, "test")
    assert list(split.source[0]["labels"]) == []
    assert not split.has_labels()


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("JPEGImages/2011_000006.jpg", b"GIF?", r"JPEGImages/2011_000006\.jpg cannot be decoded"),
        ("Annotations/2011_000006.xml", b"<", r"Annotations/2011_000006\.xml is no usable"),
        ("SegmentationClass/2011_000006.png", b"", r"2011_000006\.png of .*x\.tar is empty"),
    ],
)
def test_a_damaged_file_stops_the_preparation_by_name(
    path, data, reason, voc_files, write_tar, manual_dir, tmp_path
):
    write_tar(manual_dir / "x.tar", voc_files() | {path: data})
    with pytest.raises(UserError, match=reason):
        opened(manual_dir, tmp_path)
    assert not list((tmp_path / "data" / "voc" / "2012").iterdir())


def test_a_missing_annotation_is_reported_as_missing(voc_files, write_tar, manual_dir, tmp_path):
    files = voc_files()
    del files["Annotations/2011_000006.xml"]
    write_tar(manual_dir / "x.tar", files)
    with pytest.raises(UserError, match=r"^Annotations/2011_000006\.xml is missing"):
        opened(manual_dir, tmp_path)


def sbd_archive(path, **lists):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in lists.items():
            info = tarfile.TarInfo(f"./benchmark_RELEASE/dataset/{name}.txt")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))


def test_train_aug_is_made_from_sbd(voc_files, write_tar, manual_dir, tmp_path):
    write_tar(manual_dir / "x.tar", voc_files())
    # 5 is in segmentation val.
    sbd_archive(
        manual_dir / "benchmark.tgz", train=b"2011_000004\n2011_000002\n", val=b"2011_000005\n"
    )
    split = opened(manual_dir, tmp_path, "train_aug")
    names = [split.filename(i) for i in range(len(split))]
    assert names == ["2011_000001.jpg", "2011_000002.jpg", "2011_000004.jpg"]


def test_an_archive_that_is_not_sbd_is_refused(voc_files, write_tar, manual_dir, tmp_path):
    write_tar(manual_dir / "x.tar", voc_files())
    sbd_archive(manual_dir / "benchmark.tgz", train=b"2011_000004\n")
    with pytest.raises(UserError, match=r"holds no benchmark_RELEASE/dataset/val\.txt"):
        opened(manual_dir, tmp_path)
    (manual_dir / "benchmark.tgz").write_bytes(b"<html>")
    with pytest.raises(UserError, match="is damaged"):
        opened(manual_dir, tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-20], "ended before"),
        (lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:], "CRC"),
    ],
    ids=["cut_short", "checksum"],
)
def test_a_damaged_sbd_archive_is_refused(
    damage, reason, voc_files, write_tar, manual_dir, tmp_path
):
    write_tar(manual_dir / "x.tar", voc_files())
    path = manual_dir / "benchmark.tgz"
    sbd_archive(path, train=b"2011_000004\n", val=b"2011_000005\n", other=bytes(9_999))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path} is damaged or cut short \(.*{reason}"):
        opened(manual_dir, tmp_path)


def test_a_huge_list_is_refused_unread(voc_files, write_tar, manual_dir, tmp_path):
    write_tar(manual_dir / "x.tar", voc_files())
    sbd_archive(manual_dir / "benchmark.tgz", train=bytes(3_000_000), val=b"")
    with pytest.raises(UserError, match=r"dataset/train\.txt of .*benchmark\.tgz has 3,000,000 "):
        opened(manual_dir, tmp_path)
    (manual_dir / "train_aug.txt").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match=r"^train_aug\.txt of .* has 3,000,000 bytes"):
        opened(manual_dir, tmp_path)


@pytest.fixture
def official_tar(voc_files, write_tar, manual_dir, monkeypatch):
    """A tiny tar that is taken for the official one, with counts to be given."""
    path = write_tar(manual_dir / "x.tar", voc_files())

    def make(**changes):
        tar = voc._OfficialTar(
            url="http://nowhere.invalid/x.tar",
            size_bytes=path.stat().st_size,
            sha256=voc_devkit.file_sha256(path),
            counts={"train": 2, "val": 3, "main_train": 1, "main_val": 2},
        )
        monkeypatch.setitem(voc._OFFICIAL_TARS, "2012", (dataclasses.replace(tar, **changes),))
        (manual_dir / "train_aug.txt").write_text("2011_000001\n2011_000002\n2011_000003\n")
        monkeypatch.setattr(voc, "_TRAIN_AUG_COUNT", 3)

    return make


def test_official_counts_and_checksum_are_verified(official_tar, manual_dir, tmp_path, monkeypatch):
    official_tar(sha256="0" * 64)
    with pytest.raises(UserError, match="is damaged"):
        opened(manual_dir, tmp_path)
    official_tar(counts={"val": 4})
    with pytest.raises(UserError, match="val has 3 images, 4 officially"):
        opened(manual_dir, tmp_path)
    official_tar()
    monkeypatch.setattr(voc, "_TRAIN_AUG_COUNT", 10_582)
    with pytest.raises(UserError, match="train_aug has 3 images, 10582 officially"):
        opened(manual_dir, tmp_path)
    official_tar()
    assert len(opened(manual_dir, tmp_path)) == 3


@pytest.fixture
def published(official_tar, manual_dir, tmp_path, monkeypatch):
    """URL -> file of what is on the network."""
    official_tar()
    (manual_dir / "train_aug.txt").unlink()
    sbd_archive(tmp_path / "sbd.tgz", train=b"2011_000003\n", val=b"2011_000005\n")
    files = {"http://nowhere.invalid/x.tar": manual_dir / "x.tar"}
    files[voc._SBD_URL] = tmp_path / "sbd.tgz"
    monkeypatch.setattr(
        "tensorflow_datasets.download.DownloadManager.download",
        lambda self, urls: [files[url] for url in urls],
    )
    return files


def test_without_a_folder_the_official_files_are_downloaded(published, manual_dir, tmp_path):
    split = opened(None, tmp_path, "train_aug")
    assert len(split) == 3
    assert split.sources.keys() == published.keys()
    # The same tar in a folder is no other source, with SBD beside it or without.
    opened(manual_dir, tmp_path)
    (manual_dir / "benchmark.tgz").write_bytes((tmp_path / "sbd.tgz").read_bytes())
    opened(manual_dir, tmp_path)


def test_sbd_is_downloaded_for_an_official_tar_in_a_folder(published, manual_dir, tmp_path):
    split = opened(manual_dir, tmp_path, "train_aug")
    assert len(split) == 3
    assert split.sources.keys() == {"x.tar", voc._SBD_URL}
    opened(manual_dir, tmp_path)
    (manual_dir / "train_aug.txt").write_text("2011_000001\n")
    with pytest.raises(UserError, match="prepared from other archives"):
        opened(manual_dir, tmp_path)


def test_a_failing_download_says_what_to_do(tmp_path, monkeypatch):
    def refuse(self, urls):
        raise ConnectionError("no network")

    monkeypatch.setattr("tensorflow_datasets.download.DownloadManager.download", refuse)
    sentence = r"VOCtest_06-Nov-2007\.tar could not be downloaded .* as --manual_dir \(of "
    with pytest.raises(UserError, match=sentence):
        opened(None, tmp_path, name="voc/2007")


def test_a_download_without_a_network_fails_soon(tmp_path, monkeypatch):
    tar = dataclasses.replace(voc._OFFICIAL_TARS["2007"][0], url="http://127.0.0.1:9/x.tar")
    monkeypatch.setitem(voc._OFFICIAL_TARS, "2007", (tar,))
    monkeypatch.setenv("NO_PROXY", "*")
    seconds = []
    monkeypatch.setattr("urllib3.util.retry.time", types.SimpleNamespace(sleep=seconds.append))
    with pytest.raises(UserError, match="could not be downloaded"):
        opened(None, tmp_path, name="voc/2007")
    assert 0 < sum(seconds) < 5


def published_list(name):
    return voc_devkit.parse_ids((Path(REAL_DATA) / "lists" / name).read_bytes(), name=name)


# There is nothing to stand in for the published lists, so without them there is no such test.
if REAL_DATA:

    def test_the_published_lists_agree_with_the_rule():
        train, val = published_list("seg_train.txt"), published_list("seg_val.txt")
        train_aug, main = published_list("train_aug.txt"), published_list("main_trainval.txt")
        assert (len(train), len(val), len(main)) == (1_464, 1_449, 11_540)
        assert len(train_aug) == voc._TRAIN_AUG_COUNT
        assert len(set(train_aug) - set(main)) == 313
        assert len(set(val) - set(main)) == 327
        # SBD's own lists cover what is left, and images of val, which the rule takes out.
        sbd = (set(train_aug) - set(train)) | set(val[::2])
        assert voc._train_aug_ids({"train": train, "val": val}, sbd) == sorted(train_aug)

    def test_labels_of_the_sample_are_the_published_ones(tmp_path, manual_dir):
        (manual_dir / "x.tar").symlink_to(Path(REAL_DATA).absolute() / "voc2012_sample.tar")
        with (Path(REAL_DATA) / "lists" / "voc2012_labels.csv").open() as file:
            published = {row["id"]: row for row in csv.DictReader(file)}
        split = opened(manual_dir, tmp_path, "val")
        assert len(split) == 24
        for record in split.source:
            row = published[Path(record["image/filename"].decode()).stem]
            names = f"{row['labels_nondifficult']} {row['labels_difficult_only']}".split()
            assert [split.class_names[c] for c in record["labels"]] == sorted(names)
