import numpy as np
import pytest

from oass_jax.data.checksums import Checksums
from oass_jax.data.example import Split
from oass_jax.errors import UserError

RECORDS = [{"image/filename": b"%d.png" % n, "where": f"{n}.png (l.csv)"} for n in range(4)]
SPLIT = Split("csv", "1", "train", ("cat",), {}, RECORDS)


def batch(**checksums):
    numbers = {int(name[1:]): value for name, value in checksums.items()}
    return {
        "index": np.array(list(numbers), np.int32),
        "checksum": np.array(list(numbers.values()), np.uint32),
    }


def test_an_image_that_changed_is_named():
    checksums = Checksums(SPLIT)
    checksums.check(batch(_0=5, _2=7))
    checksums.check(batch(_2=7, _1=2**32 - 1))
    assert checksums.num_read == 3
    with pytest.raises(UserError, match=r"2\.png \(l\.csv\) has changed since this run read it"):
        checksums.check(batch(_0=5, _2=8))
    with pytest.raises(UserError, match=r"1\.png"):
        Checksums(SPLIT, checksums.to_bytes()).check(batch(_1=1))


def test_what_is_not_read_in_place_is_not_compared():
    checksums = Checksums(SPLIT)
    checksums.check(batch(_0=0, _1=0))
    assert checksums.num_read == 0
    checksums.check(batch(_0=3))


@pytest.mark.parametrize("saved", [b"", b"invalid", b"\x93NUMPY\x01"])
def test_a_damaged_file_counts_as_none(saved):
    assert Checksums(SPLIT, saved).num_read == 0
    checksums = Checksums(SPLIT)
    checksums.check(batch(_0=5))
    longer = Split("csv", "1", "train", ("cat",), {}, [*RECORDS, RECORDS[0]])
    assert Checksums(longer, checksums.to_bytes()).num_read == 0
    assert Checksums(SPLIT, checksums.to_bytes()[:-1]).num_read == 0
