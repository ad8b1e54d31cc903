"""Channel-wise training: the labelled (image, class) pairs of a batch, a chunk at a time.

The number of pairs differs from batch to batch, while shapes must not. A loop runs as many chunks
of a fixed size as there are pairs: nothing is dropped, nothing recompiles, memory is that of one
chunk, and time grows with the labels that are present, not with the classes that exist.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

Tree = Any


class Pairs(NamedTuple):
    """Slots for (image, class) pairs; those after the last pair have weight 0.

    Attributes:
      image: `[S]` int32, example of the batch.
      channel: `[S]` int32, class.
      weight: `[S]` float32, 1 / the number of labels of the image.
    """

    image: jax.Array
    channel: jax.Array
    weight: jax.Array


def pack(label: jax.Array, chunk: int) -> tuple[Pairs, jax.Array]:
    """Lists the labelled pairs, in order of images and classes, without gaps.

    Args:
      label: `[B, C]`, 1 for the classes that are present.
      chunk: pairs that are computed together.

    Returns:
      As many slots as there could be pairs, to a whole number of chunks, and how many chunks have
      pairs in them, int32.
    """
    present = label > 0
    num_slots = -(-present.size // chunk) * chunk
    (index,) = jnp.nonzero(present.ravel(), size=num_slots, fill_value=0)
    image, channel = index // label.shape[1], index % label.shape[1]
    count = present.sum()
    weight = 1.0 / jnp.maximum(present.sum(axis=1), 1)[image]
    filled = jnp.arange(num_slots) < count
    return Pairs(image, channel, jnp.where(filled, weight, 0.0)), -(-count // chunk)


def take(pairs: Pairs, number: jax.Array, chunk: int) -> Pairs:
    """The slots of one chunk.

    Args:
      pairs: from `pack`, with the same chunk.
      number: int scalar, of the chunk.
      chunk: its size.
    """
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * chunk, chunk), pairs)


def sum_over_pairs(
    pairs_fn: Callable[[Tree, jax.Array, Tree, Tree, Pairs], tuple[jax.Array, Tree]],
    *,
    params: Tree,
    cam: jax.Array,
    shared: Tree,
    per_image: Tree,
    label: jax.Array,
    chunk: int,
    mesh: Mesh,
) -> tuple[jax.Array, Tree]:
    """Sums a loss over the labelled pairs of a batch; every device serves its own images.

    Packing the whole batch at once would move images and maps between devices.

    Args:
      pairs_fn: `(params, cam, shared, per_image, pairs)` of one chunk -> its loss and a tree of
        scalars to be summed. `cam` and `per_image` are then those of each pair's image, `[P, ...]`.
        It has to multiply by `pairs.weight`. Closes over nothing that is traced.
      params: tree that every pair sees whole, with gradient.
      cam: `[B, h, w, C]`, with gradient.
      shared: tree that every pair sees whole, without gradient.
      per_image: tree of `[B, ...]`, without gradient.
      label: `[B, C]`, 1 for the classes that are present.
      chunk: pairs that a device computes together.
      mesh: one axis, `data`, over which the batch is split.

    Returns:
      The sums; gradients come through the first alone.
    """

    def chunk_fn(inputs: Tree, constants: Tree, number: jax.Array) -> tuple[jax.Array, Tree]:
        (params, cam), (shared, per_image, pairs) = inputs, constants
        pairs = take(pairs, number, chunk)
        cam, per_image = jax.tree.map(lambda x: x[pairs.image], (cam, per_image))
        return pairs_fn(params, cam, shared, per_image, pairs)

    def device_fn(params: Tree, shared: Tree, cam: jax.Array, per_image: Tree, label: Tree) -> Tree:
        pairs, num_chunks = pack(label, chunk)
        total = sum_chunks(chunk_fn, (params, cam), (shared, per_image, pairs), num_chunks)
        return jax.tree.map(lambda x: x[None], total)

    everywhere, split = PartitionSpec(), PartitionSpec("data")
    sums = jax.shard_map(
        device_fn,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split, split, split),
        out_specs=split,
        check_vma=False,  # it does not know loops of differing length
    )(params, shared, cam, per_image, label)
    return jax.tree.map(jnp.sum, sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_chunks(
    chunk_fn: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]],
    inputs: Tree,
    constants: Tree,
    num_chunks: jax.Array,
) -> tuple[jax.Array, Tree]:
    """Sums a loss over a number of chunks that is only known when it runs.

    JAX cannot differentiate such a loop backwards. The gradient of a sum is the sum of gradients,
    though, so each chunk's is taken on the spot and added up: no chunk is computed twice and none
    has to be remembered.

    Args:
      chunk_fn: `(inputs, constants, number)` -> loss and a tree of further values to be summed.
        Closes over nothing that is traced.
      inputs: what the loss is differentiated by; floating point.
      constants: what else it needs.
      num_chunks: int scalar.

    Returns:
      The sums. Gradients come through the first alone.
    """

    def add(number: jax.Array, total: Tree) -> Tree:
        return jax.tree.map(jnp.add, total, chunk_fn(inputs, constants, number))

    like = jax.eval_shape(chunk_fn, inputs, constants, num_chunks)
    return jax.lax.fori_loop(0, num_chunks, add, _zeros(like))


def _forward(
    chunk_fn: Callable, inputs: Tree, constants: Tree, num_chunks: jax.Array
) -> tuple[tuple[jax.Array, Tree], Tree]:
    grad_fn = jax.value_and_grad(chunk_fn, has_aux=True)

    def add(number: jax.Array, total: Tree) -> Tree:
        return jax.tree.map(jnp.add, total, grad_fn(inputs, constants, number))

    like = jax.eval_shape(grad_fn, inputs, constants, num_chunks)
    return jax.lax.fori_loop(0, num_chunks, add, _zeros(like))


def _backward(chunk_fn: Callable, grads: Tree, cotangents: tuple[jax.Array, Tree]) -> tuple:
    del chunk_fn
    scaled = jax.tree.map(lambda grad: cotangents[0].astype(grad.dtype) * grad, grads)
    return scaled, None, None


def _zeros(like: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


sum_chunks.defvjp(_forward, _backward)
