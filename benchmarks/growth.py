"""How the time of a training step and of evaluation grows, beside the law it should follow.

python -m benchmarks.growth --of batch image_px classes positives evaluation --out=growth

With --out every curve is drawn there, too.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness, plot

# Law -> what is multiplied by b.
LAWS = {
    "a": np.zeros_like,
    "a + b x": lambda x: x,
    "a + b x²": np.square,
    "a + b x log x": lambda x: x * np.log(x),
}


class Curve(NamedTuple):
    """What grows, ready to run.

    Attributes:
      law: a key of `LAWS`.
      title: what is measured.
      xlabel: with its unit.
      runs: x -> function that runs once and returns its seconds.
      flops: x -> of one run as XLA counts them, a loop's body once; empty where XLA runs nothing.
      before: called with x before each run, untimed.
    """

    law: str
    title: str
    xlabel: str
    runs: dict[int, Callable[[], float]]
    flops: dict[int, float]
    before: Callable[[int], None] = lambda _: None


class Fit(NamedTuple):
    """A law's constants, in seconds, and how much of the variance it explains; NaN of `a` alone."""

    a: float
    b: float
    r2: float

    def at(self, x: Sequence[float], law: str) -> np.ndarray:
        """The law's seconds at each x."""
        return self.a + self.b * LAWS[law](np.asarray(x, float))


def fit(x: Sequence[float], seconds: Sequence[float], law: str) -> Fit:
    """Least squares.

    Args:
      x: at least two.
      seconds: at each x.
      law: a key of `LAWS`.
    """
    grown = LAWS[law](np.asarray(x, float))
    basis = np.stack([np.ones_like(grown), grown], axis=-1)
    (a, b), *_ = np.linalg.lstsq(basis, np.asarray(seconds, float))
    is_flat = not grown.any()
    r2 = np.nan if is_flat else 1 - np.var(seconds - basis @ [a, b]) / np.var(seconds)
    return Fit(float(a), float(b), float(r2))


def by_option(name: str, xlabel: str, law: str, options: argparse.Namespace, at: list) -> Curve:
    """Steps of `max` whose options differ in one."""
    steps = {x: harness.Step("max", argparse.Namespace(**vars(options) | {name: x})) for x in at}
    return _steps(steps, law, "step of max", xlabel)


def by_classes(page: str, options: argparse.Namespace, at: list) -> Curve:
    """Steps of a page whose number of classes differs, with as many labels."""
    steps = {x: harness.Step(page, options, num_classes=x) for x in at}
    return _steps(steps, "a", f"step of {page}", "classes")


def by_positives(page: str, law: str, options: argparse.Namespace, at: list) -> Curve:
    """One step of a page, with ever more labels an image."""
    step = harness.Step(page, options)

    def before(x: int) -> None:
        step.set_label(harness.label_with(x * options.batch_size, options.batch_size))

    curve = _steps(dict.fromkeys(at, step), law, f"step of {page}", "labels an image")
    return curve._replace(before=before)


def _steps(steps: dict[int, harness.Step], law: str, title: str, xlabel: str) -> Curve:
    runs = {x: step.run for x, step in steps.items()}
    return Curve(law, title, xlabel, runs, {x: step.flops for x, step in steps.items()})


