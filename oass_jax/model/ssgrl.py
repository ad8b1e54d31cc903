"""SSGRL's classifier: a feature of each class, and a gated graph network over the classes.

Chen et al., Learning Semantic-Specific Graph Representation for Multi-Label Image Recognition,
ICCV 2019: semantic decoupling (Sec. 3.2) and semantic interaction (Sec. 3.3).
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from oass_jax.errors import UserError

TIME_STEPS = 3
ATTENTION_FEATURES = 1024

# What torch starts linear layers from, which the published code relies on.
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Dense = functools.partial(nn.Dense, kernel_init=uniform)


class GraphHead(nn.Module):
    """Features -> logits by way of one graph node a class.

    Deviation: the paper's label vectors are GloVe's and fixed. So they are here where they come
    from a file; else they start at random and are learned. The graph, and such vectors, are
    parameters that nothing moves (`prepare` sets them), so that they are saved with the rest.
    Features have stride 16, as in the other rows; in the authors' code it is 64: a ResNet of
    stride 32, then 2x2 average pooling.

    Attributes:
      num_classes: C.
      vector_size: Numbers of a label vector, V.
      learn_vectors: Whether the label vectors are learned.
    """

    num_classes: int
    vector_size: int = 300
    learn_vectors: bool = True

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [B, h, w, D] to logits, float32 [B, C]."""
        features = features.reshape(features.shape[0], -1, features.shape[-1]).astype(jnp.float32)
        nodes = self._decouple(features)
        shape = (self.num_classes, self.num_classes)
        graph = jax.lax.stop_gradient(self.param("graph", nn.initializers.zeros, shape))
        state = nodes
        gates = GatedUpdate(name="gates")
        for _ in range(TIME_STEPS):
            incoming = jnp.einsum("cd,bdf->bcf", graph, state)
            outgoing = jnp.einsum("dc,bdf->bcf", graph, state)
            state = gates(state, _joined(incoming, outgoing))
        output = jnp.tanh(Dense(nodes.shape[-1], name="output")(_joined(state, nodes)))
        # A classifier of its own for each class.
        kernel = self.param("kernel", uniform, (nodes.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return jnp.einsum("bcf,fc->bc", output, kernel) + bias

    def _decouple(self, features: jax.Array) -> jax.Array:
        """Features [B, hw, D], attended by each class's label vector: [B, C, D]."""
        shape = (self.num_classes, self.vector_size)
        vectors = self.param("label_vectors", nn.initializers.normal(1.0), shape)
        if not self.learn_vectors:
            vectors = jax.lax.stop_gradient(vectors)
        dense = functools.partial(Dense, ATTENTION_FEATURES, use_bias=False)
        projected = dense(name="attend_features")(features)
        joint = jnp.tanh(projected[:, :, None] * dense(name="attend_vectors")(vectors))
        # The paper has two linear layers in a row; their biases cancel in the softmax.
        inner = self.param("attend_inner", uniform, (ATTENTION_FEATURES, ATTENTION_FEATURES))
        outer = self.param("attend_outer", uniform, (ATTENTION_FEATURES, 1))
        weight = jax.nn.softmax((joint @ (inner @ outer))[..., 0], axis=1)
        return jnp.einsum("bpc,bpd->bcd", weight, features)


def _joined(*arrays: jax.Array) -> jax.Array:
    """The arrays side by side along the last axis.

    The barrier keeps XLA's GPU compiler from making that a part of the product which follows, or of
    its gradient: it finds no tiling for it, and aborts.
    """
    return jax.lax.optimization_barrier(jnp.concatenate(arrays, axis=-1))


class GatedUpdate(nn.Module):
    """One step of the gated graph network, its equations 2 to 6.

    Deviation: one version of the authors' code multiplies the state by the update gate's weights in
    the reset gate, too. Here each gate has its own, as in the equations and in the other version.
    """

    @nn.compact
    def __call__(self, state: jax.Array, message: jax.Array) -> jax.Array:
        """Node states [B, C, D] and messages [B, C, 2 D] -> new states [B, C, D]."""

        def gate(name: str, state: jax.Array, message: jax.Array) -> jax.Array:
            size = state.shape[-1]
            return Dense(size, name=f"{name}_message")(message) + Dense(size, name=name)(state)

        # Barriers let one gate begin when the other is done. Without them XLA makes one product of
        # all those of the message, for whose joined kernels its GPU compiler finds no tiling.
        update = jax.nn.sigmoid(gate("update", state, message))
        update, state, message = jax.lax.optimization_barrier((update, state, message))
        reset = jax.nn.sigmoid(gate("reset", state, message))
        reset, state, message = jax.lax.optimization_barrier((reset, state, message))
        candidate = jnp.tanh(gate("candidate", reset * state, message))
        return (1.0 - update) * state + update * candidate


def prepare(
    variables: dict[str, Any], label: np.ndarray, vectors: np.ndarray | None
) -> dict[str, Any]:
    """Sets the graph to how often one class comes with another in the training labels.

    Deviation: the paper does not say what a class is to itself; here nothing, since a gated update
    keeps a node's own state anyway.

    Args:
      variables: of a network with a `GraphHead` as `graph_head`.
      label: `[N, C]`, 1 for the classes that are present.
      vectors: `[C, V]` label vectors; None leaves those there are.

    Returns:
      The variables, with entry (c, d) the share of the images of class c that class d is in, too.
    """
    present = (label == 1).astype(np.float64)
    together = present.T @ present
    count = np.maximum(np.diag(together), 1.0)
    graph = together / count[:, None] * (1.0 - np.eye(len(count)))
    head = variables["params"]["graph_head"] | {"graph": jnp.asarray(graph, jnp.float32)}
    if vectors is not None:
        head |= {"label_vectors": jnp.asarray(vectors)}
    return variables | {"params": variables["params"] | {"graph_head": head}}


def read_vectors(path: str, num_classes: int) -> np.ndarray:
    """Reads label vectors.

    Args:
      path: of a `.npy` file with one row a class, in the order of the classes.
      num_classes: C.

    Returns:
      float32 `[C, V]`.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        vectors = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a .npy file with label vectors ({error})") from error
    is_table = isinstance(vectors, np.ndarray) and vectors.ndim == 2
    if not is_table or len(vectors) != num_classes or not np.issubdtype(vectors.dtype, np.floating):
        shape = getattr(vectors, "shape", "no array")
        raise UserError(
            f"{path} holds {shape}: label vectors are numbers [{num_classes}, V], one row a class"
        )
    return vectors.astype(np.float32)
