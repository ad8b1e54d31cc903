#!/usr/bin/env bash
# A run on all workers of a Cloud TPU VM that exists already; none is created or deleted.
#   bash launch/tpu_pod.sh NAME ZONE setup           copy the code and install what it needs
#   bash launch/tpu_pod.sh NAME ZONE each COMMAND    on every worker, in the folder of the code
#   bash launch/tpu_pod.sh NAME ZONE run --config=CONFIG --workdir=DIR [--config.FIELD=VALUE ...]
#   bash launch/tpu_pod.sh NAME ZONE status          of every worker: state, last exit status
#   bash launch/tpu_pod.sh NAME ZONE log             what the first worker prints, until Ctrl-C
#   bash launch/tpu_pod.sh NAME ZONE stop            save and stop; run continues
#
# `run` returns at once: the run is a systemd service of each worker, which no lost connection ends.
# It is started again after status 75 or a signal, three times a day, and not after a reboot.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
  ;;
esac
if [ $# -lt 3 ]; then
  echo "error: NAME, ZONE and what to do are missing: bash launch/tpu_pod.sh --help" >&2
  exit 2
fi
name="$1" zone="$2" action="$3"
shift 3

# on WORKER COMMAND: in a shell there; WORKER is a number or all
on() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

# quoted WORD...: as a shell takes them
quoted() {
  [ $# -eq 0 ] || printf ' %q' "$@"
}

# What follows is expanded on the workers.
# shellcheck disable=SC2016
case "$action" in
  setup)
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    tar -C "$(dirname "$0")/.." --exclude=__pycache__ -czf "$folder/oass_jax.tgz" \
      oass_jax configs launch requirements.txt
    gcloud compute tpus tpu-vm scp "$folder/oass_jax.tgz" "$name:" --zone="$zone" --worker=all
    # The system's Python may be older than 3.11; uv brings one.
    on all 'set -e
      mkdir -p oass_jax
      cd oass_jax
      tar --recursive-unlink -xzf ../oass_jax.tgz
      if [ ! -x .venv/bin/python ]; then
        PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --seed --python 3.12 .venv
      fi
      .venv/bin/python -m pip install --quiet -r requirements.txt "jax[tpu]<0.13"'
    ;;
  each)
    on all "cd oass_jax && source .venv/bin/activate &&$(quoted "$@")"
    ;;
  run)
    # RestartSec: 20 s after one is lost the last of the others has ended. TimeoutStopSec: to save.
    # KillMode: until it has, those that read its data must live. LimitMEMLOCK: of the TPU's driver.
    on all 'set -e
      cd oass_jax
      sudo systemctl reset-failed oass_jax 2> /dev/null || true
      sudo systemd-run --unit=oass_jax --uid="$(id -u)" --working-directory="$PWD" \
        --property=Restart=on-failure --property=RestartPreventExitStatus="1 2 71" \
        --property=RestartSec=30 --property=StartLimitBurst=4 --property=StartLimitIntervalSec=1d \
        --property=KillMode=mixed --property=TimeoutStopSec=300 --property=LimitMEMLOCK=infinity \
        --setenv=PYTHONUNBUFFERED=1 \
        "$PWD/.venv/bin/python" -m oass_jax.main --distributed'"$(quoted "$@")"
    ;;
  status)
    on all 'state="$(systemctl show oass_jax -p ActiveState,Result,NRestarts,ExecMainStatus)"
      echo "$(hostname):" $state'
    ;;
  log)
    on 0 'sudo journalctl --unit=oass_jax --output=cat --lines=100 --follow'
    ;;
  stop)
    on all 'sudo systemctl stop oass_jax'
    ;;
  *)
    echo "error: $action is none of setup, each, run, status, log and stop" >&2
    exit 2
    ;;
esac
