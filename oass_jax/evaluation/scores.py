"""`scores.npz` of an evaluation, read and checked: whatever is computed of a finished run."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oass_jax.errors import UserError

# RuntimeError: zipfile's for a password or a compression that it does not know.
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


class Scores(NamedTuple):
    """The predictions of an evaluation.

    Attributes:
      path: of the file.
      image: N file names, in the order of the split.
      class_name: C names.
      label: int8 `[N, C]`, 1, 0 or -1.
      prediction: float32 `[N, C]`, the logits that are scored.
      threshold: float64 `[C]`, the probability each class is predicted from; None where none was
        chosen.
      thresholds_of: the split they were chosen on; None where it is this one.
    """

    path: Path
    image: tuple[str, ...]
    class_name: tuple[str, ...]
    label: np.ndarray
    prediction: np.ndarray
    threshold: np.ndarray | None = None
    thresholds_of: str | None = None


def read(path: Path) -> Scores:
    """Reads the file.

    Args:
      path: of `scores.npz`.

    Raises:
      UserError: it is missing, damaged or of another version.
    """
    try:
        with np.load(path) as arrays:
            return _from_arrays(path, {key: arrays[key] for key in arrays if "/" not in key})
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: evaluate with --mode=eval") from error
    except _DAMAGED as error:
        reason = str(error).partition(". ")[0]  # NumPy goes on with advice
        raise UserError(
            f"{path} is damaged ({reason}): evaluate with --mode=eval once more"
        ) from error


def _from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Scores:
    """Checks what belongs together; heads and weights (`student/base`) are left alone.

    Raises:
      ValueError: it does not fit.
      KeyError: an array is missing.
    """
    image, class_name = (tuple(map(str, arrays[key].tolist())) for key in ("image", "class_name"))
    label, prediction = arrays["label"], arrays["prediction"]
    shape = (len(image), len(class_name))
    if label.shape != shape or prediction.shape != shape or not all(shape):
        raise ValueError(f"{label.shape} labels and {prediction.shape} scores of {shape}")
    if not np.isfinite(prediction).all() or not np.isin(label, (-1, 0, 1)).all():
        raise ValueError("a score is not finite, or a label none")
    threshold, source = arrays.get("threshold"), arrays.get("thresholds_of")
    if threshold is not None:
        threshold = threshold.astype(np.float64)
        if threshold.shape != shape[1:] or not ((threshold >= 0) & (threshold <= 1)).all():
            raise ValueError("the thresholds are no probabilities of the classes")
    return Scores(
        path=path,
        image=image,
        class_name=class_name,
        label=label,
        prediction=prediction.astype(np.float32),
        threshold=threshold,
        thresholds_of=None if source is None else str(source),
    )
