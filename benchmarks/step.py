"""Training step of every method and strategy, in turns, and its time relative to `max`.

python -m benchmarks.step --image_px=128 --batch_size=16

The roof is the cost model's time of the step (`benchmarks/roof.py`), with the limits of this very
device. Memory is what XLA plans for a device: state, batch and all that is between.
"""

import numpy as np

from benchmarks import harness, roof

OASS = ("max", "cmax", "ctopk", "ctopk_w", "gt_bbox", "max_csi", "ctopk_w_csi")
CONFIGS = (*OASS, "supervised", "puzzlecam", "mcar", "ssgrl")


def main() -> None:
    """Times the configs that are asked for."""
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--configs", nargs="+", default=CONFIGS, help="times are relative to the first"
    )
    options = parser.parse_args()
    limits = roof.measure_limits(options.dtype)
    steps = {name: harness.Step(name, options) for name in options.configs}
    times = harness.in_turns({name: step.run for name, step in steps.items()}, options.repeats)
    base = times[options.configs[0]]
    rows = []
    for name, seconds in times.items():
        step = steps[name]
        min_s = roof.step_seconds(step.config, step.encoder, harness.POSITIVES, limits)
        rows.append(
            [
                name,
                harness.spread(seconds),
                f"{options.batch_size / np.median(seconds):.1f}",
                # Ratios of neighbours in time, so that a slow minute falls out.
                harness.spread(seconds / base),
                f"{100 * min_s / np.median(seconds):.0f} %",
                f"{step.compile_s:.1f}",
                f"{step.peak_bytes / 1e9:.2f}",
            ]
        )
    header = ["config", "step, s", "images/s", f"step / {options.configs[0]}"]
    header += ["of the roof", "compile, s", "memory, GB"]
    seconds = {name: values.tolist() for name, values in times.items()}
    print(f"{limits.flops / 1e12:.2f} TFLOP/s and {limits.bandwidth / 1e9:.0f} GB/s are the limits")
    harness.report("step", options, header, rows, seconds=seconds, limits=limits._asdict())


if __name__ == "__main__":
    harness.run(main)
