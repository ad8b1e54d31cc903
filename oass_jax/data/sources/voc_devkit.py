"""The VOCdevkit layout inside tar files, read in place: nothing is ever extracted."""

import collections
import contextlib
import dataclasses
import gzip
import hashlib
import io
import itertools
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from oass_jax.errors import UserError

# A tar of another year is recognised without walking through its gigabytes.
_MEMBERS_THAT_TELL_THE_YEAR = 100
_FINGERPRINT_BYTES = 1 << 20
_READ_BYTES = 1 << 24
_IMAGE_ID = re.compile(r"[\w.-]+")
# The largest of VOC have a tenth of this: more is another file, or one made to fill the memory.
_MAX_TEXT_BYTES = 1_000_000
_MAX_IMAGE_BYTES = 50_000_000
_TAR_BLOCK_BYTES = 512
# What tar programs write after the end-of-archive mark, to fill their last record.
_MAX_PADDING_BYTES = 1 << 16
# What tarfile and gzip raise on damaged archives.
_DAMAGE_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
)


@dataclasses.dataclass(frozen=True)
class _Member:
    """Where a file's bytes lie: in which tar, from which byte, how many."""

    tar: Path
    offset: int
    size: int


class Devkit:
    """The files of one VOC year, over one or several tars.

    Paths are relative to `VOCdevkit/VOC<year>`. Reading is random access into the tars.

    Args:
      tars: uncompressed tar files. A path in more than one of them is served from the first,
        except lists, which have to agree.
      year: such as '2012'.

    Raises:
      UserError: a tar is cut short.
    """

    def __init__(self, tars: Sequence[Path], *, year: str):
        self._members: dict[str, list[_Member]] = {}
        for tar in tars:
            for path, member in _index(tar, year):
                self._members.setdefault(path, []).append(member)

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def read(self, path: str) -> bytes:
        """The bytes of a file, empty if the tars do not hold it.

        Raises:
          UserError: they hold it without any bytes, or it is larger than `check_size` allows.
        """
        if path not in self._members:
            return b""
        member = self._members[path][0]
        if not member.size:
            raise UserError(f"{path} of {member.tar} is empty: replace the archive")
        return _read(member, path)

    def ids(self, path: str) -> list[str]:
        """The image ids that a list names, in its order.

        Raises:
          UserError: two tars hold different lists, an image of the list is in none of them, or the
            list is larger than `check_size` allows.
        """
        lists = {_read(member, path): member.tar.name for member in self._members[path]}
        if len(lists) > 1:
            raise UserError(
                f"{' and '.join(lists.values())} hold different {path}: keep one of them there"
            )
        (text,), (tar,) = lists.keys(), lists.values()
        return self.check_ids(parse_ids(text, name=f"{path} of {tar}"), name=f"{path} of {tar}")

    def check_ids(self, ids: list[str], *, name: str) -> list[str]:
        """Returns the ids if there is an image for each, else raises a UserError."""
        missing = [i for i in ids if f"JPEGImages/{i}.jpg" not in self]
        if missing:
            raise UserError(
                f"{name} lists {len(ids)} images, {len(missing)} of which no tar holds, such as "
                f"JPEGImages/{missing[0]}.jpg: use the list that belongs to the tar"
            )
        return ids


def find_tars(folder: Path, *, year: str) -> list[Path]:
    """The tar files in a folder, whatever their names, that begin with `VOCdevkit/VOC<year>`.

    Raises:
      UserError: a file with the name of a tar is none, or is damaged.
    """
    return [path for path in sorted(folder.iterdir()) if path.is_file() and _is_of(path, year)]


def parse_ids(text: bytes, *, name: str) -> list[str]:
    """Image ids of a list: the first word of each line.

    Args:
      text: the file's bytes.
      name: what the error calls the list.

    Raises:
      UserError: a line is no image id, or an id is there twice.
    """
    ids = [line.split()[0] for line in text.decode(errors="replace").splitlines() if line.strip()]
    invalid = [i for i in ids if not _IMAGE_ID.fullmatch(i)]
    if invalid:
        raise UserError(f"{name} is no list of image ids: it holds {invalid[0][:40]!r}")
    if len(set(ids)) < len(ids):
        ((twice, _),) = collections.Counter(ids).most_common(1)
        raise UserError(f"{name} lists {twice} twice: remove one of the lines")
    return ids


