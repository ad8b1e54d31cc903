"""PASCAL VOC 2007 and 2012 with the splits of the paper, as a tfds data set without TensorFlow."""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from oass_jax.data.image_file import read_header, turn_boxes
from oass_jax.data.progress import report_progress
from oass_jax.data.sources import flag, voc_devkit
from oass_jax.data.sources.scene_builder import SceneBuilder, scene
from oass_jax.data.sources.voc_annotation import NO_OBJECTS, parse_annotation
from oass_jax.data.sources.voc_devkit import Devkit
from oass_jax.errors import UserError

_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
_SBD_URL = (
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contour/"
    "benchmark.tgz"
)
_SBD_FILE = "benchmark.tgz"
_TRAIN_AUG_FILE = "train_aug.txt"
_TRAIN_AUG_COUNT = 10_582
_MAX_RETRIES = 4  # within three seconds


@dataclasses.dataclass(frozen=True)
class _OfficialTar:
    """A tar as its authors published it.

    Attributes:
      url: where it is, None where one has to register to get it.
      size_bytes: what it is recognised by.
      sha256: of the whole file, hexadecimal.
      counts: split -> number of images.
    """

    url: str | None
    size_bytes: int
    sha256: str
    counts: Mapping[str, int]


_OFFICIAL_TARS = {
    "2012": (
        _OfficialTar(
            url=f"{_HOST}/voc2012/VOCtrainval_11-May-2012.tar",
            size_bytes=1_999_639_040,
            sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            counts={"train": 1_464, "val": 1_449, "main_train": 5_717, "main_val": 5_823},
        ),
        _OfficialTar(
            url=None,
            size_bytes=1_850_626_560,
            sha256="f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
            counts={"test": 10_991},
        ),
    ),
    "2007": (
        _OfficialTar(
            url=f"{_HOST}/voc2007/VOCtrainval_06-Nov-2007.tar",
            size_bytes=460_032_000,
            sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            counts={"train": 2_501, "val": 2_510},
        ),
        _OfficialTar(
            url=f"{_HOST}/voc2007/VOCtest_06-Nov-2007.tar",
            size_bytes=451_020_800,
            sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            counts={"test": 4_952},
        ),
    ),
}

_LISTS = {
    "2012": {
        "train": "ImageSets/Segmentation/train.txt",
        "val": "ImageSets/Segmentation/val.txt",
        "main_train": "ImageSets/Main/train.txt",
        "main_val": "ImageSets/Main/val.txt",
        "test": "ImageSets/Main/test.txt",
    },
    "2007": {
        "train": "ImageSets/Main/train.txt",
        "val": "ImageSets/Main/val.txt",
        "test": "ImageSets/Main/test.txt",
    },
}


