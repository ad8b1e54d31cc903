"""Data set name -> tfds data set, prepared the first time it is asked for, and its splits."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import tensorflow_datasets as tfds

from oass_jax.data import sources
from oass_jax.data.example import Split
from oass_jax.data.sources import Location
from oass_jax.data.sources.scene_builder import SceneBuilder
from oass_jax.errors import UserError, nearest


def open_split(
    name: str, split: str, location: Location, *, class_names: tuple[str, ...] | None = None
) -> Split:
    """Opens a split of a tfds data set and prepares that where it has not been done.

    Args:
      name: as for `prepare`.
      split: such as 'train_aug', or a tfds slice of it such as 'val[:100]'.
      location: `data_dir` and `manual_dir` are read, as for `prepare`.
      class_names: not read: those that were stored with the prepared data are what there is.

    Returns:
      The split.

    Raises:
      UserError: no such split or slice, and all that `prepare` raises.
    """
    del class_names
    builder = prepare(name, data_dir=location.data_dir, manual_dir=location.manual_dir)
    source = open_source(builder, split)
    return Split(
        name=name,
        version=str(builder.version),
        split=split,
        class_names=tuple(builder.info.features["labels"].feature.names),
        sources=builder.recorded_sources,
        source=source,
        challenge=builder.challenge,
    )


def open_source(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[dict]:
    """The stored records of a split, with the bytes of their images.

    Args:
      builder: of a prepared data set.
      split: such as 'train', or a tfds slice of it.

    Raises:
      UserError: there is no such split or slice.
    """
    base = split.partition("[")[0]
    if base not in builder.info.splits:
        raise UserError(
            f"{builder.info.full_name} in {builder.data_dir} has no split {base!r}: "
            f"{nearest(base, builder.info.splits)}"
        )
    try:
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except ValueError as error:
        raise UserError(
            f"{split!r} is no slice: write it as {base}[:100] or {base}[10%:]"
        ) from error


def prepare(name: str, *, data_dir: Path | None, manual_dir: Path | None) -> SceneBuilder:
    """Opens a data set and prepares it first where that has not been done.

    Preparation is atomic: one that was interrupted leaves nothing that is taken for data and
    starts again from the beginning. Of several processes one prepares and the others wait.

    Args:
      name: key of `sources.BUILDERS`, such as 'voc/2012'.
      data_dir: where prepared data sets live; None for tfds' own place, `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      manual_dir: folder with the archives to prepare from; None to download them, or to accept
        what is prepared already.

    Returns:
      The prepared builder.

    Raises:
      UserError: unknown name, nothing to prepare from, damaged archives, or data that was
        prepared from other archives than those in `manual_dir`.
    """
    manual_dir = None if manual_dir is None else Path(manual_dir).expanduser()
    if manual_dir is not None and not manual_dir.is_dir():
        raise UserError(
            f"{manual_dir} is no folder: give the one with the archives as "
            f"{sources.flag('manual_dir')}"
        )
    builder = _open_builder(name, data_dir)
    if not _is_prepared(builder):
        with _lock(builder):
            # Another process may have prepared it while this one waited.
            builder = _open_builder(name, data_dir)
            if not _is_prepared(builder):
                _generate(builder, manual_dir)
    _check_sources(builder, manual_dir)
    return builder


def is_prepared(name: str, *, data_dir: Path | None) -> bool:
    """Whether `prepare` would find the data set as it is.

    Args:
      name: as for `prepare`.
      data_dir: as for `prepare`.
    """
    return _is_prepared(_open_builder(name, data_dir))


def _is_prepared(builder: SceneBuilder) -> bool:
    # Unlike tfds' own question this one does not warn where the answer is no.
    return (Path(builder.data_dir) / "dataset_info.json").exists()


def _open_builder(name: str, data_dir: Path | None) -> SceneBuilder:
    builder_cls = sources.find_builder(name)
    config = name.partition("/")[2] or None
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    return builder_cls(config=config, data_dir=data_dir)


@contextlib.contextmanager
def _lock(builder: SceneBuilder) -> Iterator[None]:
    """Holds the one lock there is for preparing this data set in this data_dir.

    The kernel lets go of it when the process ends, however it ends.
    """
    path = Path(builder.data_dir_root) / f".{_plain_name(builder)}.lock"
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _say(f"waiting for another process that prepares {builder.info.full_name}")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}): choose another "
            f"{sources.flag('data_dir')}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _generate(builder: SceneBuilder, manual_dir: Path | None) -> None:
    downloads = Path(builder.data_dir_root) / "downloads" / _plain_name(builder)
    _remove_interrupted(builder, downloads)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    _say(f"preparing {builder.info.full_name} in {builder.data_dir}; this happens once")
    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        # tfds refuses what it has no checksum for; the builders verify what they read.
        force_checksums_validation=False,
        try_download_gcs=False,
    )
    try:
        # tfds prints two lines of no news to stdout, which belongs to the commands.
        with contextlib.redirect_stdout(None):
            builder.download_and_prepare(
                download_config=config, download_dir=downloads, file_format="array_record"
            )
    finally:
        _remove_empty(
            downloads / "extracted", downloads / builder.name, downloads, downloads.parent
        )


def _remove_interrupted(builder: SceneBuilder, downloads: Path) -> None:
    """Removes what killed preparations left. Call it with the lock held."""
    version_dir = Path(builder.data_dir)
    generated = version_dir.parent.glob(f"incomplete.*_{version_dir.name}")
    downloaded = downloads.glob("*/*.tmp.*")
    for leftover in (*generated, *downloaded):
        shutil.rmtree(leftover)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


def _check_sources(builder: SceneBuilder, manual_dir: Path | None) -> None:
    if manual_dir is None:
        return
    # Not by name: a renamed archive is still the same data. A folder without any is another data
    # set's: a run may be evaluated on images that it was not trained on.
    given, recorded = set(builder.sources(manual_dir).values()), builder.recorded_sources
    # What was downloaded need not be in the folder.
    needed = {fingerprint for name, fingerprint in recorded.items() if "://" not in name}
    if given and not needed <= given <= set(recorded.values()):
        made_from = ", ".join(recorded) or "nothing"
        raise UserError(
            f"{builder.data_dir} was prepared from other archives ({made_from}) than those in "
            f"{manual_dir}: choose another {sources.flag('data_dir')} or remove the prepared data"
        )


def _plain_name(builder: SceneBuilder) -> str:
    return "_".join(filter(None, (builder.name, builder.builder_config_name)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
