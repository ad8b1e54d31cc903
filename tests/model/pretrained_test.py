import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from oass_jax.errors import UserError
from oass_jax.model import encoders, pretrained
from oass_jax.model.network import Network
from oass_jax.model.resnet import BasicBlock, ResNet
from tests.commands import run

FIXTURE = str(Path(__file__).with_name("torch_resnet_tiny.safetensors"))
KEY = jax.random.key(0)
TINY = ResNet(stage_sizes=(1, 2, 1, 1), width=4, dtype=jnp.float32)


def load_pretrained(path, variables, encoder=TINY):
    return pretrained.load_pretrained(path, variables, encoder)


@pytest.fixture(scope="module")
def variables():
    images = jnp.zeros((1, 32, 32, 3))
    network = Network(TINY, num_classes=3)
    return jax.jit(lambda x: network.init(KEY, x, train=False))(images)


@pytest.fixture
def write(tmp_path):
    """Writes tensors as `weights.safetensors` and returns its path."""

    def write_tensors(tensors):
        path = tmp_path / "weights.safetensors"
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)
        return str(path)

    return write_tensors


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("conv1/kernel", "conv1.weight"),
        ("bn1/mean", "bn1.running_mean"),
        ("layer1_0/bn3/var", "layer1.0.bn3.running_var"),
        ("layer3_22/conv2/kernel", "layer3.22.conv2.weight"),
        ("layer2_0/downsample_conv/kernel", "layer2.0.downsample.0.weight"),
        ("layer2_0/downsample_bn/scale", "layer2.0.downsample.1.weight"),
        ("layer2_0/downsample_bn/bias", "layer2.0.downsample.1.bias"),
    ],
)
def test_names_are_torchvisions(path, name):
    assert ResNet.foreign_name(tuple(path.split("/"))) == name


def test_names_of_basic_blocks_are_torchvisions():
    encoder = ResNet(stage_sizes=(1, 1, 1, 1), width=2, dtype=jnp.float32, block=BasicBlock)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: encoder.init(KEY, x, train=False), images)
    names = {encoder.foreign_name(path) for path in flatten_dict(variables["params"])}
    in_stage = {f"{x}.weight" for x in ("conv1", "conv2", "downsample.0")}
    in_stage |= {f"{x}.{y}" for x in ("bn1", "bn2", "downsample.1") for y in ("weight", "bias")}
    assert {x.removeprefix("layer2.0.") for x in names if x.startswith("layer2.")} == in_stage
    shortcut = {x for x in in_stage if x.startswith("downsample")}
    assert {x.removeprefix("layer1.0.") for x in names if x.startswith("layer1.")} == (
        in_stage - shortcut
    )
    assert {x for x in names if "layer" not in x} == {"conv1.weight", "bn1.weight", "bn1.bias"}


def test_every_array_of_the_encoder_is_replaced_and_nothing_else(variables):
    loaded, report = load_pretrained(FIXTURE, variables)
    stored = load_file(FIXTURE)
    np.testing.assert_array_equal(
        loaded["params"]["encoder"]["layer2_1"]["conv2"]["kernel"],
        stored["layer2.1.conv2.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        loaded["batch_stats"]["encoder"]["layer2_0"]["downsample_bn"]["var"],
        stored["layer2.0.downsample.1.running_var"],
    )
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, variables)
    assert loaded["params"]["head"]["kernel"] is variables["params"]["head"]["kernel"]
    encoder = [key for key in flatten_dict(variables) if key[1] == "encoder"]
    assert len(report.loaded) == len(encoder)
    assert not report.missing
    assert "bn1.num_batches_tracked" in report.left_over


def test_a_part_of_the_network_loads_and_the_rest_is_named(variables, write):
    stored = load_file(FIXTURE)
    part = {name: stored[name] for name in ("conv1.weight", "bn1.bias")}
    path = write(part | {"fc.weight": np.ones((10, 128)), "fc.bias": np.ones(10)})
    loaded, report = load_pretrained(path, variables)
    assert report.loaded == ("bn1.bias", "conv1.weight")
    assert report.left_over == ("fc.bias", "fc.weight")
    assert "layer4.0.bn3.running_var" in report.missing
    assert report.summary() == (
        "loaded 2 (bn1, conv1); missing 98 (bn1, layer1, layer2, layer3, layer4); left over 2 (fc)"
    )
    old, new = flatten_dict(variables), flatten_dict(loaded)
    assert sum(new[key] is not old[key] for key in old) == 2


@pytest.mark.parametrize(
    ("sizes", "found"),
    [((1, 2, 1, 1), ""), ((1, 3, 1, 1), "layer2"), ((2, 2, 1, 3), "layer1, layer4")],
)
def test_weights_of_a_shallower_encoder_are_found_out(sizes, found):
    encoder = ResNet(stage_sizes=sizes, width=4, dtype=jnp.float32)
    _, report = load_pretrained(FIXTURE, zeros_of(encoder), encoder)
    assert report.partly_loaded() == found


