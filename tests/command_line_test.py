import errno
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from oass_jax import command_line, config_check, config_file, default_config, main, predict
from oass_jax.__main__ import COMMANDS
from oass_jax.data import sources
from oass_jax.errors import LostProcessError, UserError
from oass_jax.model import encoders

ROOT = Path(__file__).parents[1]
MAX = "--config=max"
W = "--workdir=w"


def process(*words, module="oass_jax.main", cwd=ROOT):
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        (["--config=", W], "--config is missing"),
        (["--config"], "expected one argument"),
        ([MAX], "--workdir is missing"),
        ([MAX, "--workdir="], "--workdir is missing"),
        (["--config=configs/maxx.py", W], "did you mean configs/max.py?"),
        (["--config=maxx", W], "maxx is not a config: did you mean max?"),
        ([MAX, "--wrkdir=w"], "--wrkdir is not a flag: did you mean --workdir?"),
        ([MAX, "--confg.batch_size=3"], "is not a flag"),
        (["-config=max", W], "-config is not a flag: did you mean --config?"),
        ([MAX, W, "--distributed=True"], "--distributed"),
        ([MAX, W, "--num_processes=2"], "of several processes: add --distributed"),
        ([MAX, W, "--distributed", "--process_id=x"], "--process_id"),
        ([MAX, W, "--config.eval={'flip': True}"], "set --config.eval.FIELD=VALUE"),
        ([MAX, W, "--config.loss.alpha_p", "-1"], "--config.loss.alpha_p=-1.0: must be"),
        ([MAX, W, "train"], "'train' is not a flag"),
        ([MAX, W, "--config.data.cache", "train"], "'train' is not a flag"),
        ([MAX, W, "--mode=evl"], "--mode=evl: did you mean eval?"),
        ([MAX, W, "--config.batchsize=3"], "--config.batchsize is not a field: did you mean batch"),
        ([MAX, W, "--config.keypoint.strateg=max"], "did you mean keypoint.strategy?"),
        ([MAX, W, "--noconfig.data.cach"], "did you mean data.cache?"),
        ([MAX, W, "--config.keypoint.strategy=maxx"], "did you mean max?"),
        ([MAX, W, "--config.data.dataset=voc/2021"], "did you mean voc/2012?"),
        ([MAX, W, "--config.batch_size=many"], "batch_size is of type int, like 32"),
        ([MAX, W, "--config.batch_size"], "batch_size"),
        ([MAX, W, "--config.batch_size=0"], "at least 1"),
        ([MAX, W, "--config.num_epochs=nan"], "must be finite"),
        ([MAX, W, "--config.seed=4294967296"], "must be less than 2**32"),
        ([MAX, W, "--config.data.split_seed=4294967296"], "must be less than 2**32"),
        ([MAX, W, "--config.loss.alpha_p=-1"], "at least 0"),
        ([MAX, W, "--config.augment.long_side_px=(320,)"], "needs 2 numbers"),
        ([MAX, W, "--config.cam.scales=()"], "needs numbers, one or more"),
        ([MAX, W, "--config.cam.scales=('1',)"], "needs numbers, one or more"),
        ([MAX, W, "--config.cam.scales=(1.0, 0)"], "scales=0: must be finite and"),
        ([MAX, W, "--config.augment.long_side_px=(640,320)"], "the first is the smaller"),
        ([MAX, W, "--config.model.encoder=resnet51"], "did you mean resnet50?"),
        ([MAX, W, "--config.data.manual_dir=configz"], "did you mean configs?"),
        ([MAX, W, "--config.model.pretrained=x.safetensors"], "does not exist"),
        ([MAX, W, "--config.model.label_vectors=x.npy"], "does not exist"),
        ([MAX, W, "--config.eval.logits=csi"], "this config has base only"),
        ([MAX, W, "--config.keypoint.window_cells=4"], "choose an odd number"),
        (["--config=max:cmax", W], "the config max takes no argument 'cmax'"),
        (["--config=configs/demo.py:ctopkw", W], "did you mean ctopk_w?"),
        (["--config=demo:from_json", W], "from_json is not a method"),
        (["--config=supervised", W, "--config.eval.weights=ema"], "mode=ema"),
        (["--config=from_json", W], "the config from_json needs an argument"),
        (["--config=from_json:no.json", W], "there is no file 'no.json'"),
        (["--config=from_json:README.md", W], "README.md is not JSON"),
        (["--config=README.md", W], "is not a config"),
        (["--config=no/where.py", W], "no/where.py is not a config"),
        (["--config=tests/command_line_test.py", W], "has no attribute 'get_config'"),
    ],
)
def test_an_error_names_the_word_and_what_is_right(words, message):
    with pytest.raises(UserError) as error:
        main.parse(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("oass_jax.main", [MAX, W, "--config.batchsize=3"], "did you mean batch_size?"),
        ("oass_jax", ["--config=configs/maxx.py", W], "did you mean configs/max.py?"),
        ("oass_jax", ["tabel"], "tabel is not a command: did you mean table?"),
        ("oass_jax", ["table", "--outt=x"], "--outt is not a flag: did you mean --out?"),
        ("oass_jax", ["prepare"], "required: --dataset"),
        ("oass_jax", ["sweep", "runs", "--config=max"], "did you mean --configs?"),
        ("oass_jax.prepare", ["--datset=voc/2012"], "did you mean --dataset?"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(module, words, message):
    done = process(*words, module=module)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_ctrl_c_leaves_no_traceback(capsys):
    @command_line.command
    def main(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        main([])
    assert capsys.readouterr().err == "interrupted\n"


def test_help_lists_flags_configs_and_where_the_fields_are():
    done = process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--workdir", "--config", "--mode", "--distributed", "default_config.py"):
        assert word in done.stdout
    for name, text in config_file.descriptions().items():
        assert f"{name} " in done.stdout
        assert text in done.stdout


def test_the_command_oass_lists_the_others():
    done = process("--help", module="oass_jax")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"oass {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["--config=max", "--workdir=w", "--config.batch_size=7", "--config.data.cache=True"],
        ["--config", "max", "--workdir", "w", "--config.batch_size", "7", "--config.data.cache"],
        ["--config.batch_size=7", "--config.data.cache", "--config=configs/max.py", "--workdir=w"],
    ],
)
def test_words_may_be_in_any_order_and_spelling(words):
    args = main.parse(words)
    assert (args.workdir, args.mode, args.distributed) == (Path("w"), "train", False)
    assert (args.config.batch_size, args.config.data.cache) == (7, True)


def test_a_run_knows_its_data_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)
    given = ["--config=own", W, "--config.data.path=labels.csv", "--config.data.image_dir=."]
    data = main.parse(given).config.data
    assert (data.path, data.image_dir) == (str(tmp_path / "labels.csv"), str(tmp_path))
    assert data.manual_dir == ""
    (tmp_path / "oxford" / "pets:1.0").mkdir(parents=True)
    named = [f"--config.{part}.dataset=tfds" for part in ("data", "eval")]
    data = main.parse(["--config=own", W, *named, "--config.data.path=oxford/pets:1.0"]).config.data
    assert data.path == "oxford/pets:1.0"


