# Environment of all jobs, sourced by the sbatch files. The values below are defaults: export your own before sbatch, or
# set them in a file and export its path as DLMBENCH_SITE (it is read first).
#
#   DLMBENCH_MODULES   modules to load, as in "GCC/13 CUDA/12.6 Python/3.13"
#   DLMBENCH_PYTHON    the Python with dlmbench's packages; `dlmbench submit` passes the one it runs on
#   DLMBENCH_IMAGE     an Apptainer image to run in, instead of that Python
#   DLMBENCH_BIND      folders to mount into the image, in the format of Apptainer's --bind
#   HF_HOME            the folder that models and data were downloaded to
#   OMP_NUM_THREADS    number of CPU cores that torch may use

DLMBENCH_HOME=${DLMBENCH_HOME:-$PWD}
if [ -n "${DLMBENCH_SITE:-}" ]; then . "$DLMBENCH_SITE"; fi

DLMBENCH_MODULES=${DLMBENCH_MODULES:-}
DLMBENCH_PYTHON=${DLMBENCH_PYTHON:-$DLMBENCH_HOME/.venv/bin/python}
DLMBENCH_IMAGE=${DLMBENCH_IMAGE:-}
DLMBENCH_BIND=${DLMBENCH_BIND:-}

if [ -n "$DLMBENCH_MODULES" ]; then
  # shellcheck disable=SC2086  # each module is a word
  module load $DLMBENCH_MODULES
fi

# Compute nodes often have no network; models and data come from `dlmbench download`.
export HF_HOME=${HF_HOME:-$HOME/.cache/huggingface}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
export HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-$HF_HUB_OFFLINE}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-$(nproc)}}}
export PYTHONUNBUFFERED=1

# One GPU per job: a job with a whole node sees all of its GPUs, and libraries may use whatever they see.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}; fi

# Whether other jobs share the node. Queried here because a container often has no access to SLURM.
if [ -z "${DLMBENCH_NODE_SHARED:-}" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  case $(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | grep -o 'OverSubscribe=[A-Z]*') in
    OverSubscribe=NO) DLMBENCH_NODE_SHARED=0 ;;
    OverSubscribe=*) DLMBENCH_NODE_SHARED=1 ;;
  esac
fi
export DLMBENCH_NODE_SHARED=${DLMBENCH_NODE_SHARED:-}

# Run dlmbench in the image if there is one, else from the checkout that the job was submitted from.
dlmbench() {
  if [ -n "$DLMBENCH_IMAGE" ]; then
    exec apptainer exec --nv ${DLMBENCH_BIND:+--bind "$DLMBENCH_BIND"} "$DLMBENCH_IMAGE" dlmbench "$@"
  fi
  export PYTHONPATH=$DLMBENCH_HOME/src${PYTHONPATH:+:$PYTHONPATH}
  exec "$DLMBENCH_PYTHON" -m dlmbench "$@"
}

# Run a command that can be stopped: SLURM sends USR1 before the time limit, the command finishes its repetition and
# exits with code 75, and the job requeues itself and resumes at its next start.
run_and_requeue() {
  local own child= code=0 stopping=0 early= ended=0 status signal
  own=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-${SLURM_JOB_ID:-}}
  echo "dlmbench job $own, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname -s)," \
    "GPU ${CUDA_VISIBLE_DEVICES:-none}, $(date -Is)"
  # No $(...) in a trap: a second signal would set its variables in that subshell.
  trap 'stopping=1; printf "USR1 at %(%FT%T%z)T: stopping after this repetition\n" -1
    if [ -n "$child" ]; then kill -USR1 "$child" || true; else early+=" USR1"; fi' USR1
  # At the limit itself, and from scancel, all processes get TERM; this shell has to outlive the command to requeue.
  trap 'stopping=1 ended=1; if [ -n "$child" ]; then kill -TERM "$child" || true; else early+=" TERM"; fi' TERM
  ("$@") &
  child=$!
  # A signal may arrive before the process id is known; it is passed on now.
  for signal in $early; do kill -"$signal" "$child" || true; done
  wait "$child" || code=$?
  # A wait interrupted by the signal does not give the exit code of the command, which is still finishing.
  while [ "$stopping" = 1 ]; do
    stopping=0 status=0
    wait "$child" || status=$?
    [ "$status" = 127 ] || code=$status
  done
  if [ "$code" = 75 ] && { [ "$ended" = 0 ] || scontrol show job -o "$own" | grep Reason=TimeLimit >/dev/null; }; then
    echo "unfinished: requeueing $own"
    scontrol requeue "$own"
  fi
  return "$code"
}