def test_words_that_all_names_begin_with_are_no_part():
    loaded, missing = ("backbone.conv1.weight", "backbone.bn1.bias"), ("backbone.adapter.weight",)
    assert pretrained.Report(loaded, missing, ()).partly_loaded() == ""
    assert pretrained.Report(loaded, ("backbone.bn1.weight",), ()).partly_loaded() == "bn1"


def test_float16_becomes_float32(variables, write):
    bias = np.array([0.5, -1, 2, 3], np.float16)
    loaded, _ = load_pretrained(write({"bn1.bias": bias}), variables)
    assert loaded["params"]["encoder"]["bn1"]["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(loaded["params"]["encoder"]["bn1"]["bias"], bias)


def write_raw(path, dtype, data):
    """A safetensors file of one array, of a type that NumPy may not have."""
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, len(data)]}
    header = json.dumps({"bn1.bias": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return str(path)


def test_bfloat16_becomes_float32(variables, tmp_path):
    path = write_raw(tmp_path / "weights.safetensors", "BF16", b"\x80\x3f" * 4)
    loaded, _ = load_pretrained(path, variables)
    np.testing.assert_array_equal(loaded["params"]["encoder"]["bn1"]["bias"], np.ones(4))


@pytest.mark.parametrize(("dtype", "num_bytes"), [("F8_E4M3", 1), ("I8", 1), ("C64", 8)])
def test_another_type_is_an_error(variables, tmp_path, dtype, num_bytes):
    path = write_raw(tmp_path / "weights.safetensors", dtype, bytes(4 * num_bytes))
    sentence = rf"^bn1\.bias of {path} has the type {dtype}, not one of F64, F32, F16, BF16: save"
    with pytest.raises(UserError, match=sentence):
        load_pretrained(path, variables)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("bn1.bias", [0, np.nan, 0, 0], "values that are not finite"),
        ("bn1.running_var", [1, 1, -1, 1], "a negative variance"),
        ("conv1.weight", np.zeros((4, 3, 7, 7)), "only zeros"),
    ],
)
def test_values_that_no_training_leaves_are_an_error(variables, write, name, array, reason):
    path = write({name: np.array(array, np.float32)})
    sentence = rf"^{name} of {path} has {reason}: the file is damaged; remove it and fetch it again"
    with pytest.raises(UserError, match=sentence):
        load_pretrained(path, variables)


RESNET50 = encoders.create("resnet50", dtype=jnp.float32)


def zeros_of(encoder):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: encoder.init(KEY, x, train=False), images)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return {name: {"encoder": tree} for name, tree in zeros.items()}


@pytest.fixture(scope="module")
def resnet50_variables():
    return zeros_of(RESNET50)


def tensors_of(encoder, variables, without=()):
    """Tensors named and shaped as torchvision stores those of an encoder."""
    tensors = {}
    for key, leaf in flatten_dict(variables).items():
        shape = np.transpose(leaf, (3, 2, 0, 1)).shape if leaf.ndim == 4 else leaf.shape
        if key[2].split("_")[0] not in without:
            tensors[encoder.foreign_name(key[2:])] = np.full(shape, 0.25, np.float16)
    return tensors


DATA = os.environ.get("OASS_TEST_DATA")


SOURCES = ["synthetic", "real"] if DATA else ["synthetic"]


@pytest.mark.parametrize("source", SOURCES)
def test_weights_that_end_at_layer3_load_and_layer4_is_named(resnet50_variables, write, source):
    if source == "real":
        path = f"{DATA}/resnet50_imagenet_to_layer3.safetensors"
    else:
        others = {"conv1.bias": np.zeros(64), "caffe_mean": np.zeros(3)}
        path = write(tensors_of(RESNET50, resnet50_variables, without=("layer4",)) | others)
    loaded, report = load_pretrained(path, resnet50_variables, RESNET50)
    assert len(report.loaded) == 215
    assert len(report.missing) == 50
    assert all(name.startswith("layer4.") for name in report.missing)
    assert report.left_over == ("caffe_mean", "conv1.bias")
    params = loaded["params"]["encoder"]
    assert params["layer3_5"]["conv3"]["kernel"].dtype == jnp.float32
    assert params["layer3_5"]["conv3"]["kernel"].any()
    assert not params["layer4_0"]["conv3"]["kernel"].any()


