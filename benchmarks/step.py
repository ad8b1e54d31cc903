"""Training step of every method and strategy, in turns, and its time relative to `max`.

python -m benchmarks.step --image_px=128 --batch_size=16
"""

import numpy as np

from benchmarks import harness

OASS = ("max", "cmax", "ctopk", "ctopk_w", "gt_bbox", "max_csi", "ctopk_w_csi")
PAGES = (*OASS, "supervised", "puzzlecam", "mcar", "ssgrl")


def main() -> None:
    """Times the pages that are asked for."""
    parser = harness.parser(__doc__)
    parser.add_argument("--pages", nargs="+", default=PAGES, help="the first is what others are to")
    options = parser.parse_args()
    steps = {page: harness.Step(page, options) for page in options.pages}
    times = harness.in_turns({page: step.run for page, step in steps.items()}, options.repeats)
    base = times[options.pages[0]]
    rows = []
    for page, seconds in times.items():
        # Ratios of neighbours in time, so that a slow minute falls out.
        ratio = seconds / base
        rate = f"{options.batch_size / np.median(seconds):.1f}"
        compiled = f"{steps[page].compile_s:.1f}"
        rows.append([page, harness.spread(seconds), rate, harness.spread(ratio), compiled])
    header = ["page", "step, s", "images/s", f"step / {options.pages[0]}", "first step, s"]
    seconds = {page: values.tolist() for page, values in times.items()}
    harness.report("step", options, header, rows, seconds=seconds)


if __name__ == "__main__":
    main()
