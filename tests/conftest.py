"""What every test runs under: CPU, eight virtual devices; and a tiny VOC for those who ask."""

import io
import json
import os
import shutil
import tarfile
import tempfile
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

# Workers of pytest-xdist inherit all of this from the process that starts them, and so do the
# commands that tests start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_force_host_platform_device_count=8",
            # Most of the time would go into optimising programs that run once on tiny arrays.
            "--xla_backend_optimization_level=0",
            # A device that waits for another on a busy machine would end the process.
            "--xla_cpu_collective_call_terminate_timeout_seconds=3600",
        ]
    )
    if version("jaxlib").startswith("0.10."):
        # The emitters before these compile in half the time; later ones have no others, and an
        # unknown flag ends the process.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    # rich would take a pipe for a terminal.
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        os.environ.pop(name, None)
    # Every process that a test starts would compile the modules of the libraries again: 3 of 5 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Many tests compile the same program.
    _CACHE = tempfile.TemporaryDirectory(prefix="oass_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin>
<ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>{part}</object>"""
PART = """<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>
</bndbox></part>"""


def photograph(number, *, height, width, mode="RGB"):
    ramp = np.linspace(0, 200, height * width).reshape(height, width)
    pixels = np.stack([ramp + number * 7, ramp[::-1], ramp[:, ::-1]], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def annotation(*objects):
    return f"<annotation>{''.join(objects)}</annotation>".encode()


def voc_object(name, ymin, xmin, ymax, xmax, *, difficult=0, part=""):
    return OBJECT.format(
        name=name, difficult=difficult, ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax, part=part
    )


def mask_png(height, width):
    buffer = io.BytesIO()
    Image.fromarray(np.full([height, width], 15, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def synthetic_files():
    """Seven photographs; 2011_00000{1,2} are segmentation train, 3 and 4 SBD's, 5 to 7 val."""
    ids = [f"2011_00000{n}" for n in range(1, 8)]
    files = {}
    for number, image_id in enumerate(ids):
        height, width = (40, 60) if number % 2 else (72, 48)
        mode = "L" if number == 3 else "RGB"
        files[f"JPEGImages/{image_id}.jpg"] = photograph(
            number, height=height, width=width, mode=mode
        )
        files[f"Annotations/{image_id}.xml"] = annotation(
            voc_object("person", 1, 1, height, width, part=PART),
            voc_object("dog", 11, 5, 20.0, 24, difficult=1),
        )
        if number not in (2, 3):
            files[f"SegmentationClass/{image_id}.png"] = mask_png(height, width)
    lists = {
        "Segmentation/train": ids[:2],
        "Segmentation/val": ids[4:],
        "Main/train": ids[:1],
        "Main/val": ids[1:3],
    }
    for name, listed in lists.items():
        files[f"ImageSets/{name}.txt"] = "".join(f"{i}\n" for i in listed).encode()
    return files


@pytest.fixture(scope="session")
def voc_files():
    """A function that returns path -> bytes of a tiny VOC, to be changed and written."""
    return synthetic_files


@pytest.fixture(scope="session")
def write_tar():
    """A function that writes path -> bytes as the tar of a VOC year."""

    def write(path, files, *, year="2012", prefix=""):
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(f"{prefix}VOCdevkit/VOC{year}/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Folder of the digit scenes, prepared."""
    from tests.commands import prepare_digits

    return prepare_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def six_steps(digits, tmp_path_factory):
    """Workdir and output of a training by `words`; read it only."""
    from tests.commands import call, words

    folder = tmp_path_factory.mktemp("six_steps")
    done = call(words(digits, folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def finished_run(digits, tmp_path_factory):
    """Workdir of the tiny network with EMA teacher and CSI, evaluated; read it only."""
    from tests.commands import finish, words

    return finish(words(digits, tmp_path_factory.mktemp("finished"), config="demo:max_csi"))


@pytest.fixture
def run_with(finished_run, tmp_path):
    """A function that copies the run and changes fields of its config, as `{"eval.flip": True}`."""

    def copy(fields=None):
        folder = shutil.copytree(finished_run, tmp_path / "run", dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        for name, value in (fields or {}).items():
            *sections, field = name.split(".")
            section = config
            for each in sections:
                section = section[each]
            assert field in section
            section[field] = value
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


@pytest.fixture
def machine(tmp_path):
    """A folder to start runs from, where other programs stand in for those of a cluster."""
    from tests.machine import Machine

    return Machine(tmp_path)


@pytest.fixture(scope="session")
def scenes(digits, tmp_path_factory):
    """Folder with the image files of the split that the run was evaluated on."""
    from oass_jax.data import pipeline

    folder = tmp_path_factory.mktemp("scenes")
    location = pipeline.Location(data_dir=digits)
    split = pipeline.open_split("digit_scenes", "val[:48]", location)
    for record in split.source:
        (folder / record["image/filename"].decode()).write_bytes(record["image"])
    return folder


@pytest.fixture
def layer_norm_encoder(monkeypatch):
    """Registers an encoder without batch normalisation for a test, and gives its name."""
    from oass_jax.model import encoders

    target = "tests.layer_norm_encoder:LayerNormEncoder"
    monkeypatch.setitem(encoders.ENCODERS, "layer_norm", target)
    return "layer_norm"


@pytest.fixture(scope="session")
def sample_images():
    """A function that writes images of different pixels and sizes into a folder."""

    def write(folder, names):
        for number, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, [6 + number % 3, 8 + number, 3])
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        return folder

    return write