def test_a_tilde_behind_a_flag_is_the_home_folder(monkeypatch):
    """A shell expands it in `~/x` alone."""
    monkeypatch.setenv("HOME", "/home/user")
    assert main.parse([MAX, "--workdir=~/x"]).workdir == Path("/home/user/x")
    assert predict.parse(["--workdir=~/x", "a.png"]).workdir == Path("/home/user/x")


def test_of_a_field_that_is_set_twice_the_last_counts():
    scales = [f"--config.eval.scales={s}" for s in ("(0.5, 1.0)", "(2.0,)")]
    assert main.parse([MAX, W, *scales]).config.eval.scales == (2.0,)


@pytest.mark.parametrize(("number", "status"), [(errno.EACCES, 2), (errno.EPIPE, 141)])
def test_errors_of_the_system_leave_no_traceback(number, status, capfd):
    @command_line.command
    def fails(argv):
        raise OSError(number, os.strerror(number), "some/file")

    with mock.patch.object(os, "dup2"), pytest.raises(SystemExit) as end:
        fails([])
    assert end.value.code == status
    line = "error: some/file cannot be used: Permission denied\n" if status == 2 else ""
    assert capfd.readouterr().err == line


def test_an_error_that_may_be_a_bug_keeps_its_traceback():
    @command_line.command
    def fails(argv):
        raise FileNotFoundError(errno.ENOENT, "gone", "some/file")

    with pytest.raises(FileNotFoundError):
        fails([])


def test_two_command_lines_do_not_meet():
    assert main.parse([MAX, W, "--config.batch_size=7"]).config.batch_size == 7
    assert main.parse([MAX, W]).config.batch_size == 32


def test_the_evaluation_may_have_another_data_set_than_the_training():
    config = main.parse([MAX, W, "--config.eval.dataset=voc/2007"]).config
    assert (config.data.dataset, config.eval.dataset) == ("voc/2012", "voc/2007")
    config = main.parse([MAX, W, "--config.data.dataset=voc/2007"]).config
    assert config.eval.dataset == "voc/2007"


# A config of the user's own.

OWN = """
from oass_jax import default_config

def get_config(size=3):
    config = default_config.get_config()
    config.batch_size = int(size)
    return config
"""


