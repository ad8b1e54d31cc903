"""Images/s of a core against the bare decoder, growth with image size, and what a run waits.

python -m benchmarks.input --data_dir=DIR --out=results

The same JPEGs are decoded, in turns, by PIL alone, by the reader of the pipeline, and by the
pipeline to whole batches. CPU time says what a core does even where other programs share it, wall
time what threads gain. Time should grow as a line in the pixels of an image. At the end the
training command runs some steps and tells what share of them it waited for input.
"""

import dataclasses
import functools
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, plot

SIZES = (128, 256, 384, 512, 768)  # px, long side
_INTERVALS = 4  # of the run; compilation falls into the first
_NUM_RESIZED = 32  # photographs that are encoded at every size
_TRAIN_AUG = 10_582  # images
_CACHED = 2_000  # images; all of train_aug would be 8 GB

# Takes images through; seconds an image, wall and CPU.
Route = Callable[[], tuple[float, float]]


class Repeated(Sequence[dict]):
    """As many records as are asked for: the first ones of a split, or all of them again and again.

    grain's shuffle needs some 65536 / length rounds an image: 3 us in train_aug, but 0.4 ms in a
    split of 40 images, which would look like time of the input.
    """

    def __init__(self, source: Sequence[dict], length: int):
        self._source, self._length = source, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._source[index % len(self._source)]


def main() -> None:
    """Times the routes, then the sizes, then runs the training command."""
    options = _parse()
    if options.out:
        plot.require()
    split = _open_split(options)
    runs = routes(split, options)
    pixels, sized = sizes(split, options)
    times = harness.in_turns(runs, options.repeats) | harness.in_turns(sized, options.repeats)
    growth = fit(pixels, [1e3 * float(np.median(times[name][:, 1])) for name in sized])
    run = train(split, options)

    alone = times["PIL alone"][:, 1]
    rows = [_row(name, times[name], alone) for name in runs]
    rows += [_row(name, times[name], None) for name in sized]
    files = [split.source[i]["image"] for i in range(min(options.images, len(split)))]
    summary = {
        "photographs, mean": describe(files),
        "line through the sizes, ms": "{start:.3f} + {slope:.3f} a megapixel".format(**growth),
        "r2 of that line": f"{growth['r2']:.4f}",
        f"run of {options.page}, images/s": harness.spread(run["images_per_sec"]),
        f"run of {options.page} waits for input, %": harness.spread(100 * run["input_wait"]),
    }
    rows += [[name, value, "", "", ""] for name, value in summary.items()]
    header = ["input", "CPU, ms an image", "images/s a core", "images/s", "rate / PIL alone"]
    more = {
        "seconds": {name: values.tolist() for name, values in times.items()},
        "growth": growth,
        "run": {name: values.tolist() for name, values in run.items()},
    }
    harness.report("input", options, header, rows, **more)
    if options.out:
        _draw(options.out / "input_vs_size.png", growth)


def _parse() -> Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--dataset", default="voc/2012")
    parser.add_argument("--split", default="train_aug")
    parser.add_argument("--data_dir", type=Path, help="where prepared data sets live")
    parser.add_argument("--manual_dir", type=Path, help="folder with archives to prepare from")
    parser.add_argument("--canvas_px", type=int, default=512, help="larger images are shrunk to it")
    parser.add_argument("--images", type=int, default=480, help="least number of each timed pass")
    threads = sorted({1, os.cpu_count(), 16})
    parser.add_argument("--threads", type=int, nargs="+", default=threads, help="of the pipeline")
    parser.add_argument("--page", default="max", help="config of the run")
    parser.add_argument("--steps", type=int, default=20, help="of the run")
    options = parser.parse_args()
    if options.steps < _INTERVALS:
        parser.error(f"--steps={options.steps}: it takes {_INTERVALS} to tell compilation apart")
    return options


def _open_split(options: Namespace) -> Any:
    from oass_jax import errors
    from oass_jax.data import pipeline

    if options.data_dir and not options.data_dir.is_dir():
        raise errors.UserError(
            f"--data_dir={options.data_dir} is no folder: give the one with prepared data sets"
        )
    return pipeline.open_split(
        options.dataset, options.split, data_dir=options.data_dir, manual_dir=options.manual_dir
    )


