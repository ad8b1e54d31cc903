"""A prepared split -> batches of NumPy arrays, a pure function of the seed and the step.

Batches are the same for any number of threads, worker processes and hosts, and when a run starts
again at any step. A batch is a dictionary:

  image: uint8 `[b, canvas_px, canvas_px, 3]`, the image at the top left, zero elsewhere. A larger
    image is shrunk to fit (aspect kept, antialiased), never cropped.
  size: int32 `[b, 2]` height and width of the image in the canvas, in pixels.
  label: int8 `[b, C]`, 1 present, 0 absent, -1 to be ignored.
  boxes: float32 `[b, max_boxes, 4]` ymin, xmin, ymax, xmax in [0, 1] of the image, zero in unused
    slots.
  box_label: int32 `[b, max_boxes]` class of each box, -1 in unused slots.
  mask: bool `[b]`, False for the padding of the last evaluation batch.
  index: int32 `[b]` number of the record in the split, -1 for padding.

With worker processes the program's main module must be importable without effect, as for any use
of `multiprocessing` with spawned processes (`if __name__ == '__main__':`).
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np
from absl import flags

from oass_jax.data import sources
from oass_jax.data.example import ExampleReader, Split, stack_examples
from oass_jax.errors import UserError

# Finished batches that wait for the training step, per process or worker.
_BATCHES_AHEAD = 4
# More than any run has. grain's own infinity overflows where a process gets one example a batch.
_EPOCHS = 1_000_000


def open_split(name: str, split: str, *, data_dir: Path | None, manual_dir: Path | None) -> Split:
    """Opens a split of any data set; one of tfds is prepared where that has not been done.

    Args:
      name: of the data set, such as 'voc/2012'; see `sources.OPENERS`.
      split: such as 'train_aug', or a slice of it such as 'val[:100]'.
      data_dir: where prepared data sets live; None for the usual place.
      manual_dir: folder with the files of the data set, or the archives to prepare it from; None
        to download them, or to accept what is prepared already.

    Returns:
      The split.

    Raises:
      UserError: unknown data set, and all that its opener raises; of tfds data sets that is
        `prepare.open_split`.
    """
    opener = sources.find_opener(name)
    return opener(name, split, data_dir=data_dir, manual_dir=manual_dir)


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    canvas_px: int,
    max_boxes: int,
    difficult: str,
    num_workers: int,
    num_threads: int,
    cache: bool,
    process_index: int,
    process_count: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless training batches; each epoch has every example once, in an order of its own.

    Args:
      split: where from.
      batch_size: of all processes together.
      seed: of the order.
      start_step: the step whose batch comes first.
      canvas_px: side of the square canvas.
      max_boxes: slots for boxes.
      difficult: 'positive', 'ignore' or 'negative', what a class becomes whose objects in the
        image are all difficult.
      num_workers: worker processes; 0 to read in this process.
      num_threads: reading threads, of each worker if there are any; 0 reads in the calling one.
      cache: keep every decoded image in memory; without workers only.
      process_index: of this process.
      process_count: how many processes share a batch.

    Returns:
      An iterator of this process's part of each batch, `batch_size // process_count` examples.

    Raises:
      UserError: settings that do not fit together; while iterating, a damaged image or more
        objects than `max_boxes`.
    """
    if cache and num_workers:
        raise UserError("data.cache needs data.num_workers=0: workers do not share their memory")
    reader = ExampleReader(
        split, fit_px=canvas_px, max_boxes=max_boxes, difficult=difficult, cache=cache
    )
    local_size = _local_size(batch_size, process_count)
    stack = functools.partial(stack_examples, canvas_px=canvas_px)
    dataset = (
        grain.MapDataset.range(len(split))
        .seed(seed)
        .shuffle()
        .repeat(_EPOCHS)
        .map(reader)
        .batch(local_size, batch_fn=stack)
        .slice(slice(start_step * process_count + process_index, None, process_count))
    )
    return _iterate(dataset, num_workers=num_workers, num_threads=num_threads)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    canvas_px: int,
    max_boxes: int,
    difficult: str,
    num_workers: int,
    num_threads: int,
    process_index: int,
    process_count: int,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over a split in the order of its records; the last batch is padded and masked.

    Args, errors and result are those of `train_batches`. Every process gets the same number of
    batches.
    """
    reader = ExampleReader(
        split, fit_px=canvas_px, max_boxes=max_boxes, difficult=difficult, cache=False
    )
    local_size = _local_size(batch_size, process_count)
    stack = functools.partial(stack_examples, canvas_px=canvas_px)
    num_batches = -(-len(split) // batch_size)
    dataset = (
        grain.MapDataset.range(num_batches * batch_size)
        .map(reader)
        .batch(local_size, batch_fn=stack)
        .slice(slice(process_index, None, process_count))
    )
    return _iterate(dataset, num_workers=num_workers, num_threads=num_threads)


def fingerprint(
    split: Split, *, batch_size: int, seed: int, canvas_px: int, max_boxes: int, difficult: str
) -> dict[str, int | str]:
    """What has to be the same for a resumed run to see the input of the interrupted one.

    Args:
      split: as for `train_batches`, like all the others.
      batch_size: of all processes together.
      seed: of the order.
      canvas_px: side of the canvas.
      max_boxes: slots for boxes.
      difficult: rule for difficult objects.

    Returns:
      A flat dictionary for JSON; compare it for equality.
    """
    contents = json.dumps(sorted(split.sources.values())).encode()
    return {
        "dataset": split.name,
        "version": split.version,
        "split": split.split,
        "sources": hashlib.sha256(contents).hexdigest(),
        "num_records": len(split),
        "batch_size": batch_size,
        "seed": seed,
        "canvas_px": canvas_px,
        "max_boxes": max_boxes,
        "difficult": difficult,
    }


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            f"make data.batch_size a multiple of their number"
        )
    return batch_size // process_count


def _iterate(
    dataset: grain.MapDataset, *, num_workers: int, num_threads: int
) -> Iterator[dict[str, np.ndarray]]:
    # An element here is a whole batch: grain's usual 500 ahead would be gigabytes.
    options = grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=max(_BATCHES_AHEAD, num_threads) if num_threads else 0,
    )
    batches = dataset.to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():
            # grain reads options from absl's flags, which nobody parses in a notebook.
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers, per_worker_buffer_size=_BATCHES_AHEAD
            )
        )
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends threads and workers now, not when it is collected
