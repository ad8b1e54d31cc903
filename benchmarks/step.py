"""Training step of every method and strategy, in turns, and its time relative to `max`.

python -m benchmarks.step --image_px=128 --batch_size=16

The roof is the cost model's time of the step (`benchmarks/roof.py`), with the limits of this very
device. Memory is what XLA plans for a device: state, batch and all that is between.
"""

import numpy as np

from benchmarks import harness, roof

OASS = ("max", "cmax", "ctopk", "ctopk_w", "gt_bbox", "max_csi", "ctopk_w_csi")
PAGES = (*OASS, "supervised", "puzzlecam", "mcar", "ssgrl")


def main() -> None:
    """Times the pages that are asked for."""
    parser = harness.parser(__doc__)
    parser.add_argument("--pages", nargs="+", default=PAGES, help="the first is what others are to")
    options = parser.parse_args()
    limits = roof.measure_limits(options.dtype)
    steps = {page: harness.Step(page, options) for page in options.pages}
    times = harness.in_turns({page: step.run for page, step in steps.items()}, options.repeats)
    base = times[options.pages[0]]
    rows = []
    for page, seconds in times.items():
        step = steps[page]
        least = roof.step_seconds(step.config, step.encoder, harness.POSITIVES, limits)
        rows.append(
            [
                page,
                harness.spread(seconds),
                f"{options.batch_size / np.median(seconds):.1f}",
                # Ratios of neighbours in time, so that a slow minute falls out.
                harness.spread(seconds / base),
                f"{100 * least / np.median(seconds):.0f} %",
                f"{step.compile_s:.1f}",
                f"{step.peak_bytes / 1e9:.2f}",
            ]
        )
    header = ["page", "step, s", "images/s", f"step / {options.pages[0]}"]
    header += ["of the roof", "compile, s", "memory, GB"]
    seconds = {page: values.tolist() for page, values in times.items()}
    print(f"{limits.flops / 1e12:.2f} TFLOP/s and {limits.bandwidth / 1e9:.0f} GB/s are the limits")
    harness.report("step", options, header, rows, seconds=seconds, limits=limits._asdict())


if __name__ == "__main__":
    harness.run(main)
