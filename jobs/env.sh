# What every job sets up, sourced by the sbatch files. Each value below is a default: export your own before sbatch, or
# write them into the file that DLMBENCH_SITE names (it is read first).
#
#   DLMBENCH_MODULES   modules to load, as in "GCC/13 CUDA/12.6 Python/3.13"
#   DLMBENCH_PYTHON    the interpreter that has dlmbench's packages; `dlmbench submit` passes on its own
#   DLMBENCH_IMAGE     an Apptainer image to run in, instead of that interpreter
#   DLMBENCH_BIND      folders that the image must see, as Apptainer's --bind takes them
#   HF_HOME            where models and data were downloaded to
#   OMP_NUM_THREADS    cores that torch may use

DLMBENCH_HOME=${DLMBENCH_HOME:-$PWD}
if [ -n "${DLMBENCH_SITE:-}" ]; then . "$DLMBENCH_SITE"; fi

DLMBENCH_MODULES=${DLMBENCH_MODULES:-}
DLMBENCH_PYTHON=${DLMBENCH_PYTHON:-$DLMBENCH_HOME/.venv/bin/python}
DLMBENCH_IMAGE=${DLMBENCH_IMAGE:-}
DLMBENCH_BIND=${DLMBENCH_BIND:-}

if [ -n "$DLMBENCH_MODULES" ]; then
  # shellcheck disable=SC2086  # several modules are several words
  module load $DLMBENCH_MODULES
fi

# Compute nodes often have no network, and a run that waits for one measures nothing: `dlmbench download` comes first.
export HF_HOME=${HF_HOME:-$HOME/.cache/huggingface}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
export HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-$HF_HUB_OFFLINE}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-$(nproc)}}}
export PYTHONUNBUFFERED=1

# One GPU a job: with the whole node to itself a job sees all of them, and other code may spread over what it sees.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}; fi

# Whether the node is this job's alone. Asked here, because a container often cannot ask.
if [ -z "${DLMBENCH_NODE_SHARED:-}" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  case $(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | grep -o 'OverSubscribe=[A-Z]*') in
    OverSubscribe=NO) DLMBENCH_NODE_SHARED=0 ;;
    OverSubscribe=*) DLMBENCH_NODE_SHARED=1 ;;
  esac
fi
export DLMBENCH_NODE_SHARED=${DLMBENCH_NODE_SHARED:-}

# The command line, from the image where there is one, else from the checkout that the job was submitted from.
dlmbench() {
  if [ -n "$DLMBENCH_IMAGE" ]; then
    exec apptainer exec --nv ${DLMBENCH_BIND:+--bind "$DLMBENCH_BIND"} "$DLMBENCH_IMAGE" dlmbench "$@"
  fi
  export PYTHONPATH=$DLMBENCH_HOME/src${PYTHONPATH:+:$PYTHONPATH}
  exec "$DLMBENCH_PYTHON" -m dlmbench "$@"
}

# Runs a command so that USR1, which SLURM sends some time before the limit, makes it finish the repetition under way
# and end with code 75; the job then queues itself again, and its next start goes on from there.
run_and_requeue() {
  local own child= code=0 asked=0 again
  own=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-${SLURM_JOB_ID:-}}
  echo "dlmbench job $own, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname -s)," \
    "GPU ${CUDA_VISIBLE_DEVICES:-none}, $(date -Is)"
  trap 'asked=1; echo "USR1 at $(date -Is): stopping after this repetition"; kill -USR1 $child' USR1
  ("$@") &
  child=$!
  wait "$child" || code=$?
  # A wait that the signal ended says nothing of the child, which still finishes its repetition.
  while [ "$asked" = 1 ]; do
    asked=0 again=0
    wait "$child" || again=$?
    [ "$again" = 127 ] || code=$again
  done
  if [ "$code" = 75 ]; then
    echo "to be continued: queueing $own again"
    scontrol requeue "$own"
  fi
  return "$code"
}
