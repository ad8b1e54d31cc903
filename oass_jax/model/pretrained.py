"""Pretrained weights (safetensors, of torch) -> the encoder's flax variables.

The encoder knows what the file calls a variable (`foreign_name`, see `encoders.py`). Kernels are
brought from torch's layout to flax's: OIHW -> HWIO, and of a dense layer [out, in] -> [in, out].
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from oass_jax.errors import UserError, nearest_path

HUB_FILE = "model.safetensors"
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz")
FLOATS = ("F64", "F32", "F16", "BF16")  # whose values mean what they are, unlike quantised ones
FLAX_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}  # of a kernel, by its number of dimensions


class Report(NamedTuple):
    """Which arrays were found, by their names in the file.

    Attributes:
      loaded: In the file and in the encoder.
      missing: In the encoder only; they keep the values they had.
      left_over: In the file only, as `fc.weight` or `bn1.num_batches_tracked`.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def partly_loaded(self) -> str:
        """The parts of the encoder that were found in part: the file is of another encoder's.

        A part is the first word of a name, after those that all names of the encoder begin with.
        """
        words = [name.split(".")[:-1] for name in (*self.loaded, *self.missing)]
        same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
        common = len(list(same))
        loaded, missing = (
            {name.split(".")[common] for name in found} for found in (self.loaded, self.missing)
        )
        return ", ".join(sorted(loaded & missing))

    def summary(self) -> str:
        """One line for the log, with names shortened to their first part."""
        return "; ".join(
            f"{label} {len(names)}" + (f" ({_listed(names)})" if names else "")
            for label, names in zip(("loaded", "missing", "left over"), self, strict=True)
        )


def load_pretrained(
    name_or_path: str, variables: Mapping[str, Any], encoder: nn.Module
) -> tuple[dict[str, Any], Report]:
    """Replaces the encoder's variables by those of a file, wherever the file has them.

    Args:
      name_or_path: A local `.safetensors` file, or a repository of the Hugging Face hub that has
        a `model.safetensors`, as 'timm/resnet50.tv_in1k'.
      variables: Of a `Network`: collections such as 'params' and 'batch_stats', each with
        'encoder'. Everything else is returned as it is.
      encoder: That of the network.

    Returns:
      The variables as plain nested dicts, with the loaded arrays in the type of those they
      replace (float32, whatever the file holds), and the report.

    Raises:
      UserError: If the encoder has no `foreign_name`, there is no such file, it is not
        safetensors, an array has another shape than the encoder's, another type than `FLOATS` or
        values that no training leaves, or not one name matches.
    """
    if not hasattr(encoder, "foreign_name"):
        raise UserError(
            f"{name_or_path} cannot be loaded: {type(encoder).__name__} has no `foreign_name`, the "
            "rule for what a file calls its variables; --config.model.pretrained= starts without"
        )
    path = _resolve(name_or_path)
    flat = flatten_dict(dict(variables))
    names = {encoder.foreign_name(key[2:]): key for key in flat if key[1] == "encoder"}
    try:
        with safe_open(path, framework="np") as file:
            stored = set(file.keys())
            for name in names.keys() & stored:
                key, dtype = names[name], file.get_slice(name).get_dtype()
                if dtype not in FLOATS:
                    raise UserError(
                        f"{name} of {path} has the type {dtype}, not one of {', '.join(FLOATS)}: "
                        "save the weights as one of these."
                    )
                flat[key] = _convert(f"{name} of {path}", file.get_tensor(name), key[-1], flat[key])
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}).") from error
    report = Report(
        loaded=tuple(sorted(names.keys() & stored)),
        missing=tuple(sorted(names.keys() - stored)),
        left_over=tuple(sorted(stored - names.keys())),
    )
    if not report.loaded:
        raise UserError(
            f"{path} has no array with a name of the encoder's such as {report.missing[0]}; "
            f"it has {_listed(report.left_over) or 'none at all'}."
        )
    return unflatten_dict(flat), report


def _convert(name: str, tensor: np.ndarray, leaf: str, like: jax.Array) -> jax.Array:
    """A stored tensor in the layout and type of the variable it replaces, called `leaf`."""
    if leaf == "kernel" and tensor.ndim in FLAX_AXES:
        tensor = tensor.transpose(FLAX_AXES[tensor.ndim])
    if tensor.shape != like.shape:
        raise UserError(
            f"{name} has shape {tensor.shape} in the pretrained file but {like.shape} in the "
            "encoder (convolutions as HWIO): the file belongs to another architecture."
        )
    invalid = (
        (not np.isfinite(tensor).all() and "values that are not finite")
        or (leaf == "var" and (tensor < 0).any() and "a negative variance")
        or (leaf == "kernel" and not tensor.any() and "only zeros")
    )
    if invalid:
        raise UserError(f"{name} has {invalid}: the file is damaged; remove it and fetch it again.")
    return jnp.asarray(tensor, like.dtype)


def _resolve(name_or_path: str) -> Path:
    """A local file, or the downloaded file of a hub repository."""
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} may hold a pickle, which can run code and is never loaded: convert it once, "
            "where you trust it, with safetensors.torch.save_file(state_dict, 'model.safetensors')."
        )
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path} is a folder, but no run: name the .safetensors file in it.")
    if path.suffix != ".safetensors" and re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path):
        return _download(name_or_path)
    raise UserError(f"there is no pretrained file {path}: {nearest_path(path)}")


def _download(repository: str) -> Path:
    import huggingface_hub.errors  # an HTTP client that local weights do without
    import huggingface_hub.utils.logging  # which sets its level as it is imported

    # It retries for half a minute, and would report each attempt in two lines.
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    # Its own errors are OSErrors, of an invalid name ValueErrors, and of a broken line HTTPErrors.
    except (OSError, ValueError, huggingface_hub.errors.HTTPError) as error:
        raise UserError(
            f"{repository} is no file here, and {HUB_FILE} of that repository could not be had "
            f"from the Hugging Face hub ({type(error).__name__}): check the name and the network, "
            "or give the path of a downloaded file."
        ) from error


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(sorted(_parts(names)))


def _parts(names: tuple[str, ...]) -> set[str]:
    return {name.partition(".")[0] for name in names}
