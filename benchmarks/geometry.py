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

from benchmarks import harness

CALLS = 10  # in a row make one run of what takes but milliseconds
TOLERANCE = 1e-4  # of the largest value


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
      windows: for y and for x the source and target windows `[B, V, 2]` of `axis_weights`.
      sizes: pixels along an axis of a window's input and output.
      kernel: a key of `geometry.KERNELS`.
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


def products(work: Resampling, images: Any, *, precision: Any, antialias: bool) -> Any:
    """The project's matrix products, with other settings; what `work.product` returns."""
    import jax.numpy as jnp

    from oass_jax.image import geometry

    weights_y, weights_x = (
        geometry.axis_weights(source, target, *work.sizes, kernel=work.kernel, antialias=antialias)
        for source, target in work.windows
    )
    equation = "bvhp,bvupqc,buwq->bhwc" if work.tiled else "bvph,bhwn,buqw->bvupqn"
    images = images.astype(jnp.float32)
    if work.tiled:
        images = images.reshape(-1, 2, 2, *images.shape[1:])
    result = jnp.einsum(equation, weights_y, images, weights_x, precision=precision)
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

    from oass_jax.image import geometry

    in_size, out_size = work.sizes
    radius = {"linear": 1, "cubic": 2}[work.kernel] * max(work.shrink, 1.0)
    count = min(in_size, int(2 * radius) + 1)
    start, length = (source[..., i, None].astype(jnp.float32) for i in (0, 1))
    target_start, target_length = (target[..., i, None].astype(jnp.float32) for i in (0, 1))
    x_out = jnp.arange(out_size) + 0.5
    scale = length / target_length
    sample = start + (x_out - target_start) * scale
    support = jnp.maximum(jnp.abs(scale), 1.0)
    first = jnp.ceil(sample - radius / max(work.shrink, 1.0) * support - 0.5)
    first = jnp.clip(first, 0, in_size - count).astype(jnp.int32)
    index = first[..., None] + jnp.arange(count)
    x_in = index + 0.5
    weight = geometry.KERNELS[work.kernel]((x_in - sample[..., None]) / support[..., None])
    low, high = jnp.minimum(start, start + length), jnp.maximum(start, start + length)
    weight *= (low[..., None] < x_in) & (x_in < high[..., None])
    written = (target_start < x_out) & (x_out < target_start + target_length)
    total = jnp.where(written, weight.sum(axis=-1), 1.0)
    return index, jnp.where(written[..., None], weight / total[..., None], 0.0)


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


def scale_and_translate(work: Resampling, images: Any) -> Any:
    """The same by `jax.image`, away from the edges of the patches, across which it reads."""
    import jax
    import jax.numpy as jnp

    out_size = work.sizes[1]
    (source_y, _), (source_x, _) = work.windows
    resize = functools.partial(
        jax.image.scale_and_translate,
        shape=(out_size, out_size, images.shape[-1]),
        spatial_dims=(0, 1),
        method=work.kernel,
    )

    def patch(image: Any, y: Any, x: Any) -> Any:
        start, length = jnp.stack([y, x], axis=-1).astype(jnp.float32)
        scale = out_size / length
        return resize(image, scale=scale, translation=-start * scale)

    patches = jax.vmap(patch, (None, None, 0))
    patches = jax.vmap(jax.vmap(patches, (None, 0, None)))(images, source_y, source_x)
    return patches.reshape(-1, *patches.shape[3:])


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
      AssertionError: the gathers compute something else than the product.
    """
    import jax
    import jax.numpy as jnp

    default, highest = jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGHEST
    functions = {
        "product": work.product,
        "default precision": functools.partial(products, work, precision=default, antialias=True),
        "no antialias": functools.partial(products, work, precision=highest, antialias=False),
        "gather": functools.partial(gathers, work),
    }
    if name == "cut":
        functions["scale_and_translate"] = functools.partial(scale_and_translate, work)
    if name == "tile":
        cotangent = jnp.ones(jax.eval_shape(work.product, work.images).shape)
        compiled = {
            key: Compiled(with_gradient(fn), cotangent, work.images)
            for key, fn in functions.items()
        }
    else:
        compiled = {key: Compiled(fn, work.images) for key, fn in functions.items()}
    assert difference(compiled["gather"], compiled["product"]) < TOLERANCE
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
