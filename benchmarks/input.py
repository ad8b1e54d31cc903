"""Images/s of a core against the bare decoder.

python -m benchmarks.input --data_dir=DIR --out=results

The same JPEGs are decoded, in turns, by PIL alone and by the pipeline to whole batches. CPU time is
what a core does even where other programs share it, wall time what threads gain. What a run waits
for its input is in its own `metrics.jsonl`, as `perf/input_wait`.

A split should have some thousand images: in one of 40 grain's shuffle alone takes 0.4 ms an image.
The cache holds all of it, 8 GB of `train_aug`.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import harness
from oass_jax import command_line

# Takes images through; seconds an image, wall and CPU.
Route = Callable[[], tuple[float, float]]


def main() -> None:
    """Times the routes from files to batches."""
    parser = harness.parser(__doc__)
    parser.add_argument("--dataset", default="voc/2012")
    parser.add_argument("--split", default="train_aug[:2000]")
    parser.add_argument("--data_dir", type=command_line.path, help="where prepared data sets live")
    parser.add_argument(
        "--manual_dir", type=command_line.path, help="folder with archives to prepare from"
    )
    parser.add_argument("--images", type=int, default=480, help="min number of each timed pass")
    threads = sorted({1, os.cpu_count(), 16})
    parser.add_argument("--threads", type=int, nargs="+", default=threads, help="of the pipeline")
    options = parser.parse_args()
    if options.data_dir and not options.data_dir.is_dir():
        parser.error(f"--data_dir={options.data_dir} is no folder: name that of prepared data sets")
    from oass_jax.data import pipeline

    location = pipeline.Location(data_dir=options.data_dir, manual_dir=options.manual_dir)
    split = pipeline.open_split(options.dataset, options.split, location)
    times = harness.in_turns(routes(split, options), options.repeats)
    rows = []
    for name, seconds in times.items():
        wall, cpu = seconds.T
        rates = [f"{1 / np.median(cpu):.0f}", f"{1 / np.median(wall):.0f}"]
        ratio = harness.spread(times["PIL alone"][:, 1] / cpu)
        rows.append([name, harness.spread(1e3 * cpu), *rates, ratio])
    header = ["input", "CPU, ms an image", "images/s a core", "images/s", "rate / PIL alone"]
    seconds = {name: values.tolist() for name, values in times.items()}
    harness.report("input", options, header, rows, seconds=seconds)


def routes(split: Any, options: Namespace) -> dict[str, Route]:
    """The ways from a split to pixels. All but the cached one decode the same images.

    Args:
      split: a `pipeline.Split`.
      options: of the command.

    Returns:
      Name -> route.
    """
    # Its first epoch is decoded here; what is timed comes from the cache.
    cached = batches(split, options, threads=0, cache=True)
    for _ in range(-(-len(split) // options.batch_size)):
        next(cached)
    with contextlib.closing(batches(split, options, threads=1)) as first:
        timed = itertools.islice(first, warm_up(options), warm_up(options) + count(options))
        order = np.concatenate([batch["index"] for batch in timed])
    files = [split.source[index]["image"] for index in order.tolist()]
    return {
        "PIL alone": lambda: clock(map(decode, files), len(files)),
        **{
            f"batches, threads: {threads}": functools.partial(
                take_fresh, split, options, threads=threads
            )
            for threads in options.threads
        },
        "batches, from the cache": lambda: take(cached, options),
    }


def decode(data: bytes) -> np.ndarray:
    """An image file's pixels by PIL."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def batches(
    split: Any, options: Namespace, *, threads: int, cache: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Batches for training, read as the configs do, by so many threads; 0 for none beside ours."""
    from oass_jax import default_config
    from oass_jax.data import pipeline
    from oass_jax.run import build

    read_options = build.read_options(default_config.get_config())
    return pipeline.train_batches(
        split,
        dataclasses.replace(read_options, num_threads=threads, cache=cache),
        batch_size=options.batch_size,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
    )


def take_fresh(split: Any, options: Namespace, *, threads: int) -> tuple[float, float]:
    """`take` of a new iterator: one that waited for its turn would have finished batches."""
    others = threading.active_count()
    with contextlib.closing(batches(split, options, threads=threads)) as fresh:
        seconds = take(fresh, options)
    while threading.active_count() > others:
        time.sleep(1e-3)
    return seconds


def take(source: Iterator[Any], options: Namespace) -> tuple[float, float]:
    """Takes batches and times those after the first, when there are as many in the making."""
    for _ in range(warm_up(options)):
        next(source)
    num = count(options)
    return clock(itertools.islice(source, num), num * options.batch_size)


def warm_up(options: Namespace) -> int:
    """Batches that the pipeline has in the making."""
    return max(4, *options.threads)


def count(options: Namespace) -> int:
    """Batches to time: threads finish theirs together, and no such burst is cut."""
    unit = max(options.threads)
    return unit * -(-options.images // (options.batch_size * unit))


def clock(work: Iterator[Any], images: int) -> tuple[float, float]:
    """Runs an iterator to its end; seconds an image, wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images


if __name__ == "__main__":
    harness.run(main)
