"""Result files in the form that the PASCAL VOC development kit reads and its server takes.

The labels of VOC2012's test split are not public: the server scores an archive of these files, one
a class, with the image and its score in each line. `comp1` is for networks trained with that year's
trainval data alone, `comp2` for those that have seen any other image, ImageNet's included.
"""

import io
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np


def result_files(
    *,
    challenge: str,
    split: str,
    competition: str,
    class_names: Sequence[str],
    filenames: Sequence[str],
    scores: np.ndarray,
) -> dict[str, str]:
    """The text of each file.

    Args:
      challenge: 'VOC2012' or 'VOC2007'.
      split: as it stands in the names, 'test' for the server.
      competition: 'comp1' or 'comp2'.
      class_names: C names.
      filenames: N names of images, whose stems are the ids.
      scores: `[N, C]` float32, the higher the more confident; written as decimals that read back
        as the same float32, so that the ranking survives.

    Returns:
      `results/VOC2012/Main/comp2_cls_test_aeroplane.txt` -> text, a class each.
    """
    folder = f"results/{challenge}/Main"
    ids = [PurePosixPath(name).stem for name in filenames]
    return {
        f"{folder}/{competition}_cls_{split}_{name}.txt": "".join(
            f"{image_id} {np.format_float_positional(score, trim='0')}\n"
            for image_id, score in zip(ids, column, strict=True)
        )
        for name, column in zip(class_names, scores.astype(np.float32).T, strict=True)
    }


def archive(files: dict[str, str]) -> bytes:
    """The files as the compressed tar to be uploaded.

    Args:
      files: path in the archive -> text.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()
