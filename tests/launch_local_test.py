"""`launch/local.sh`, with a program in place of Python; see also `training/several_test.py`."""

import signal

import pytest

SCRIPT = "launch/local.sh"
WORDS = ("--config=max", "--workdir=my run")
# What the processes of a run do is $THEN; ATTEMPT counts from 1.
PROCESS = """
INDEX="$JAX_PROCESS_ID"
echo >> "$CALLS/attempts$INDEX"
ATTEMPT="$(wc -l < "$CALLS/attempts$INDEX")"
echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $INDEX ${JAX_LOCAL_DEVICE_IDS:-none}"
eval "$THEN"
"""


@pytest.fixture
def local(machine):
    """A function that runs the script with processes that do `then`."""
    machine.python_in_place(PROCESS)
    script = machine.root / SCRIPT
    script.write_text(script.read_text().replace("end_s=60", "end_s=1"))

    def run(then, *given, script=SCRIPT, **env):
        return machine.bash(script, *(given or ("-n", "2", *WORDS)), THEN=then, **env)

    run.machine = machine
    return run


def attempts(local):
    return [len((local.machine.root / f"calls/attempts{i}").read_text()) for i in (0, 1)]


def test_every_process_gets_the_command_and_its_place(local):
    done = local("", "-n", "3", "--config.data.path=a  b/c*", *WORDS)
    assert done.returncode == 0, done.stderr
    places = sorted(line.split() for line in done.stdout.splitlines())
    assert [place[1:] for place in places] == [["3", str(i), "none"] for i in range(3)]
    (address,) = {place[0] for place in places}
    assert address.startswith("127.0.0.1:")
    commands = [words for words in local.machine.calls("python") if "oass_jax.main" in words]
    given = ["--config.data.path=a  b/c*", *WORDS]
    assert commands == [["-m", "oass_jax.main", "--distributed", *given]] * 3


@pytest.mark.parametrize(("workdir", "lies"), [("my run", "."), ("~/my run", "$HOME")])
def test_paths_are_those_of_the_folder_where_it_is_called(local, tmp_path, workdir, lies):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    saves = f'mkdir -p "{lies}/my run/checkpoints/$ATTEMPT"; [ $ATTEMPT = 3 ] || exit 75'
    words = ("-n", "2", "--restarts", "0", "--config=max", f"--workdir={workdir}")
    # Without its checkpoints no run is started again.
    done = local(f"pwd; {saves}", *words, script=local.machine.root / SCRIPT, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines().count(str(elsewhere)) == 6


def test_all_of_them_share_the_cache_of_compiled_programs(local):
    def cache(**env):
        done = local('echo "cache=$JAX_COMPILATION_CACHE_DIR"', **env)
        return {line for line in done.stdout.splitlines() if line.startswith("cache=")}

    assert cache() == {f"cache={local.machine.root}/home/.cache/oass_jax"}
    assert cache(XDG_CACHE_HOME="/x") == {"cache=/x/oass_jax"}
    assert cache(JAX_COMPILATION_CACHE_DIR="") == {"cache="}


def test_gpus_are_shared_evenly(local):
    done = local("", CUDA_VISIBLE_DEVICES="4,5,6,7")
    shares = {line.split()[2]: line.split()[3] for line in done.stdout.splitlines()}
    assert shares == {"0": "0,1", "1": "2,3"}
    done = local("", "-n", "3", *WORDS, CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert done.returncode == 2
    assert "3 processes cannot share 4 GPUs evenly" in done.stderr


@pytest.mark.parametrize(
    ("nvidia_smi", "share"),
    [
        ("echo 'GPU 0: NVIDIA H200'; echo 'GPU 1: NVIDIA H200'", ["0", "1"]),
        ("exit 9", ["none"] * 2),
    ],
)
def test_gpus_are_counted_and_a_machine_without_a_driver_has_none(local, nvidia_smi, share):
    local.machine.stand_in("nvidia-smi", nvidia_smi)
    del local.machine.env["CUDA_VISIBLE_DEVICES"]
    done = local("")
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[3] for line in done.stdout.splitlines()) == share


@pytest.mark.parametrize("end", ["exit 75", "kill -KILL $$", "kill -ABRT $$"])
def test_all_start_again_where_one_was_interrupted(local, end):
    # The other ends with what must not decide.
    wait = "until [ -e first ]; do sleep 0.05; done; sleep 0.6"
    first = f"[ $INDEX = 0 ] || {{ touch first; {end}; }}; {wait}; exit 1"
    done = local(f"[ $ATTEMPT = 2 ] || {{ {first}; }}")
    assert done.returncode == 0, done.stderr
    assert attempts(local) == [2, 2]
    assert done.stderr.count("process 1 ended with status ") == 1


@pytest.mark.parametrize("status", [1, 2, 71])
def test_none_starts_again_after_an_error(local, status):
    wait = "until [ -e first ]; do sleep 0.05; done; sleep 0.6"
    done = local(f"[ $INDEX = 1 ] || {{ touch first; exit {status}; }}; {wait}; exit 75")
    assert done.returncode == status
    assert attempts(local) == [1, 1]


def test_a_process_that_does_not_end_with_the_others_is_killed(local):
    done = local("[ $ATTEMPT = 2 ] || { [ $INDEX = 0 ] || exec sleep 600; exit 75; }")
    assert done.returncode == 0, done.stderr
    assert attempts(local) == [2, 2]


def test_it_gives_up_without_a_new_checkpoint(local):
    # New ones after the first attempt and the third; then none.
    saves = 'case $ATTEMPT in 1 | 3) mkdir -p "my run/checkpoints/$ATTEMPT" ;; esac'
    then = f"{saves}; mkdir -p 'my run/checkpoints/9.tmp'; exit 75"
    done = local(then, "-n", "2", "--restarts", "2", *WORDS)
    assert done.returncode == 75
    assert attempts(local) == [6, 6]
    assert "no new checkpoint in 2 restarts" in done.stderr


@pytest.mark.parametrize("target", ["$PPID", "-- -$PPID"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_them_for_good(local, number, target):
    """Sent to the script, as by a scheduler, or to its group, as by a terminal."""
    asks = f"while ! [ -e ready ]; do sleep 0.05; done; kill -{number.name[3:]} {target}"
    then = f"trap 'exit 75' TERM; [ $INDEX = 0 ] || touch ready; [ $INDEX = 1 ] || {{ {asks}; }}"
    done = local(f"{then}; while :; do sleep 0.05 || true; done; sleep 0.5")
    assert done.returncode == 75
    assert attempts(local) == [1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (WORDS, "how many processes? -n N"),
        (("-n", "two", *WORDS), "how many processes? -n N"),
        (("-n", "2", "--restarts", "x", *WORDS), "--restarts R is a number"),
        (("-n", "2", "--config=max"), "--workdir=DIR is missing"),
        (("-n",), "how many processes? -n N"),
    ],
)
def test_a_mistake_is_reported(local, given, message):
    done = local("", *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
