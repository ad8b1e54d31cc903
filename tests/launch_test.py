"""The scripts that start runs, with programs in place of Slurm's and Google's that write down how
they were called.
"""

import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from oass_jax import main
from oass_jax.errors import DivergedError, StoppedError
from tests.machine import LAUNCH, ROOT

NOT_AGAIN = [1, 2, DivergedError.status]
KUBERNETES = "1.34"
MANIFESTS = {x["kind"]: x for x in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())}
# A worker of a pod is a folder; what is copied there or run there is, in this folder.
GCLOUD = """
for word in "$@"; do
  case "$word" in
    *.tgz) cp "$word" "$HOME" ;;
    --command=*) cd && exec bash -c "${word#*=}" ;;
  esac
done
"""


def parsed(words):
    """What `oass_jax.main` makes of a command of its own."""
    start = words.index("oass_jax.main")
    assert words[start - 1] == "-m"
    assert words[start + 1] == "--distributed"
    return main.parse(words[start + 1 :])


def test_shellcheck_finds_nothing():
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"]
    # The file without a first line is checked with those that it is part of.
    scripts = [path for path in scripts if path.read_text().startswith("#!")]
    assert len(scripts) >= 5
    tool = Path(sysconfig.get_path("scripts"), "shellcheck")
    command = [tool, "--external-sources", "--check-sourced", "--source-path=SCRIPTDIR", *scripts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_of_the_documentation_are_understood():
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    lines = [line for line in re.findall(r"^    (.*)$", text, re.MULTILINE) if "--config=" in line]
    assert len(lines) >= 3
    for line in lines:
        words = line[line.index("--config=") :].replace("$config", "max").replace("$seed", "0")
        assert main.parse(shlex.split(words, comments=True)).workdir


# Slurm.


def submit(machine, then, *words, **env):
    """Runs the job with an `srun` that does `then`."""
    machine.stand_in("srun", then)
    machine.stand_in("scontrol")
    words = words or ("--config=max", "--workdir=run")
    return machine.bash("launch/slurm.sbatch", *words, SLURM_JOB_ID="7", **env)


def test_slurm_starts_the_command_as_it_was_given(machine):
    words = ["--config=max", "--workdir=my run", "--config.data.data_dir=/a  b/$c*"]
    env = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}
    done = submit(machine, "", *words, **env)
    assert (done.returncode, done.stderr) == (0, "")
    [call] = machine.calls("srun")
    args = parsed(call)
    assert args.distributed
    assert args.workdir == Path("my run")
    assert args.config.data.data_dir == "/a  b/$c*"
    assert {"--gpu-bind=none", "--cpus-per-task=8", "--kill-on-bad-exit=0"} <= {*call}


@pytest.mark.parametrize("status", [0, *NOT_AGAIN, StoppedError.status, 128 + 6, 128 + 9])
def test_slurm_queues_again_what_was_interrupted(machine, status):
    done = submit(machine, f"exit {status}")
    assert done.returncode == status
    again = status not in (0, *NOT_AGAIN)
    assert machine.calls("scontrol") == [["requeue", "7"]] * again


def test_slurm_gives_up_without_a_new_checkpoint(machine):
    def requeued(then):
        before = len(machine.calls("scontrol"))
        done = submit(machine, f"{then}; exit 75")
        assert done.returncode == 75
        return len(machine.calls("scontrol")) - before

    step = "mkdir -p run/checkpoints/{}".format
    assert requeued(step(9)) == 1
    assert [requeued(":"), requeued(step("12.tmp")), requeued(step(10))] == [1, 1, 1]
    assert [requeued(":") for _ in range(4)] == [1, 1, 1, 0]
    assert not [*machine.root.glob("*.restarts")]
    assert {path.name for path in machine.root.joinpath("run").iterdir()} == {"checkpoints"}


def test_slurm_finds_a_workdir_in_the_home_folder(machine):
    """Behind a flag a shell leaves the tilde to the program."""
    home = machine.root / "home"
    for step in (9, 10, 11, 12):
        then = f"mkdir -p {home}/runs/a/checkpoints/{step}; exit 75"
        submit(machine, then, "--config=max", "--workdir=~/runs/a", HOME=str(home))
    assert len(machine.calls("scontrol")) == 4
    assert not [*machine.root.glob("*.restarts")]


def test_slurm_decides_on_a_job_that_it_ends_itself(machine):
    done = submit(machine, "kill $PPID; exit 75")
    assert done.returncode == 75
    assert machine.calls("scontrol") == []


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (["--config=max"], {}, "--workdir=DIR is missing"),
        ([], {"PYTHON": ""}, "there is no environment"),
        ([], {"SLURM_GPUS_ON_NODE": "4"}, "one task for each GPU"),
    ],
)
def test_slurm_reports_what_is_missing(machine, words, env, message):
    done = submit(machine, "", *words, **env)
    assert done.returncode == 2
    assert message in done.stderr
    assert machine.calls("srun") == []


# A TPU pod.


def pod(machine, *words):
    machine.stand_in("gcloud", GCLOUD)
    machine.stand_in("sudo")
    (machine.root / "home" / "oass_jax").mkdir(exist_ok=True)
    done = machine.bash("launch/tpu_pod.sh", "my-pod", "us-east5-b", *words)
    return done, [shlex.join(call) for call in machine.calls("sudo")]


