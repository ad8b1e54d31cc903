"""The VOCdevkit layout inside tar files, read in place: nothing is ever extracted."""

import dataclasses
import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from oass_jax.errors import UserError

# A tar of another year is recognised without walking through its gigabytes.
_MEMBERS_THAT_TELL_THE_YEAR = 100
_FINGERPRINT_BYTES = 1 << 20
_READ_BYTES = 1 << 24
_IMAGE_ID = re.compile(r"[\w.-]+")


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
        """The bytes of a file, empty if the tars do not hold it."""
        return _read(self._members[path][0]) if path in self._members else b""

    def ids(self, path: str) -> list[str]:
        """The image ids that a list names, in its order.

        Raises:
          UserError: two tars hold different lists, or an image of the list is in none of them.
        """
        lists = {_read(member): member.tar.name for member in self._members[path]}
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
    """The tar files in a folder, whatever their names, that begin with `VOCdevkit/VOC<year>`."""
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
    strange = [i for i in ids if not _IMAGE_ID.fullmatch(i)]
    if strange:
        raise UserError(f"{name} is no list of image ids: it holds {strange[0][:40]!r}")
    if len(set(ids)) < len(ids):
        twice = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise UserError(f"{name} lists {twice} twice: remove one of the lines")
    return ids


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


def _read(member: _Member) -> bytes:
    with member.tar.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _is_of(path: Path, year: str) -> bool:
    try:
        with tarfile.open(path, "r:") as tar:
            first = itertools.islice(tar, _MEMBERS_THAT_TELL_THE_YEAR)
            return any(_devkit_path(member.name, year) is not None for member in first)
    except tarfile.TarError:
        return False


def _index(path: Path, year: str) -> Iterator[tuple[str, _Member]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                inside = _devkit_path(member.name, year)
                if inside is not None and member.isreg():
                    yield inside, _Member(path, member.offset_data, member.size)
                # tarfile remembers every member it has passed, which is all of them twice.
                tar.members = []
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is damaged or cut short ({error}): remove it and fetch it again"
        ) from error


def _devkit_path(name: str, year: str) -> str | None:
    """'./VOCdevkit/VOC2012/Annotations/x.xml' -> 'Annotations/x.xml'; None outside the year."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[2:]) if parts[:2] == ("VOCdevkit", f"VOC{year}") else None