def test_a_config_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert config_file.load("my/own.py").batch_size == 3
    assert config_file.load("my/own.py:5").batch_size == 5
    assert config_file.load("configs/max.py").batch_size == 32
    assert config_file.load("max").batch_size == 32
    with pytest.raises(UserError, match=r"did you mean my/own.py\?"):
        config_file.load("my/onw.py")
    with pytest.raises(UserError, match=r"my/own.py:x, line 6: ValueError: invalid literal"):
        config_file.load("my/own.py:x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no attribute 'get_config'"),
        ("x = = 1", "SyntaxError"),
        ("\n\nprint(unknown)", "line 3: NameError"),
        ("def get_config():\n    return {}", "must return a ConfigDict"),
        (
            "from ml_collections import ConfigDict as C\n\ndef get_config():\n    return C({})",
            "lacks the field augment.flip_probability",
        ),
        (
            OWN.replace("config.batch_size =", "config.unlock().new ="),
            "adds the field new",
        ),
    ],
)
def test_a_config_that_does_not_work_is_reported(tmp_path, text, message):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        config_file.load(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)


# What the rules and names are checked against.


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.augment.image_px=500", "augment.image_px=500 is not a multiple of 32: try 512"),
        ("--config.keypoint.margin_cells=17", "at most 16 fit into 512 px"),
    ],
)
def test_a_size_that_does_not_fit_the_encoder_is_refused_before_anything_is_written(
    tmp_path, word, message, capsys
):
    with pytest.raises(SystemExit) as ended:
        main.main([MAX, f"--workdir={tmp_path / 'w'}", word, "--config.batch_size=32"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "w").exists()


def test_choices_are_what_the_code_knows():
    for field in ("data.dataset", "eval.dataset"):
        assert set(config_check.CHOICES[field]) == set(sources.OPENERS)
    assert set(config_check.CHOICES["model.encoder"]) == set(encoders.ENCODERS)


def test_rules_name_fields_that_exist():
    fields = config_file.flatten(default_config.get_config().to_dict())
    rules = set(config_check.CHOICES) | set(default_config.MINIMUM) | set(default_config.LISTS)
    assert rules <= set(fields)


PHOTOGRAPHS = config_file.FOLDER / "photographs.py"
STUDY = [f"photographs:{row}" for row in runpy.run_path(str(PHOTOGRAPHS))["ROWS"]]


@pytest.mark.parametrize(
    "name", [*config_file.methods(), "demo", "demo:ctopk_w_csi", "photographs", *STUDY]
)
def test_every_config_is_sound(name):
    config_check.check_config(config_file.load(name))


@pytest.mark.parametrize("name", ["own", *(f"own:{name}" for name in config_file.methods())])
def test_images_of_ones_own_go_with_every_method(name, tmp_path):
    config = config_file.load(name)
    with pytest.raises(UserError, match=r"data\.dataset=csv needs --config\.data\.path"):
        config_check.check_config(config)
    config.data.path = str(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"data\.path=.*nothing does not exist"):
        config_check.check_config(config)
    for path in (tmp_path / "labels_{split}.csv", tmp_path):
        config.data.path = str(path)
        config_check.check_config(config)
    config.num_epochs = 30.0
    assert (config.eval.every_epochs, config.optimizer.warmup_epochs) == (3, 1.5)
    if config.teacher.mode != "none":
        assert 15 <= config.loss.alpha_re_ramp_epochs <= 25


def test_a_row_that_there_is_not_is_reported():
    with pytest.raises(
        UserError, match=r"photographs:maxx, line \d+: ValueError: the rows are sup"
    ):
        config_file.load("photographs:maxx")


def test_puzzlecam_ramps_over_half_of_any_number_of_epochs():
    config = config_file.load("puzzlecam")
    config.num_epochs = 30.0
    assert config.loss.alpha_re_ramp_epochs == 15.0


def test_cache_and_workers_exclude_each_other():
    config = default_config.get_config()
    config.data.cache, config.data.num_workers = True, 2
    with pytest.raises(UserError, match=r"data.num_workers=0"):
        config_check.check_config(config)


# A run's own config.


def test_a_config_replays_from_its_json(tmp_path):
    config = default_config.get_config()
    config.batch_size = 7
    config.augment.long_side_px = (100, 200)
    config.cam.scales = (1.0,)
    config.eval.dataset = "voc/2007"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    for word in ("from_json", "configs/from_json.py"):
        assert config_file.load(f"{word}:{path}").to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds no fields"),
        ('{"batchsize": 3}', "no field batchsize, did you mean batch_size"),
        ('{"batch_size": "many"}', "does not fit this version"),
        ('{"eval": 3}', "does not fit this version"),
    ],
)
def test_what_is_not_the_config_of_a_run_is_reported(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        main.parse([f"--config=from_json:{path}", W])
    with pytest.raises(UserError, match=message):
        main.parse([f"--workdir={tmp_path}", "--mode=eval"])


@pytest.fixture
def run(tmp_path):
    """A function that parses the command line of an evaluation of a run of `max_csi`."""
    config = main.parse(
        ["--config=max_csi", W, "--config.batch_size=7", "--config.num_epochs=3"]
    ).config
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))

    def parse(*words, mode="eval"):
        return main.parse([f"--workdir={tmp_path}", f"--mode={mode}", *words]).config

    return parse


