"""Share of a training step spent in geometry and in CSI, and what else the geometry could be.

python -m benchmarks.geometry --image_px=512 --batch_size=4

Geometry is placing the images, cutting the patches and tiling their maps, with the gradient that
comes back through the tiling. Each is compiled alone, at the shapes of the step.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import choices, harness

CALLS = 10  # in a row make one run of what takes but milliseconds
TOLERANCE = 1e-4  # of the largest value
RADIUS = {"linear": 1, "cubic": 2}  # of the kernels, in pixels


class Compiled:
    """A function compiled for its arguments.

    Attributes:
      flops: of a call, as XLA counts them.
      result: of a first call.
    """

    def __init__(self, fn: Callable, *arguments: Any):
        """Compiles and calls it once."""
        import jax

        self._arguments = arguments
        self._compiled = jax.jit(fn).lower(*arguments).compile()
        self.flops = self._compiled.cost_analysis()["flops"]
        self.result = jax.block_until_ready(self._compiled(*arguments))

    def run(self) -> float:
        """Seconds of one call, the mean of several."""
        import jax

        began = time.perf_counter()
        for _ in range(CALLS):
            jax.block_until_ready(self._compiled(*self._arguments))
        return (time.perf_counter() - began) / CALLS


class Resampling(NamedTuple):
    """A geometric operation: what it does along each axis.

    Attributes:
      product: the project's function, of `images` alone.
      images: what is resampled: `[B, H, W, N]`, or to be tiled `[4 * B, P, P, N]`.
      windows: for y and for x the source and target windows `[B, V, 2]`, see `geometry.resample`.
      sizes: pixels along an axis of a window's input and output.
      kernel: as in `geometry.resample`.
      shrink: the most input pixels there are to an output pixel.
      tiled: the windows are read from images of their own and written into one canvas; else they
        are read from one image and each written into its own.
    """

    product: Callable
    images: Any
    windows: tuple
    sizes: tuple[int, int]
    kernel: str
    shrink: float
    tiled: bool = False


def changed(work: Resampling, images: Any, **options: Any) -> Any:
    """The project's function with other options of `geometry.resample_axis`."""
    with choices.geometry_with(**options):
        return work.product(images)


def products(work: Resampling, images: Any) -> Any:
    """The same with the windows in the weights, not in the images; what `work.product` returns.

    Every output pixel has a weight for every input pixel, zero outside of its window.
    """
    import jax
    import jax.numpy as jnp

    x_in = jnp.arange(work.sizes[0]) + 0.5
    weights_y, weights_x = (_weights(work, source, target, x_in) for source, target in work.windows)
    equation = "bvhp,bvupqc,buwq->bhwc" if work.tiled else "bvph,bhwn,buqw->bvupqn"
    images = images.astype(jnp.float32)
    if work.tiled:
        images = images.reshape(-1, 2, 2, *images.shape[1:])
    highest = jax.lax.Precision.HIGHEST
    result = jnp.einsum(equation, weights_y, images, weights_x, precision=highest)
    return result if work.tiled else result.reshape(-1, *result.shape[3:])


