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
  checksum: uint32 `[b]` CRC of the image's file where that is read in place, else 0.

With worker processes the program's main module must be importable without effect, as for any use
of `multiprocessing` with spawned processes (`if __name__ == '__main__':`).
"""

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from oass_jax.data import sources
from oass_jax.data.example import ExampleReader, ReadOptions, Split, stack_examples
from oass_jax.data.sources import Location
from oass_jax.errors import UserError

# Of a batch, what the training step reads, and what evaluation does.
TRAIN_FIELDS = ("image", "size", "label", "boxes", "box_label")
EVAL_FIELDS = ("image", "size", "label", "mask", "index")

# Finished batches that wait for the training step, per process or worker.
_BATCHES_AHEAD = 4
# More than any run has. grain's own infinity overflows where a process gets one example a batch.
_EPOCHS = 1_000_000


def open_split(
    name: str, split: str, location: Location, *, class_names: tuple[str, ...] | None = None
) -> Split:
    """Opens a split of any data set; one of tfds is prepared where that has not been done.

    Args:
      name: of the data set, such as 'voc/2012'; see `sources.OPENERS`.
      split: such as 'train_aug', or a slice of it such as 'val[:100]'.
      location: where its files are.
      class_names: the classes there are, in the order of the labels, for a list that need not hold
        each of them; None for those that it holds.

    Returns:
      The split.

    Raises:
      UserError: unknown data set, and all that its opener raises; of tfds data sets that is
        `prepare.open_split`.
    """
    opened = sources.find_opener(name)(name, split, location, class_names=class_names)
    if not len(opened):
        raise UserError(f"{name} {split} has no images: choose another split")
    return opened


def train_batches(
    split: Split,
    options: ReadOptions,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    process_index: int,
    process_count: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless training batches; each epoch has every example once, in an order of its own.

    Args:
      split: where from.
      options: how to read.
      batch_size: of all processes together.
      seed: of the order.
      start_step: the step whose batch comes first.
      process_index: of this process.
      process_count: how many processes share a batch.

    Returns:
      An iterator of this process's part of each batch, `batch_size // process_count` examples.

    Raises:
      UserError: a batch that cannot be shared evenly; while iterating, a damaged image or more
        objects than `options.max_boxes`.
    """
    local_size = _local_size(batch_size, process_count, field="batch_size")
    dataset = (
        grain.MapDataset.range(len(split))
        .seed(seed)
        .shuffle()
        .repeat(_EPOCHS)
        .map(ExampleReader(split, options))
        .batch(local_size, batch_fn=_stack_fn(options))
        .slice(slice(start_step * process_count + process_index, None, process_count))
    )
    return _iterate(dataset, options)


def eval_batches(
    split: Split,
    options: ReadOptions,
    *,
    batch_size: int,
    process_index: int,
    process_count: int,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over a split in the order of its records; the last batch is padded and masked.

    Args, errors and result are those of `train_batches`. Every process gets the same number of
    batches.
    """
    local_size = _local_size(batch_size, process_count, field="eval.batch_size")
    num_batches = -(-len(split) // batch_size)
    dataset = (
        grain.MapDataset.range(num_batches * batch_size)
        .map(ExampleReader(split, options))
        .batch(local_size, batch_fn=_stack_fn(options))
        .slice(slice(process_index, None, process_count))
    )
    return _iterate(dataset, options)


def fingerprint(
    split: Split, options: ReadOptions, *, batch_size: int, seed: int
) -> dict[str, int | str]:
    """What has to be the same for a resumed run to see the input of the interrupted one.

    Workers, threads, the cache and the slots for boxes are not in it: they change no image and no
    label.

    Args:
      split: as for `train_batches`, like all the others.
      options: how to read.
      batch_size: of all processes together.
      seed: of the order.

    Returns:
      A flat dictionary for JSON; compare it for equality.
    """
    return {
        "dataset": split.name,
        "version": split.version,
        "split": split.split,
        "sources": sources_checksum(split),
        "num_records": len(split),
        "batch_size": batch_size,
        "seed": seed,
        "canvas_px": options.canvas_px,
        "difficult": options.difficult,
    }


def evaluated(split: Split) -> dict[str, int | str]:
    """What has to be the same for several processes to evaluate the same images.

    Args:
      split: to evaluate; its name may differ between hosts, with the place of its list.
    """
    return {"eval.sources": sources_checksum(split), "eval.num_records": len(split)}


def sources_checksum(split: Split) -> str:
    """SHA-256 of what the split was read from, wherever that lies."""
    contents = json.dumps(sorted(split.sources.values())).encode()
    return hashlib.sha256(contents).hexdigest()


def _local_size(batch_size: int, process_count: int, *, field: str) -> int:
    if batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            f"make --config.{field} a multiple of their number"
        )
    return batch_size // process_count


def _stack_fn(options: ReadOptions) -> Callable[[Sequence[dict]], dict[str, np.ndarray]]:
    return functools.partial(stack_examples, canvas_px=options.canvas_px)


def _iterate(dataset: grain.MapDataset, options: ReadOptions) -> Iterator[dict[str, np.ndarray]]:
    num_threads = options.num_threads
    # An element here is a whole batch: grain's usual 500 ahead would be gigabytes.
    ahead = max(_BATCHES_AHEAD, num_threads) if num_threads else 0
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    )
    if options.num_workers:
        if not flags.FLAGS.is_parsed():
            # grain reads options from absl's flags, which nobody parses in a notebook.
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=options.num_workers, per_worker_buffer_size=_BATCHES_AHEAD
            ),
            worker_init_fn=_begin_worker,
        )
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends threads and workers now, not when it is collected


def _begin_worker(worker_index: int, worker_count: int) -> None:
    """Lets a worker end with its process: where that was killed, which it would not notice; and not
    before, by a signal to both, by which the process is asked to save.
    """
    del worker_index, worker_count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