def evaluation(options: argparse.Namespace, at: list) -> Curve:
    """One pass over made-up images with one network's weights, and the metrics."""
    from oass_jax import config_file
    from oass_jax.data import pipeline
    from oass_jax.evaluation import average_precision, evaluator, predict
    from oass_jax.run import build

    config = config_file.load("max")
    config.model.encoder, config.model.dtype = options.encoder, options.dtype
    config.eval.batch_size = options.batch_size
    mesh = build.create_mesh()
    network = build.create_network(config, harness.NUM_CLASSES)
    weights = {"student": build.init_variables(network, 0)}
    first = _eval_batch(options.batch_size, options.image_px, start=0, count=options.batch_size)
    first = build.to_device(first, pipeline.EVAL_FIELDS, mesh)
    predict_fn = evaluator.create_predict_fn(config, network, mesh).lower(weights, first).compile()

    def run(count: int) -> float:
        began = time.perf_counter()
        batches = (
            build.to_device(
                _eval_batch(options.batch_size, options.image_px, start=start, count=count),
                pipeline.EVAL_FIELDS,
                mesh,
            )
            for start in range(0, count, options.batch_size)
        )
        predictions = predict.predict(functools.partial(predict_fn, weights), batches)
        average_precision.mean_average_precision(
            predictions.scores["student"]["base"], predictions.label
        )
        return time.perf_counter() - began

    flops = predict_fn.cost_analysis()["flops"]
    runs = {x: functools.partial(run, x) for x in at}
    whole = {x: flops * -(-x // options.batch_size) for x in at}
    return Curve("a + b x", "evaluation", "images", runs, whole)


def _eval_batch(batch_size: int, image_px: int, *, start: int, count: int) -> dict[str, Any]:
    """A batch as `data.pipeline` makes it for evaluation; rows from `count` on are filling."""
    index = np.arange(start, start + batch_size)
    return {
        "image": np.full((batch_size, image_px, image_px, 3), start % 256, np.uint8),
        "size": np.full((batch_size, 2), image_px, np.int32),
        "label": harness.label_with(batch_size, batch_size),
        "mask": index < count,
        "index": index,
    }


def ranking(options: argparse.Namespace, at: list) -> Curve:
    """Both average precisions of made-up scores, which NumPy sorts."""
    del options
    from oass_jax.evaluation import average_precision

    rng = np.random.default_rng(0)
    shape = (max(at), harness.NUM_CLASSES)
    scores = rng.standard_normal(shape, np.float32)
    label = (rng.random(shape) < harness.POSITIVES / harness.NUM_CLASSES).astype(np.int8)

    def run(count: int) -> float:
        began = time.perf_counter()
        average_precision.mean_average_precision(scores[:count], label[:count])
        return time.perf_counter() - began

    runs = {x: functools.partial(run, x) for x in at}
    return Curve("a + b x log x", "mAP alone", "images", runs, {})


BATCH = functools.partial(by_option, "batch_size", "batch size", "a + b x")
IMAGE_PX = functools.partial(by_option, "image_px", "side of the input, px", "a + b x²")
# Not 64: a kernel larger than its input, here 3x3 on the 2x2 cells of a patch, is turned round by
# XLA and falls off the CPU's fast convolution, tens of times slower.
SIDES = (96, 128, 160, 192, 256)
CLASSES = (20, 80, 200, 500, 1000)
POSITIVES = (0, 1, 2, 4, 8)

# What grows -> curve -> what builds it, and where it is measured.
CURVES = {
    "batch": {"batch": (BATCH, (4, 8, 16, 32))},
    "image_px": {"image_px": (IMAGE_PX, SIDES)},
    "classes": {
        f"classes_{page}": (functools.partial(by_classes, page), CLASSES)
        for page in ("max", "cmax", "max_csi")
    },
    "positives": {
        f"positives_{page}": (functools.partial(by_positives, page, law), POSITIVES)
        for page, law in (("max", "a"), ("cmax", "a + b x"))
    },
    "evaluation": {
        "evaluation": (evaluation, (64, 128, 192, 256)),
        "map": (ranking, (1_000, 5_000, 10_000, 20_000, 50_000)),
    },
}


def measure(name: str, curve: Curve, options: argparse.Namespace) -> tuple[list, list, dict]:
    """Times a curve's points in turns, fits its law and draws both.

    Args:
      name: of the curve.
      curve: at least two points.
      options: `repeats` and `out` are read.

    Returns:
      A row of each point, the row of the law, and all of it by name.
    """
    seconds = harness.in_turns(curve.runs, options.repeats, curve.before)
    x = list(seconds)
    median = [float(np.median(values)) for values in seconds.values()]
    fitted = fit(x, median, curve.law)
    law = fitted.at(x, curve.law)
    # Of neighbours in time, so that a slow minute falls out.
    ratio = seconds[x[-1]] / seconds[x[0]]
    flops = [f"{curve.flops[count] / 1e9:.2f}" if curve.flops else "" for count in x]
    points = [
        [name, count, harness.spread(seconds[count]), f"{value:.3f}", gflop]
        for count, value, gflop in zip(x, law, flops, strict=True)
    ]
    constants = f"a {fitted.a:.4g}"
    if curve.law != "a":
        constants += f", b {fitted.b:.4g}, r² {fitted.r2:.4f}"
    summary = [name, curve.law, constants, f"last / first {harness.spread(ratio)}", ""]
    if options.out:
        plot.growth(
            options.out / f"growth_{name}.png",
            x,
            median,
            lambda at: fitted.at(at, curve.law),
            title=curve.title,
            xlabel=curve.xlabel,
            ylabel="seconds",
            law_label=curve.law,
        )
    about = {
        "law": curve.law,
        "a": fitted.a,
        "b": fitted.b,
        "r2": None if np.isnan(fitted.r2) else fitted.r2,
        "last / first": ratio.tolist(),
        "flops": curve.flops,
        "seconds": {count: values.tolist() for count, values in seconds.items()},
    }
    return points, summary, about


def main() -> None:
    """Measures the curves that are asked for, one after the other: each holds several states."""
    parser = harness.parser(__doc__)
    parser.set_defaults(image_px=96, batch_size=8, repeats=5)
    parser.add_argument("--of", nargs="+", choices=CURVES, default=list(CURVES), help="what grows")
    parser.add_argument("--at", nargs="+", type=int, help="where, instead of the curve's own")
    options = parser.parse_args()
    if options.at and (len(options.of) > 1 or len(set(options.at)) < 2):
        parser.error("--at takes two or more numbers, for the one thing --of names")
    if options.out:
        plot.require()

    points, laws, curves = [], [], {}
    for grown in dict.fromkeys(options.of):
        for name, (build, at) in CURVES[grown].items():
            at = sorted(set(options.at or at))
            rows, law, curves[name] = measure(name, build(options, at), options)
            points, laws = [*points, *rows], [*laws, law]
    header = ["curve", "x", "seconds", "law, s", "GFLOP"]
    harness.report("growth", options, header, [*points, *laws], curves=curves)


if __name__ == "__main__":
    harness.run(main)