def routes(split: Any, options: Namespace) -> dict[str, Route]:
    """The ways from a split to pixels, PIL alone first. All decode the same images.

    Args:
      split: a `pipeline.Split`.
      options: of the command.

    Returns:
      Name -> route.
    """
    from oass_jax.data.example import ExampleReader

    cached = _batches(_repeated(split, _CACHED), options, threads=0, cache=True)
    for _ in range(-(-_CACHED // options.batch_size)):
        next(cached)
    split = _repeated(split, _TRAIN_AUG)
    batches = _batches(split, options, threads=1)
    begin = _warm_up(options)
    timed = itertools.islice(batches, begin, begin + _count(options))
    order = np.concatenate([batch["index"] for batch in timed]).tolist()
    batches.close()
    files = [split.source[index]["image"] for index in order]
    reader = ExampleReader(split, _read_options(options, threads=0, cache=False))
    threaded = {
        f"batches, threads: {threads}": functools.partial(
            _time_fresh, split, options, threads=threads
        )
        for threads in options.threads
    }
    return {
        "PIL alone": lambda: _clock(map(_decode, files), len(files)),
        "reader": lambda: _clock(map(reader, order), len(order)),
        **threaded,
        "batches, from the cache": lambda: _take(cached, options),
    }


def sizes(split: Any, options: Namespace) -> tuple[list[float], dict[str, Route]]:
    """Batches of photographs that were encoded anew at growing sizes, each with its own canvas.

    Args:
      split: a `pipeline.Split`.
      options: of the command.

    Returns:
      Mean pixels of an image at each size, and name -> route.
    """
    from PIL import Image

    records = [split.source[i] for i in range(min(_NUM_RESIZED, len(split)))]
    pixels, runs = [], {}
    for size in SIZES:
        images = [resize(record["image"], size) for record in records]
        pixels.append(float(np.mean([np.prod(Image.open(io.BytesIO(i)).size) for i in images])))
        source = [r | {"image": image} for r, image in zip(records, images, strict=True)]
        resized = _repeated(dataclasses.replace(split, source=source), _TRAIN_AUG)
        own = Namespace(**vars(options) | {"canvas_px": size})
        runs[f"long side {size} px"] = functools.partial(_time_fresh, resized, own, threads=1)
    return pixels, runs


def resize(data: bytes, long_side_px: int) -> bytes:
    """A photograph -> the JPEG of it with that long side, quality 95."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = long_side_px / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def fit(pixels: Sequence[float], ms: Sequence[float]) -> dict[str, Any]:
    """The line through time against pixels.

    Args:
      pixels: of an image.
      ms: an image.

    Returns:
      Both, `start` (ms), `slope` (ms a megapixel) and `r2` of the line of least squares.
    """
    megapixels = np.array(pixels) / 1e6
    slope, start = np.polyfit(megapixels, ms, 1)
    r2 = 1 - np.var(ms - (start + slope * megapixels)) / np.var(ms)
    line = {"start": float(start), "slope": float(slope), "r2": float(r2)}
    return {"pixels": list(pixels), "ms": list(ms)} | line


def train(split: Any, options: Namespace) -> dict[str, np.ndarray]:
    """Runs the training command and reads what it measured itself.

    Args:
      split: a `pipeline.Split`, as the command will open it.
      options: of the command.

    Returns:
      `images_per_sec` and `input_wait` (a share) of each interval but the first, which compiles.
    """
    interval = max(1, options.steps // _INTERVALS)
    fields = {
        "num_epochs": options.steps * options.batch_size / len(split),
        "batch_size": options.batch_size,
        "log_every_steps": interval,
        "data.dataset": options.dataset,
        "data.split": options.split,
        "data.data_dir": options.data_dir or "",
        "data.manual_dir": options.manual_dir or "",
        "data.canvas_px": options.canvas_px,
        "augment.image_px": options.image_px,
        "augment.long_side_px": (options.image_px * 5 // 8, options.image_px * 5 // 4),
        "keypoint.margin_cells": max(1, options.image_px // 128),
        "model.encoder": options.encoder,
        "model.dtype": options.dtype,
        "model.pretrained": "",
        "teacher.chunk_pairs": options.chunk_pairs,
        # The command ends with an evaluation: a small one, on what there is for certain.
        "eval.split": f"{options.split.split('[')[0]}[:{min(32, len(split))}]",
        "eval.image_px": options.image_px,
        "eval.batch_size": options.batch_size,
        "checkpoint.every_steps": options.steps,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "oass_jax.main"),
            *(f"--config=configs/{options.page}.py", f"--workdir={folder}"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            sys.exit(done.returncode)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "perf/input_wait" in row][1:]
    return {
        name: np.array([row[f"perf/{name}"] for row in rows])
        for name in ("images_per_sec", "input_wait")
    }


def describe(files: Sequence[bytes]) -> str:
    """Mean size of image files, as text."""
    from PIL import Image

    sizes = [Image.open(io.BytesIO(data)).size for data in files]
    width, height = np.mean(sizes, axis=0)
    return f"{width:.0f} x {height:.0f} px, {np.mean([*map(len, files)]) / 1e3:.0f} kB"


def _row(name: str, seconds: np.ndarray, alone: np.ndarray | None) -> list[str]:
    wall, cpu = seconds.T
    return [
        name,
        harness.spread(1e3 * cpu),
        f"{1 / np.median(cpu):.0f}",
        f"{1 / np.median(wall):.0f}",
        "" if alone is None else harness.spread(alone / cpu),
    ]


def _repeated(split: Any, length: int) -> Any:
    return dataclasses.replace(split, source=Repeated(split.source, length))


def _read_options(options: Namespace, *, threads: int, cache: bool) -> Any:
    from oass_jax import default_config
    from oass_jax.data import pipeline

    data = default_config.get_config().data
    return pipeline.ReadOptions(
        canvas_px=options.canvas_px,
        max_boxes=data.max_boxes,
        difficult=data.difficult,
        num_workers=0,
        num_threads=threads,
        cache=cache,
    )


def _batches(
    split: Any, options: Namespace, *, threads: int, cache: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    from oass_jax.data import pipeline

    return pipeline.train_batches(
        split,
        _read_options(options, threads=threads, cache=cache),
        batch_size=options.batch_size,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
    )


def _time_fresh(split: Any, options: Namespace, *, threads: int) -> tuple[float, float]:
    # An iterator that waited for its turn would begin with finished batches, and work meanwhile.
    others = threading.active_count()
    batches = _batches(split, options, threads=threads)
    seconds = _take(batches, options)
    batches.close()
    while threading.active_count() > others:
        time.sleep(1e-3)
    return seconds


def _take(batches: Iterator[Any], options: Namespace) -> tuple[float, float]:
    """Takes batches and times those after the first, when there are as many in the making."""
    for _ in range(_warm_up(options)):
        next(batches)
    count = _count(options)
    return _clock(itertools.islice(batches, count), count * options.batch_size)


def _warm_up(options: Namespace) -> int:
    return max(4, *options.threads)  # batches, as many as the pipeline has in the making


def _count(options: Namespace) -> int:
    # Threads finish their batches together: other numbers would cut a burst of them.
    most = max(options.threads)
    return most * -(-options.images // (options.batch_size * most))


def _decode(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def _clock(work: Iterator[Any], images: int) -> tuple[float, float]:
    """Runs an iterator to its end; seconds an image, wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images


def _draw(path: Path, growth: dict[str, Any]) -> None:
    megapixels = np.array(growth["pixels"]) / 1e6
    plot.growth(
        path,
        megapixels,
        growth["ms"],
        lambda at: growth["start"] + growth["slope"] * at,
        title="Input of an image, one thread",
        xlabel="megapixels",
        ylabel="CPU time, ms",
        law_label=f"{growth['start']:.2f} ms + {growth['slope']:.2f} ms a megapixel",
    )


if __name__ == "__main__":
    harness.run(main)