@pytest.mark.parametrize("source", SOURCES)
def test_the_original_resnet50_loads_whole(write, source):
    encoder = encoders.create("resnet50_v1", dtype=jnp.float32)
    variables = zeros_of(encoder)
    if source == "real":
        path = f"{DATA}/resnet50_imagenet.safetensors"
    else:
        classifier = {"fc.bias": np.zeros(1000), "fc.weight": np.zeros((1000, 2048), np.float16)}
        path = write(tensors_of(encoder, variables) | classifier)
    loaded, report = load_pretrained(path, variables, encoder)
    assert len(report.loaded) == 265
    assert not report.missing
    assert report.left_over == ("fc.bias", "fc.weight")
    assert all(leaf.any() for leaf in jax.tree.leaves(loaded))


class Dense(nn.Module):
    """What is no convolution: a dense layer, and a table of as many dimensions."""

    @nn.compact
    def __call__(self, images, *, train):
        table = self.param("table", nn.initializers.zeros, (3, 3))
        return nn.Dense(3, name="dense")(images) @ table

    @staticmethod
    def foreign_name(path):
        return ".".join(path)


def test_kernels_of_dense_layers_are_turned_and_tables_are_not(write):
    array = np.arange(9, dtype=np.float32).reshape(3, 3)
    variables = {"params": {"encoder": Dense().init(KEY, jnp.zeros((1, 3)), train=False)["params"]}}
    path = write({"dense.kernel": array, "table": array})
    loaded, _ = load_pretrained(path, variables, Dense())
    params = loaded["params"]["encoder"]
    np.testing.assert_array_equal(params["dense"]["kernel"], array.T)
    np.testing.assert_array_equal(params["table"], array)


def test_another_shape_is_an_error_with_key_and_shapes(variables, write):
    path = write({"layer1.0.conv2.weight": np.zeros((8, 4, 3, 3), np.float32)})
    message = rf"layer1\.0\.conv2\.weight of {path} .*\(3, 3, 4, 8\).*\(3, 3, 4, 4\)"
    with pytest.raises(UserError, match=message):
        load_pretrained(path, variables)


def test_no_matching_name_is_an_error_that_says_what_there_is(variables, write):
    path = write({"module.conv1.weight": np.zeros(1), "epoch.count": np.zeros(1)})
    with pytest.raises(UserError, match=r"such as bn1\.bias; it has epoch, module"):
        load_pretrained(path, variables)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "npy", "pkl"])
def test_pickles_are_refused_with_the_way_out(variables, tmp_path, suffix):
    path = tmp_path / f"resnet50.{suffix}"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"pickle.*safetensors\.torch\.save_file"):
        load_pretrained(str(path), variables)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x80\x04N."])
def test_other_files_are_an_error(variables, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors is not a whole safetensors file"):
        load_pretrained(str(path), variables)


def test_a_truncated_file_is_an_error(variables, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(Path(FIXTURE).read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_pretrained(str(path), variables)


def test_a_missing_file_names_the_nearest(variables, write):
    path = write({"a": np.zeros(1)})
    with pytest.raises(UserError, match=rf"did you mean {path}\?"):
        load_pretrained(path.replace("weights", "wieghts"), variables)
    with pytest.raises(UserError, match=r"no pretrained file /nowhere/a\.safetensors: check"):
        load_pretrained("/nowhere/a.safetensors", variables)


def test_a_folder_is_an_error(variables, tmp_path):
    with pytest.raises(UserError, match=r"is a folder, but no run: name the \.safetensors file"):
        load_pretrained(str(tmp_path), variables)


def test_a_hub_name_is_downloaded(variables, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *args: asked.append(args) or FIXTURE
    )
    _, report = load_pretrained("timm/resnet50.tv_in1k", variables)
    assert asked == [("timm/resnet50.tv_in1k", "model.safetensors")]
    assert not report.missing


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no network"),
        huggingface_hub.errors.HFValidationError("invalid name"),
        huggingface_hub.errors.HTTPError("connection closed"),
    ],
)
def test_a_hub_that_does_not_deliver_is_an_error(variables, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match="check the name and the network"):
        load_pretrained("timm/resnet50.tv_in1k", variables)


def test_retries_of_the_hub_are_not_printed(variables, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UserError, match="check the name and the network"):
        load_pretrained("timm/resnet50.tv_in1k", variables)
    assert waits
    assert not [record for record in caplog.records if record.name.startswith("huggingface_hub")]


def test_the_hub_is_imported_only_when_asked():
    code = "import sys, oass_jax.model.pretrained; print('huggingface_hub' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


def test_the_hub_is_silent_about_its_attempts():
    code = """
import contextlib, logging
from oass_jax.errors import UserError
from oass_jax.model import pretrained
with contextlib.suppress(UserError):
    pretrained._download("timm/resnet50.tv_in1k")
print(logging.getLogger("huggingface_hub").getEffectiveLevel() >= logging.ERROR)
"""
    done = run([sys.executable, "-c", code], os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.stdout == "True\n", done.stderr