def check_size(path: str, size: int, *, archive: Path) -> None:
    """Checks, before a file is read, that it is not larger than such a file can be.

    Args:
      path: of the file in the archive; its suffix tells texts from images.
      size: in bytes.
      archive: the tar, or the folder, that holds it.

    Raises:
      UserError: a list or annotation has more than 1 MB, or an image or mask more than 50 MB.
    """
    limit = _MAX_TEXT_BYTES if path.endswith((".txt", ".xml")) else _MAX_IMAGE_BYTES
    if size > limit:
        raise UserError(
            f"{path} of {archive} has {size:,} bytes, more than the {limit:,} that are read: "
            f"replace it"
        )


def iterate_tar(
    archive: Path, *, compressed: bool = False
) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """The members of a tar in their order, and the file, which stands at a member's bytes.

    Call it within `damage_reported`. tarfile itself takes a damaged header for the end.

    Args:
      archive: a tar file.
      compressed: whether it is compressed by gzip.

    Yields:
      A member and the open file, whose `read` gives at most 1 MB at once.

    Raises:
      tarfile.TarError: and much else for a damaged archive; for one without an end-of-archive
        mark after the last of the members.
    """
    with (
        (_BoundedGzipFile if compressed else _BoundedFile)(archive) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        for member in tar:
            if member.size < 0 or member.issparse():
                raise tarfile.ReadError(f"{member.name} is no plain file")
            yield member, file
            # tarfile remembers every member it has passed, which is all of them twice.
            tar.members = []
        mark = file.last_read + file.read(_TAR_BLOCK_BYTES)
        if len(mark) < _TAR_BLOCK_BYTES or any(mark):
            raise tarfile.ReadError("the end-of-archive mark is missing")
        # Reading to the end also makes gzip compare its checksum.
        if len(file.read(_MAX_PADDING_BYTES + 1)) > _MAX_PADDING_BYTES:
            raise tarfile.ReadError("the end-of-archive mark is not at its end")


@contextlib.contextmanager
def damage_reported(archive: Path) -> Iterator[None]:
    """Turns what reading a damaged archive raises into a UserError that names it."""
    try:
        yield
    except _DAMAGE_ERRORS as error:
        raise UserError(
            f"{archive} is damaged or cut short ({error}): remove it and fetch it again"
        ) from error


def file_fingerprint(path: Path) -> str:
    """Tells files apart cheaply: size and SHA-256 of the first MiB."""
    with path.open("rb") as file:
        head = file.read(_FINGERPRINT_BYTES)
    return f"{path.stat().st_size}:{hashlib.sha256(head).hexdigest()}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


class _Bounded:
    """A file that reads little at once, whatever a damaged header says, and remembers it."""

    last_read = b""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_TEXT_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last_read = super().read(size)
        return self.last_read


class _BoundedFile(_Bounded, io.FileIO):
    pass


class _BoundedGzipFile(_Bounded, gzip.GzipFile):
    pass


def _read(member: _Member, path: str) -> bytes:
    check_size(path, member.size, archive=member.tar)
    with member.tar.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _is_of(path: Path, year: str) -> bool:
    try:
        with damage_reported(path):
            first = itertools.islice(iterate_tar(path), _MEMBERS_THAT_TELL_THE_YEAR)
            return any(_devkit_path(member.name, year) is not None for member, _ in first)
    except UserError:
        if path.suffix == ".tar":
            raise
        return False


def _index(path: Path, year: str) -> Iterator[tuple[str, _Member]]:
    with damage_reported(path):
        for member, _ in iterate_tar(path):
            inside = _devkit_path(member.name, year)
            if inside is not None and member.isreg():
                yield inside, _Member(path, member.offset_data, member.size)


def _devkit_path(name: str, year: str) -> str | None:
    """'./VOCdevkit/VOC2012/Annotations/x.xml' -> 'Annotations/x.xml'; None outside the year."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[2:]) if parts[:2] == ("VOCdevkit", f"VOC{year}") else None