class Voc(SceneBuilder):
    """PASCAL VOC; `SceneBuilder` has the features.

    2012: `train_aug` (segmentation train and SBD without segmentation val, 10,582 images), `train`
    and `val` (segmentation, 1,464 and 1,449), `main_train` and `main_val` (5,717 and 5,823), and
    `test` (10,991 images, whose labels are not public) if its tar is there; one has to register
    for that one. 2007: `train`, `val`, `test` (2,501, 2,510, 4,952).

    The tars are those in `manual_dir`, or the official ones, downloaded. Those of `manual_dir`
    may have any name and hold any part of a year: there are then the splits whose lists they hold
    and that are not empty. A tar of an official one's size is taken for it: its checksum and the
    counts of its splits are then verified. `train_aug` comes from `train_aug.txt` or SBD's
    `benchmark.tgz` in `manual_dir`; SBD is downloaded if neither is there and VOC is complete.

    An image whose header cannot be read and an annotation that is missing or not sound stop the
    preparation with the file's name. Where an image has an EXIF orientation its boxes, which VOC
    gives in stored pixels, are turned with it.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="2012", description="VOC 2012 with SBD's training list"),
        tfds.core.BuilderConfig(name="2007", description="VOC 2007"),
    )
    DESCRIPTION = "PASCAL VOC with object and segmentation labels, original image bytes."
    CLASS_NAMES = (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
        *("train", "tvmonitor"),
    )

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Any tars that begin with VOCdevkit/VOC<year>."

    @property
    def challenge(self) -> str:
        """See the base class."""
        return f"VOC{self._year}"

    def sources(self, manual_dir: Path) -> dict[str, str]:
        """See the base class: the tars of the year, and the file that defines `train_aug`."""
        tars = voc_devkit.find_tars(manual_dir, year=self._year)
        files = [*tars, *self._train_aug_files(manual_dir)] if tars else []
        return {path.name: voc_devkit.file_fingerprint(path) for path in files}

    @property
    def _year(self) -> str:
        return self.builder_config.name

    def _train_aug_files(self, manual_dir: Path) -> list[Path]:
        """The file of the folder that defines `train_aug`: one or none."""
        if self._year != "2012":
            return []
        candidates = (manual_dir / _TRAIN_AUG_FILE, manual_dir / _SBD_FILE)
        return [path for path in candidates if path.is_file()][:1]

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        manual_dir = _manual_dir(dl_manager)
        downloaded: dict[str, Path] = {}
        if manual_dir is None:
            urls = [tar.url for tar in _OFFICIAL_TARS[self._year] if tar.url]
            downloaded = _download(dl_manager, urls)
            tars, train_aug_files = list(downloaded.values()), []
        else:
            tars = voc_devkit.find_tars(manual_dir, year=self._year)
            if not tars:
                raise UserError(
                    f"{manual_dir} holds no uncompressed tar that begins with "
                    f"VOCdevkit/VOC{self._year}: put one there, or leave out --manual_dir (of "
                    "oass_jax.main: --config.data.manual_dir=) to download it"
                )
            train_aug_files = self._train_aug_files(manual_dir)
        counts = _official_counts(tars, self._year)
        if "main_train" in counts:
            if not train_aug_files:
                downloaded |= _download(dl_manager, [_SBD_URL])
                train_aug_files = [downloaded[_SBD_URL]]
            counts["train_aug"] = _TRAIN_AUG_COUNT

        devkit = Devkit(tars, year=self._year)
        lists = _split_lists(devkit, self._year, train_aug_files)
        _check_counts(lists, counts)
        _report_missing_masks(devkit, lists, self._year)
        names = {path: url for url, path in downloaded.items()}
        self.record_sources(
            {
                names.get(path, path.name): voc_devkit.file_fingerprint(path)
                for path in (*tars, *train_aug_files)
            }
        )
        return {
            split: report_progress(
                self._generate_examples(devkit, ids, split=split), what=split, total=len(ids)
            )
            for split, ids in lists.items()
        }

    def _generate_examples(
        self, devkit: Devkit, ids: list[str], *, split: str
    ) -> Iterator[tuple[int, dict]]:
        # The labels of this one are not public; its tar has some boxes, for another competition.
        has_labels = (self._year, split) != ("2012", "test")
        for key, image_id in enumerate(ids):
            yield key, self._scene(devkit, image_id, has_labels=has_labels)

    def _scene(self, devkit: Devkit, image_id: str, *, has_labels: bool) -> dict:
        filename = f"{image_id}.jpg"
        image = devkit.read(f"JPEGImages/{filename}")
        height, width, orientation = read_header(image, name=f"JPEGImages/{filename}")
        annotation = NO_OBJECTS
        if has_labels:
            path = f"Annotations/{image_id}.xml"
            if path not in devkit:
                raise UserError(
                    f"{path} is missing: no tar holds the annotation of JPEGImages/{filename}"
                )
            annotation = parse_annotation(
                devkit.read(path),
                name=path,
                class_names=self.CLASS_NAMES,
                size=(height, width),
            )
        return scene(
            image=image,
            filename=filename,
            boxes=turn_boxes(annotation.boxes, orientation),
            labels=[self.CLASS_NAMES.index(label) for label in annotation.labels],
            difficult=annotation.difficult,
            segmentation_mask=devkit.read(f"SegmentationClass/{image_id}.png"),
        )


def _manual_dir(dl_manager: tfds.download.DownloadManager) -> Path | None:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:  # how tfds says that there is none
        return None


def _download(dl_manager: tfds.download.DownloadManager, urls: list[str]) -> dict[str, Path]:
    print("downloading", *urls, file=sys.stderr, flush=True)
    # tfds has no argument for its ten attempts, which take four minutes without a network; and
    # urllib3 would report each of them.
    downloader.MAX_RETRIES = _MAX_RETRIES
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        return dict(zip(urls, map(Path, dl_manager.download(urls)), strict=True))
    except (OSError, tfds.download.DownloadError) as error:
        raise UserError(
            f"{' and '.join(urls)} could not be downloaded ({type(error).__name__}): fetch it in "
            f"another way and give its folder as {flag('manual_dir')}"
        ) from error


def _official_counts(tars: list[Path], year: str) -> dict[str, int]:
    """Split -> number of images for the official ones among the tars, their checksums verified."""
    official = {tar.size_bytes: tar for tar in _OFFICIAL_TARS[year]}
    counts = {}
    for path in tars:
        tar = official.get(path.stat().st_size)
        if tar is None:
            continue
        if voc_devkit.file_sha256(path) != tar.sha256:
            raise UserError(
                f"{path} has the official tar's size but is damaged: remove it and fetch it again"
            )
        counts |= tar.counts
    return counts


def _split_lists(
    devkit: Devkit, year: str, train_aug_files: Sequence[Path]
) -> dict[str, list[str]]:
    """Split -> image ids, for the splits whose lists are there and not empty."""
    lists = {split: devkit.ids(path) for split, path in _LISTS[year].items() if path in devkit}
    for path in train_aug_files:
        if path.suffix == ".txt":
            voc_devkit.check_size(path.name, path.stat().st_size, archive=path.parent)
            ids = voc_devkit.parse_ids(path.read_bytes(), name=str(path))
        else:
            known = {"train", "val"} <= lists.keys()
            ids = _train_aug_ids(lists, _read_sbd(path)) if known else []
        lists = {"train_aug": devkit.check_ids(ids, name=str(path)), **lists}
    return {split: ids for split, ids in lists.items() if ids}


def _train_aug_ids(lists: Mapping[str, list[str]], sbd: set[str]) -> list[str]:
    return sorted((set(lists["train"]) | sbd) - set(lists["val"]))


def _check_counts(lists: Mapping[str, list[str]], counts: Mapping[str, int]) -> None:
    for split, count in counts.items():
        found = len(lists.get(split, ()))
        if found != count:
            raise UserError(
                f"{split} has {found} images, {count} officially: use the unchanged lists of the "
                f"official archives"
            )


def _report_missing_masks(devkit: Devkit, lists: Mapping[str, list[str]], year: str) -> None:
    """Warns where only a part of a segmentation split has masks, as a damaged tar leaves it."""
    for split, path in _LISTS[year].items():
        ids = lists.get(split, [])
        missing = [i for i in ids if f"SegmentationClass/{i}.png" not in devkit]
        if "/Segmentation/" in path and 0 < len(missing) < len(ids):
            counted = f"{len(missing)} of {len(ids)} images of {split}"
            print(f"warning: {counted} have no mask, such as {missing[0]}", file=sys.stderr)


def _read_sbd(archive: Path) -> set[str]:
    """The image ids of SBD's own train and val lists."""
    wanted = {f"benchmark_RELEASE/dataset/{split}.txt" for split in ("train", "val")}
    ids = set()
    with voc_devkit.damage_reported(archive):
        for member, file in voc_devkit.iterate_tar(archive, compressed=True):
            path = str(PurePosixPath(member.name))
            if path in wanted:
                voc_devkit.check_size(path, member.size, archive=archive)
                text = file.read(member.size)
                ids |= set(voc_devkit.parse_ids(text, name=f"{path} of {archive}"))
                wanted.remove(path)
    if wanted:
        raise UserError(
            f"{archive} holds no {' and no '.join(sorted(wanted))}: it is not SBD's archive"
        )
    return ids