def gathers(work: Resampling, images: Any) -> Any:
    """The same from the few input pixels that an output pixel takes; what `work.product` returns.

    One axis after the other, each as a sum over taps of gathered rows or columns.
    """
    import jax.numpy as jnp

    in_size, out_size = work.sizes
    images = images.astype(jnp.float32)
    if work.tiled:  # side by side, so that a row's number says in which map it is
        images = jnp.moveaxis(images.reshape(-1, 2, 2, *images.shape[1:]), 3, 2)
        images = images.reshape(len(images), 2 * in_size, 2 * in_size, -1)
    for axis, (source, target) in enumerate(work.windows, start=1):
        index, weight = _taps(work, source, target)
        if work.tiled:  # an output pixel lies in one window
            index = index + in_size * jnp.arange(2)[:, None, None]
            index = jnp.where(weight > 0, index, 0).max(axis=1)
            weight = weight.sum(axis=1)
        else:
            index, weight = (x.reshape(len(x), -1, x.shape[-1]) for x in (index, weight))
        images = _sum_taps(images, index, weight, axis)
    if work.tiled:
        return images
    images = images.reshape(len(images), -1, out_size, images.shape[2] // out_size, out_size, 3)
    return jnp.moveaxis(images, 2, 3).reshape(-1, out_size, out_size, 3)


def _taps(work: Resampling, source: Any, target: Any) -> tuple[Any, Any]:
    """Input pixels `[B, V, out, taps]` of every output pixel, and their weights."""
    import jax.numpy as jnp

    in_size = work.sizes[0]
    radius = RADIUS[work.kernel] * max(work.shrink, 1.0)
    count = min(in_size, int(2 * radius) + 1)
    _, sample, support = _samples(work, source, target)
    first = jnp.ceil(sample - RADIUS[work.kernel] * support - 0.5)
    first = jnp.clip(first, 0, in_size - count).astype(jnp.int32)
    index = first + jnp.arange(count)
    return index, _weights(work, source, target, index + 0.5)


def _samples(work: Resampling, source: Any, target: Any) -> tuple[Any, Any, Any]:
    """Of output pixels, `[B, V, out, 1]`: the centre, where it is read, and the kernel's width."""
    import jax.numpy as jnp

    x_out = jnp.arange(work.sizes[1])[:, None] + 0.5
    scale = (source[..., 1] / target[..., 1])[..., None, None]
    sample = source[..., :1, None] + (x_out - target[..., :1, None]) * scale
    return x_out, sample, jnp.maximum(jnp.abs(scale), 1.0)


def _weights(work: Resampling, source: Any, target: Any, x_in: Any) -> Any:
    """How much of the input pixels at `x_in` `[..., taps]` every output pixel takes."""
    import jax.numpy as jnp

    x_out, sample, support = _samples(work, source, target)
    weight = _kernel(work.kernel, jnp.abs(x_in - sample) / support)
    ends = (source[..., 0], source[..., 0] + source[..., 1])
    low, high = (end(*ends)[..., None, None] for end in (jnp.minimum, jnp.maximum))
    weight *= (low < x_in) & (x_in < high)
    start, length = target[..., :1, None], target[..., 1:, None]
    written = (start < x_out) & (x_out < start + length)
    total = jnp.where(written, weight.sum(axis=-1, keepdims=True), 1.0)
    return jnp.where(written, weight / total, 0.0)


def _kernel(name: str, x: Any) -> Any:
    """A kernel of `geometry.resample` at distances of `x` pixels, at least 0."""
    import jax.numpy as jnp

    if name == "linear":
        return jnp.maximum(0.0, 1.0 - x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _sum_taps(images: Any, index: Any, weight: Any, axis: int) -> Any:
    import jax
    import jax.numpy as jnp

    def one(image: Any, index: Any, weight: Any) -> Any:
        shape = (1, -1, 1) if axis == 2 else (-1, 1, 1)
        return sum(
            jnp.take(image, index[:, tap], axis=axis - 1) * weight[:, tap].reshape(shape)
            for tap in range(index.shape[-1])
        )

    return jax.vmap(one)(images, index, weight)


def random_images(options: argparse.Namespace) -> tuple[Any, Any]:
    """Images `[B, H, W, 3]` uint8 and an `augment.Placement` as a training step draws it."""
    import jax
    import jax.numpy as jnp

    from oass_jax.image import augment

    px, batch_size = options.image_px, options.batch_size
    keys = jax.random.split(jax.random.PRNGKey(0), batch_size + 1)
    image = jax.random.randint(keys[0], (batch_size, px, px, 3), 0, 256).astype(jnp.uint8)
    placement = augment.random_placement(
        keys[1:],
        jnp.full((batch_size, 2), px),
        out_px=px,
        min_px=px * 5 // 8,
        max_px=px * 5 // 4,
        flip_probability=0.5,
    )
    return image, placement


def place_work(image: Any, placement: Any) -> Resampling:
    """The resampling in `augment.place_images`."""
    import jax.numpy as jnp

    from oass_jax.image import geometry

    px = image.shape[1]
    whole, backwards = jnp.array([0, px]), jnp.array([px, -px])
    source_x = jnp.where(placement.flip[:, None], backwards, whole)
    sources = jnp.stack([jnp.broadcast_to(whole, source_x.shape), source_x], axis=1)
    return Resampling(
        lambda image: geometry.resample(
            image, sources, placement.window, (px, px), kernel="cubic", antialias=True
        ),
        image,
        tuple((sources[:, None, i], placement.window[:, None, i]) for i in (0, 1)),
        (px, px),
        "cubic",
        shrink=8 / 5,
    )


def cut_and_tile(views: Any, *, num_classes: int, stride: int = 16) -> dict[str, Resampling]:
    """`puzzle.cut` and `puzzle.tile` at random keypoints.

    Args:
      views: `[B, H, H, 3]` float32.
      num_classes: maps of each patch.
      stride: pixels a cell.
    """
    import jax
    import jax.numpy as jnp

    from oass_jax.method import keypoint, puzzle

    batch_size, px = views.shape[:2]
    cells, margin = px // stride, max(1, px // 128)  # as `harness.Step` has it
    key_point, key_maps = jax.random.split(jax.random.PRNGKey(1))
    point = cells * jax.random.uniform(key_point, (batch_size, 2))
    at = keypoint.cut_position(point, (cells, cells), margin)

    def halves(axis: int, unit: int) -> jax.Array:
        start = jnp.stack([jnp.zeros_like(at[:, axis]), at[:, axis]], axis=-1)
        length = jnp.stack([at[:, axis], cells - at[:, axis]], axis=-1)
        return unit * jnp.stack([start, length], axis=-1)

    def whole(size: int) -> jax.Array:
        return jnp.array([[[0, size]]])

    cut = Resampling(
        lambda views: puzzle.cut(views, at * stride, resize=True),
        views,
        tuple((halves(axis, stride), whole(px // 2)) for axis in (0, 1)),
        (px, px // 2),
        "linear",
        shrink=2 * (cells - margin) / cells,
    )
    shape = (4 * batch_size, cells // 2, cells // 2, num_classes)
    tile = Resampling(
        lambda maps: puzzle.tile(maps, at, (cells, cells)),
        jax.random.normal(key_maps, shape),
        tuple((whole(cells // 2), halves(axis, 1)) for axis in (0, 1)),
        (cells // 2, cells),
        "linear",
        shrink=cells / 2 / margin,
        tiled=True,
    )
    return {"cut": cut, "tile": tile}


def with_gradient(fn: Callable) -> Callable:
    """A function and what comes back through it, of its arguments and what comes back to it."""
    import jax

    def both(cotangent: Any, *arguments: Any) -> tuple[Any, Any]:
        result, back_fn = jax.vjp(fn, *arguments)
        return result, back_fn(cotangent)

    return both


def alternatives(name: str, work: Resampling) -> dict[str, Compiled]:
    """The product and what could stand in its place, compiled; a tiling with its gradient.

    Raises:
      AssertionError: another way to compute the product computes something else.
    """
    import jax
    import jax.numpy as jnp

    functions = {
        "product": work.product,
        "default precision": functools.partial(changed, work, precision=None),
        "no antialias": functools.partial(changed, work, antialias=False),
        "windows in weights": functools.partial(products, work),
        "gather": functools.partial(gathers, work),
    }
    if name == "tile":
        cotangent = jnp.ones(jax.eval_shape(work.product, work.images).shape)
        compiled = {
            key: Compiled(with_gradient(fn), cotangent, work.images)
            for key, fn in functions.items()
        }
    else:
        compiled = {key: Compiled(fn, work.images) for key, fn in functions.items()}
    for way in ("windows in weights", "gather"):
        assert difference(compiled[way], compiled["product"]) < TOLERANCE, way
    return compiled


def difference(one: Compiled, product: Compiled) -> float:
    """The largest difference of two results, in units of the largest value of the second."""
    import jax

    pairs = zip(jax.tree.leaves(one.result), jax.tree.leaves(product.result), strict=True)
    return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)


def heads(options: argparse.Namespace) -> dict[str, Compiled]:
    """What is said of features, with and without CSI, and the gradient that comes back."""
    import jax
    import jax.numpy as jnp

    from oass_jax import config_file
    from oass_jax.model.network import Network
    from oass_jax.run import build

    compiled = {}
    for name, page in (("head with CSI", "max_csi"), ("head without", "max")):
        config = config_file.load(page)
        config.model.encoder, config.model.dtype = options.encoder, options.dtype
        network = build.create_network(config, harness.NUM_CLASSES)
        canvas = jnp.zeros((options.batch_size, options.image_px, options.image_px, 3))
        init = functools.partial(network.init_with_output, train=False)
        like = jax.eval_shape(init, jax.random.PRNGKey(0), canvas)[0]["features"]
        features = jax.random.normal(jax.random.PRNGKey(0), like.shape, like.dtype)
        params = network.init(jax.random.PRNGKey(1), features, method=Network.predict)["params"]

        def predict(params: Any, features: Any, network: Network = network) -> Any:
            return network.apply({"params": params}, features, method=Network.predict)

        said = jax.eval_shape(predict, params, features)
        cotangent = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), said)
        compiled[name] = Compiled(with_gradient(predict), cotangent, params, features)
    return compiled


def main() -> None:
    """Times parts, alternatives and the steps they are parts of, in turns."""
    parser = harness.parser(__doc__)
    parser.set_defaults(image_px=512, batch_size=4, repeats=5)
    options = parser.parse_args()

    from oass_jax.image import augment

    image, placement = random_images(options)
    place_fn = functools.partial(augment.place_images, out_px=options.image_px)
    place = Compiled(place_fn, image, placement)
    works = {"resample": place_work(image, placement)}
    works |= cut_and_tile(place.result, num_classes=harness.NUM_CLASSES)
    ways = {name: alternatives(name, work) for name, work in works.items()}
    compiled = {page: harness.Step(page, options) for page in ("max", "max_csi")}
    compiled |= {"place_images": place} | heads(options)
    for name, others in ways.items():
        compiled |= {f"{name}, {way}": other for way, other in others.items()}
    seconds = harness.in_turns({name: x.run for name, x in compiled.items()}, options.repeats)
    flops = {name: x.flops for name, x in compiled.items()}

    geometric = ["place_images", "cut, product", "tile, product"]
    seconds["geometry"] = sum(seconds[name] for name in geometric)
    flops["geometry"] = sum(flops[name] for name in geometric)
    seconds["max_csi less max"] = seconds["max_csi"] - seconds["max"]
    flops["max_csi less max"] = flops["max_csi"] - flops["max"]
    csi = ["head with CSI", "head without", "max_csi less max"]
    step_of = dict.fromkeys([*geometric, "geometry"], "max") | dict.fromkeys(csi, "max_csi")
    # Of neighbours in time, so that a slow minute falls out.
    percent = {name: 100 * seconds[name] / seconds[step] for name, step in step_of.items()}
    relative, error = {}, {}
    for name, others in ways.items():
        for way in others.keys() - {"product"}:
            relative[f"{name}, {way}"] = seconds[f"{name}, {way}"] / seconds[f"{name}, product"]
            error[f"{name}, {way}"] = difference(others[way], others["product"])

    def cells(name: str) -> list[str]:
        return [
            name,
            harness.spread(1000 * seconds[name]),
            f"{flops[name] / 1e9:.4f}",
            harness.spread(percent[name]) if name in percent else "",
            harness.spread(relative[name]) if name in relative else "",
            f"{error[name]:.1e}" if name in error else "",
        ]

    header = ["what", "ms", "GFLOP", "% of its step", "of the product", "largest difference"]
    harness.report(
        "geometry",
        options,
        header,
        [cells(name) for name in seconds],
        seconds={name: values.tolist() for name, values in seconds.items()},
        percent={name: float(np.median(values)) for name, values in percent.items()},
        flops=flops,
        difference=error,
    )


if __name__ == "__main__":
    harness.run(main)