@pytest.mark.parametrize("mode", ["eval", "cam"])
def test_an_evaluation_takes_the_config_of_the_run(run, mode):
    config = run(mode=mode)
    assert (config.batch_size, config.model.csi, config.eval.logits) == (7, True, "csi")


def test_an_evaluation_sets_what_does_not_belong_to_the_run(run, tmp_path):
    config = run(
        *("--config.eval.split=test", "--config.eval.dataset=voc/2007", "--config.cam.flip=False"),
        *(f"--config.data.data_dir={tmp_path}", f"--config.data.manual_dir={tmp_path}"),
        *("--config.data.num_workers=2", "--config.data.num_threads", "1"),
        "--config.data.max_boxes=128",  # of other images, which may have more objects
    )
    assert (config.eval.split, config.eval.dataset, config.cam.flip) == ("test", "voc/2007", False)
    assert (config.data.num_workers, config.data.num_threads) == (2, 1)
    assert config.data.max_boxes == 128
    assert config.data.dataset == "voc/2012"


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--config.batch_size=16"], ["--config.batch_size=16 (7 in the run)", "eval.*, cam.*"]),
        (["--config.seed=1", "--config.model.csi=False"], ["seed=1 (0 ", "csi=False (True "]),
        (["--config=max"], ["--config=max is another network", "csi is False, in the run True"]),
        (["--config=puzzlecam_r101"], ["encoder is 'resnet101'", "mode is 'siamese'", "csi is"]),
        (["--config=mcar"], ["regions.count is 4, in the run 0"]),
        (["--config=maxx"], ["did you mean max?"]),
        (["--config.eval.logits=graph"], ["this config has base and csi only"]),
        (["--config.eval.splt=val"], ["did you mean eval.split?"]),
    ],
)
def test_an_evaluation_refuses_what_makes_it_another_run(run, words, messages):
    with pytest.raises(UserError) as error:
        run(*words)
    for message in messages:
        assert message in str(error.value)


def test_the_command_line_of_the_training_evaluates(run):
    config = run("--config=max_csi", "--config.batch_size=7", "--config.num_epochs=3")
    assert config.batch_size == 7
    # What does not make another network is the run's.
    assert run("--config=cmax_csi").keypoint.strategy == "max"
    assert run("--config=max", "--config.model.csi=True").model.csi


def test_an_evaluation_may_name_a_data_set_of_tfds(run):
    named = ["--config.eval.dataset=tfds", "--config.data.path=oxford/pets:1.0"]
    assert run(*named).data.path == "oxford/pets:1.0"


def test_an_evaluation_of_a_run_on_tfds_may_take_a_list(tmp_path, monkeypatch):
    (tmp_path / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)
    named = [f"--config.{part}.dataset=tfds" for part in ("data", "eval")]
    config = main.parse(["--config=own", W, *named, "--config.data.path=oxford/pets:1.0"]).config
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    words = ["--config.eval.dataset=csv", "--config.data.path=labels.csv"]
    config = main.parse([f"--workdir={tmp_path}", "--mode=eval", *words]).config
    assert config.data.path == str(tmp_path / "labels.csv")


def test_an_evaluation_needs_no_weights_to_start_from(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    config = main.parse([MAX, W, f"--config.model.pretrained={weights}"]).config
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    weights.unlink()
    main.parse([f"--workdir={tmp_path}", "--mode=eval"])


def test_an_evaluation_without_a_run_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nothing \(no config.json\): train there"):
        main.parse([f"--workdir={tmp_path / 'nothing'}", "--mode=eval"])


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("x is wrong"), 2, "error: x is wrong\n"),
        (LostProcessError("process 1 was lost"), 75, "error: process 1 was lost\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            *(2, "error: x cannot be used: Permission denied\n"),
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ZeroDivisionError("a bug"), 1, "ZeroDivisionError: a bug\n"),
    ],
)
def test_one_of_several_processes_reports_its_error(error, status, text, capsys):
    assert main._report(error) == status
    assert capsys.readouterr().err == text
