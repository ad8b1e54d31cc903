import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oass_jax import command_line, config_file, default_config
from oass_jax.data import prepare
from oass_jax.errors import UserError

ROOT = Path(__file__).parents[1]
MAX = "--config=configs/max.py"


def main(*words):
    command = [sys.executable, "-m", "oass_jax.main", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        ([MAX], "--workdir is missing"),
        ([MAX, "--workdir="], "--workdir is missing"),
        (["--config=configs/maxx.py", "--workdir=w"], "did you mean configs/max.py?"),
        ([MAX, "--wrkdir=w"], "did you mean --workdir?"),
        ([MAX, "--workdir=w", "train"], "'train' is not a flag"),
        ([MAX, "--workdir=w", "--mode=evl"], "<train|eval|cam>"),
        ([MAX, "--workdir=w", "--config.batchsize=3"], "did you mean batch_size?"),
        ([MAX, "--workdir=w", "--config.keypoint.strateg=max"], "did you mean keypoint.strategy?"),
        ([MAX, "--workdir=w", "--config.keypoint.strategy=maxx"], "did you mean max?"),
        ([MAX, "--workdir=w", "--config.data.dataset=voc/2021"], "did you mean voc/2012?"),
        ([MAX, "--workdir=w", "--config.batch_size=many"], "batch_size is of type int, like 32"),
        ([MAX, "--workdir=w", "--config.batch_size=0"], "at least 1"),
        ([MAX, "--workdir=w", "--config.num_epochs=nan"], "must be finite"),
        ([MAX, "--workdir=w", "--config.loss.alpha_p=-1"], "at least 0"),
        ([MAX, "--workdir=w", "--config.augment.long_side_px=(320,)"], "needs 2 numbers"),
        ([MAX, "--workdir=w", "--config.cam.scales=()"], "needs numbers, one or more"),
        ([MAX, "--workdir=w", "--config.cam.scales=('1',)"], "needs numbers, one or more"),
        ([MAX, "--workdir=w", "--config.cam.scales=(1.0, 0)"], "scales=0: must be finite and"),
        (
            [MAX, "--workdir=w", "--config.augment.long_side_px=(640,320)"],
            "the first is the smaller",
        ),
        ([MAX, "--workdir=w", "--config.model.encoder=resnet51"], "did you mean resnet50?"),
        ([MAX, "--workdir=w", "--config.data.manual_dir=configz"], "did you mean configs?"),
        ([MAX, "--workdir=w", "--config.model.pretrained=x.safetensors"], "does not exist"),
        ([MAX, "--workdir=w", "--config.model.label_vectors=x.npy"], "does not exist"),
        ([MAX, "--workdir=w", "--config.eval.logits=csi"], "this config has base only"),
        ([MAX, "--workdir=w", "--config.keypoint.window_cells=4"], "choose an odd number"),
        (["--config=configs/demo.py:ctopkw", "--workdir=w"], "did you mean ctopk_w?"),
        (["--config=configs/demo.py:from_json", "--workdir=w"], "from_json is not a method"),
        (
            ["--config=configs/supervised.py", "--workdir=w", "--config.eval.weights=ema"],
            "mode=ema",
        ),
        (["--config=configs/from_json.py", "--workdir=w"], "WORKDIR/config.json"),
        (["--config=configs/from_json.py:no.json", "--workdir=w"], "there is no file 'no.json'"),
        (["--config=README.md", "--workdir=w"], "is not a config"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(words, message):
    done = main(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.augment.image_px=500", "augment.image_px=500 is not a multiple of 32: try 512"),
        ("--config.keypoint.margin_cells=17", "at most 16 fit into 512 px"),
    ],
)
def test_a_size_that_does_not_go_with_the_encoder_is_refused_before_the_data(
    tmp_path, word, message
):
    done = main(MAX, f"--workdir={tmp_path / 'w'}", "--config.data.manual_dir=configs", word)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "w").exists()


def test_a_mistake_is_told_within_half_a_second():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        main(MAX, "--workdir=w", "--config.batchsize=3")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_help_names_the_flags():
    done = main("--help")
    assert "--workdir" in done.stdout
    assert "--config" in done.stdout
    assert "--mode" in done.stdout


def test_fields_may_stand_before_the_config(tmp_path):
    done = main("--config.batch_size=0", MAX, f"--workdir={tmp_path}")
    assert "--config.batch_size=0: must be finite and at least 1" in done.stderr


def test_choices_are_what_the_code_knows():
    names = {
        f"{name}/{config}" if config else name
        for name, builder in prepare.DATASETS.items()
        for config in (list(builder.builder_configs) or [None])
    }
    assert (
        set(default_config.CHOICES["data.dataset"])
        == set(default_config.CHOICES["eval.dataset"])
        == names
    )


def test_rules_name_fields_that_exist():
    fields = command_line.flatten(default_config.get_config().to_dict())
    rules = set(default_config.CHOICES) | set(default_config.MINIMUM) | set(default_config.LISTS)
    assert rules <= set(fields)


@pytest.mark.parametrize("name", [*config_file.methods(), "demo", "demo:ctopk_w_csi"])
def test_every_config_is_sound(name):
    command_line.check_config(config_file.load(name))


def test_a_config_replays_from_its_json(tmp_path):
    config = default_config.get_config()
    config.batch_size = 7
    config.augment.long_side_px = (100, 200)
    config.cam.scales = (1.0,)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert config_file.load(f"from_json:{path}").to_dict() == config.to_dict()
    path.write_text('{"batchsize": 3}')
    with pytest.raises(ValueError, match="does not fit this version"):
        config_file.load(f"from_json:{path}")


def test_puzzlecam_ramps_over_half_of_any_number_of_epochs():

    config = config_file.load("puzzlecam")
    config.num_epochs = 30.0
    assert config.loss.alpha_re_ramp_epochs == 15.0


def test_cache_and_workers_exclude_each_other():
    config = default_config.get_config()
    config.data.cache, config.data.num_workers = True, 2
    with pytest.raises(UserError, match=r"data.num_workers=0"):
        command_line.check_config(config)
