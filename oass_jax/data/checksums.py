"""Images that are read in place must stay what they were when they were first read."""

import io

import numpy as np

from oass_jax.data.example import Split
from oass_jax.errors import UserError


class Checksums:
    """The checksum of every image of a split, as far as it has been read."""

    def __init__(self, split: Split, saved: bytes = b""):
        """Takes up what an earlier start of the run saw.

        Args:
          split: where the images are from.
          saved: what `to_bytes` gave; anything else counts as nothing.
        """
        self._split = split
        self._first = np.zeros([len(split)], np.uint32)  # 0 for an image that was not read
        try:
            first = np.load(io.BytesIO(saved), allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return
        if (first.shape, first.dtype) == (self._first.shape, self._first.dtype):
            self._first = first

    def check(self, batch: dict[str, np.ndarray]) -> None:
        """Compares the images of a batch with those of earlier ones, and remembers them.

        Args:
          batch: `index` and `checksum` are read.

        Raises:
          UserError: a file is another than it was.
        """
        index, now = batch["index"], batch["checksum"]
        first = self._first[index]
        for changed in index[(first != 0) & (first != now)]:
            raise UserError(
                f"{self._split.where(self._split.source[int(changed)])} has changed since this run "
                "read it first: restore the file, or train again in another workdir"
            )
        self._first[index] = now

    @property
    def num_read(self) -> int:
        """How many images were read in place."""
        return int(np.count_nonzero(self._first))

    def to_bytes(self) -> bytes:
        """All of them as a `.npy` file."""
        file = io.BytesIO()
        np.save(file, self._first)
        return file.getvalue()
