"""Step time of a channel-wise strategy against the number of labelled pairs in the batch.

python -m benchmarks.pairs --image_px=128 --batch_size=16

It should be a straight line that begins at the supervised step and rises, for each pair, by what
the teacher of `max` costs for one image.
"""

import functools

import numpy as np

from benchmarks import harness


def main() -> None:
    """Times one page over growing numbers of pairs, with `supervised` and `max` in between."""
    parser = harness.parser(__doc__)
    parser.add_argument("--page", default="cmax")
    parser.add_argument("--most", type=float, default=4.0, help="pairs an image, at the end")
    parser.add_argument("--points", type=int, default=9)
    options = parser.parse_args()
    steps = {page: harness.Step(page, options) for page in (options.page, "supervised", "max")}
    # Whole chunks: in between, time is that of the next whole chunk.
    most = options.most * options.batch_size / options.chunk_pairs
    counts = options.chunk_pairs * np.unique(
        np.linspace(0, most, options.points).round().astype(int)
    )

    def before(name: str) -> None:
        if name.isdigit():
            label = harness.label_with(int(name), options.batch_size)
            steps[options.page].set_label(label)

    runs = {str(count): steps[options.page].run for count in counts}
    runs |= {page: steps[page].run for page in ("supervised", "max")}
    times = harness.in_turns(runs, options.repeats, before)
    median = functools.partial(np.median, axis=-1)
    seconds = np.array([median(times[str(count)]) for count in counts])
    slope, start = np.polyfit(counts, seconds, 1)
    residual = seconds - (start + slope * counts)
    r2 = 1 - residual.var() / seconds.var()
    teacher = (median(times["max"]) - median(times["supervised"])) / options.batch_size
    usual = start + slope * harness.POSITIVES * options.batch_size

    rows = [[name, harness.spread(values)] for name, values in times.items()]
    summary = {
        "r2": float(r2),
        "slope / teacher of max an image": float(slope / teacher),
        "no pairs / supervised": float(start / median(times["supervised"])),
        f"{harness.POSITIVES} pairs an image / max": float(usual / median(times["max"])),
    }
    rows += [[name, f"{value:.4f}"] for name, value in summary.items()]
    seconds = {name: values.tolist() for name, values in times.items()}
    harness.report("pairs", options, ["pairs", "step, s"], rows, seconds=seconds, **summary)


if __name__ == "__main__":
    harness.run(main)