def test_a_pod_runs_the_command_as_a_service_of_every_worker(machine):
    words = ["--config=max", "--workdir=/my share/run", "--config.data.data_dir=/a  b/c*"]
    done, calls = pod(machine, "run", *words)
    assert done.returncode == 0, done.stderr
    [call] = machine.calls("gcloud")
    assert call[:5] == ["compute", "tpus", "tpu-vm", "ssh", "my-pod"]
    assert {"--zone=us-east5-b", "--worker=all"} <= {*call}
    reset, start = map(shlex.split, calls)
    assert reset == ["systemctl", "reset-failed", "oass_jax"]
    args = parsed(start)
    assert args.workdir == Path("/my share/run")
    assert args.config.data.data_dir == "/a  b/c*"
    statuses = " ".join(map(str, NOT_AGAIN))
    assert f"--property=RestartPreventExitStatus={statuses}" in start


def test_a_pod_is_set_up_with_the_code_and_nothing_older(machine):
    (machine.root / "oass_jax").mkdir()
    (machine.root / "oass_jax" / "main.py").touch()
    (machine.root / "configs").mkdir()
    (machine.root / "requirements.txt").touch()
    machine.stand_in("python", folder="home/oass_jax/.venv/bin")
    old = machine.root / "home" / "oass_jax" / "oass_jax" / "old.py"
    old.parent.mkdir()
    old.touch()
    done, _ = pod(machine, "setup")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in old.parent.iterdir()] == ["main.py"]
    [install] = machine.calls("python")
    assert install[:3] == ["-m", "pip", "install"]
    assert "jax[tpu]<0.13" in install


def test_a_pod_is_asked_and_stopped(machine):
    machine.stand_in("python")
    machine.stand_in("systemctl", "echo ActiveState=active; echo NRestarts=1")
    (machine.root / "home" / "oass_jax" / ".venv" / "bin").mkdir(parents=True)
    (machine.root / "home" / "oass_jax" / ".venv" / "bin" / "activate").touch()
    pod(machine, "each", "python", "-m", "x", "--dir=a  b")
    assert machine.calls("python") == [["-m", "x", "--dir=a  b"]]
    done, _ = pod(machine, "status")
    assert done.stdout.endswith(": ActiveState=active NRestarts=1\n")
    _, calls = pod(machine, "stop")
    assert calls == ["systemctl stop oass_jax"]
    assert "--worker=all" in machine.calls("gcloud")[-1]
    done, _ = pod(machine, "start")
    assert done.returncode == 2
    assert "start is none of" in done.stderr


def test_a_pod_is_left_alone_without_its_name(machine):
    assert machine.bash("launch/tpu_pod.sh", "setup").returncode == 2
    done = machine.bash("launch/tpu_pod.sh", "--help")
    assert "bash launch/tpu_pod.sh NAME ZONE setup" in done.stdout
    assert "set -euo" not in done.stdout


# Kubernetes.


@pytest.mark.parametrize("kind", ["Service", "PersistentVolumeClaim", "Job"])
def test_manifests_are_those_of_kubernetes(kind):
    assert kubernetes_validate.validate(MANIFESTS[kind], KUBERNETES, strict=True) == KUBERNETES


def test_the_pods_of_a_job_find_each_other(monkeypatch):
    job, service = MANIFESTS["Job"], MANIFESTS["Service"]
    spec = job["spec"]["template"]["spec"]
    [container], [init] = spec["containers"], spec["initContainers"]
    env = {x["name"]: x.get("value", "0") for x in container["env"]}
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.setenv(name, env[name])
    args = parsed(container["command"] + container["args"])
    name, subdomain = job["metadata"]["name"], spec["subdomain"]
    assert args.coordinator.rpartition(":")[0] == f"{name}-0.{subdomain}"
    assert f'"{name}-$i.{subdomain}"' in init["args"][0]
    assert args.num_processes == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert init["env"] == [{"name": "JAX_NUM_PROCESSES", "value": str(args.num_processes)}]
    assert init["image"] == container["image"]
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    claims = [x["persistentVolumeClaim"] for x in spec["volumes"] if "persistentVolumeClaim" in x]
    assert claims == [{"claimName": MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]}]
    mounts = [Path(x["mountPath"]) for x in container["volumeMounts"]]
    assert args.workdir.is_relative_to(mounts[0])


def test_a_pod_waits_until_all_are_there(machine):
    machine.stand_in("sleep")
    # Found when it is asked for again.
    machine.stand_in("getent", '[ -e "$HOME/$2" ] || { touch "$HOME/$2"; exit 2; }')
    [init] = MANIFESTS["Job"]["spec"]["template"]["spec"]["initContainers"]
    assert init["command"][-2:] == ["bash", "-c"]
    done = machine.bash("-c", *init["args"], JAX_NUM_PROCESSES="2")
    assert done.returncode == 0
    names = ["oass-jax-0.oass-jax", "oass-jax-1.oass-jax"]
    assert machine.calls("getent") == [["hosts", name] for name in names for _ in range(2)]


def test_a_job_ends_with_what_to_start_again_would_not_change():
    spec = MANIFESTS["Job"]["spec"]
    [rule] = [x for x in spec["podFailurePolicy"]["rules"] if x["action"] == "FailJob"]
    assert rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["values"] == NOT_AGAIN
    assert rule["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    # Of a Job with such a policy.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_what_is_not_kubernetes_is_found():
    job = MANIFESTS["Job"] | {"spec": MANIFESTS["Job"]["spec"] | {"restarts": 3}}
    with pytest.raises(kubernetes_validate.ValidationError, match="restarts"):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
