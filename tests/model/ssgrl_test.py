import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.errors import UserError
from oass_jax.model import ssgrl
from oass_jax.model.network import Network
from oass_jax.model.resnet import ResNet

NUM_CLASSES = 4
FEATURES = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype(np.float32)
LABEL = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [-1, 0, 1, 0]])


@pytest.fixture(scope="module")
def head():
    module = ssgrl.GraphHead(NUM_CLASSES)
    variables = jax.jit(module.init)(jax.random.key(0), FEATURES)
    variables = {"params": variables["params"] | {"graph": jnp.ones((4, 4)) / 3}}
    return module, variables


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(params, x):
    return x @ np.asarray(params["kernel"]) + np.asarray(params.get("bias", 0.0))


def test_equals_the_equations_written_out(head):
    """Sec. 3.2 and 3.3 with loops over classes and steps, both linear layers of the attention."""
    module, variables = head
    params = variables["params"]
    flat = FEATURES.reshape(2, 15, 8)
    nodes = []
    for c in range(NUM_CLASSES):
        projected = dense(params["attend_vectors"], params["label_vectors"][c])
        joint = np.tanh(dense(params["attend_features"], flat) * projected)
        score = joint @ np.asarray(params["attend_inner"]) @ np.asarray(params["attend_outer"])
        weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        nodes.append((weight * flat).sum(1))
    nodes = np.stack(nodes, 1)
    state, adjacency, gates = nodes, np.asarray(params["graph"]), params["gates"]
    for _ in range(3):
        message = np.concatenate([adjacency @ state, adjacency.T @ state], -1)
        update = dense(gates["update_message"], message) + dense(gates["update"], state)
        reset = sigmoid(dense(gates["reset_message"], message) + dense(gates["reset"], state))
        new = dense(gates["candidate_message"], message)
        new = np.tanh(new + dense(gates["candidate"], reset * state))
        state = (1 - sigmoid(update)) * state + sigmoid(update) * new
    output = np.tanh(dense(params["output"], np.concatenate([state, nodes], -1)))
    expected = (output * np.asarray(params["kernel"]).T).sum(-1) + params["bias"]
    assert_allclose(module.apply(variables, FEATURES), expected, atol=1e-4)


def test_cooccurrence_by_hand():
    variables = {"params": {"graph_head": {"graph": None, "bias": 1}, "head": 2}, "batch_stats": 3}
    changed = ssgrl.prepare(variables, LABEL, None)
    expected = [[0, 2 / 3, 1 / 3, 0], [1, 0, 1 / 2, 0], [1 / 2, 1 / 2, 0, 0], [0, 0, 0, 0]]
    assert_allclose(changed["params"]["graph_head"]["graph"], expected, rtol=1e-6)
    assert changed["params"]["graph_head"]["bias"] == 1
    assert changed["batch_stats"] == 3


def test_nothing_moves_the_graph(head):
    module, variables = head
    grads = jax.jit(jax.grad(lambda v: module.apply(v, FEATURES).sum()))(variables)["params"]
    assert_array_equal(grads["graph"], 0)
    moved = {name for name, tree in grads.items() if any(map(jnp.any, jax.tree.leaves(tree)))}
    assert moved == set(grads) - {"graph"}


def test_the_graph_connects_the_classes(head):
    module, variables = head
    alone = {"params": variables["params"] | {"graph": jnp.zeros((4, 4))}}
    changed = jax.tree.map(lambda x: x, alone)
    changed["params"]["label_vectors"] = alone["params"]["label_vectors"].at[0].add(1.0)
    apart = module.apply(changed, FEATURES) - module.apply(alone, FEATURES)
    assert_allclose(apart[:, 1:], 0, atol=1e-6)  # without edges a class is on its own
    changed["params"]["graph"] = variables["params"]["graph"]
    together = module.apply(changed, FEATURES) - module.apply(variables, FEATURES)
    assert np.abs(together[:, 1:]).min() > 1e-6


def test_class_maps_do_not_train_the_encoder_of_a_graph():
    encoder = ResNet((1, 1, 1, 1), width=4, dtype=jnp.float32)
    network = Network(encoder, NUM_CLASSES, graph_head=ssgrl.GraphHead(NUM_CLASSES))
    images = jnp.ones((1, 32, 32, 3))
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(images)

    def total(params, head):
        output = network.apply(variables | {"params": params}, images, train=False)
        return output["logits"][head].sum()

    for head, trains in (("base", False), ("graph", True)):
        grads = jax.jit(jax.grad(total), static_argnums=1)(variables["params"], head)
        assert any(map(jnp.any, jax.tree.leaves(grads["encoder"]))) == trains


def test_label_vectors_of_a_file_are_fixed(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(NUM_CLASSES, 7))
    np.save(tmp_path / "vectors.npy", vectors)
    read = ssgrl.read_vectors(str(tmp_path / "vectors.npy"), NUM_CLASSES)
    module = ssgrl.GraphHead(NUM_CLASSES, vector_size=7, learn_vectors=False)
    params = jax.jit(module.init)(jax.random.key(0), FEATURES)["params"]
    params = ssgrl.prepare({"params": {"graph_head": params}}, LABEL, read)["params"]["graph_head"]
    assert_allclose(params["label_vectors"], vectors, rtol=1e-6)
    grads = jax.grad(lambda p: module.apply({"params": p}, FEATURES).sum())(params)
    assert_array_equal(grads["label_vectors"], 0)


@pytest.mark.parametrize(
    "vectors", [np.ones((3, 7)), np.ones(4), np.array([["a"] * 7] * 4), np.array([[{}] * 7] * 4)]
)
def test_other_files_than_label_vectors_are_one_sentence(vectors, tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    with pytest.raises(UserError, match=r"vectors\.npy"):
        ssgrl.read_vectors(str(path), NUM_CLASSES)
    with pytest.raises(UserError, match="label vectors"):
        ssgrl.read_vectors(str(tmp_path / "missing.npy"), NUM_CLASSES)
