# Everything about nodes, processes, ports, signals and resuming. Sourced by the job scripts only.
#
#   train SCRIPT.py ARGS...        every process of the job; finished when --output_dir has `final`
#   evaluate SCRIPT.py ARGS...     every process of the job; finished when --output_dir has
#                                  `results.json`
#   alone SCRIPT.py ARGS...        one process on the first node
#
# Under Slurm, srun starts the processes, one per GPU, on every node of the job; without Slurm,
# torchrun does, on this machine, where there is more than one. (Not torchrun under Slurm: when its
# workers save after a signal, it kills them after 30 s and exits non-zero in any case.)
#
# Settings, all optional:
#   FLEXMDM_PYTHON=/path/to/python   interpreter of any environment
#   FLEXMDM_ENV=FOLDER or NAME       a virtual or conda environment by its folder, or a conda
#                                    environment by its name (neither given: .venv of the repository
#                                    if it exists, else python3)
#   FLEXMDM_SETUP=FILE               sourced first: module loads, proxies, tokens
#   FLEXMDM_WRAP="apptainer exec --nv image.sif"   prefix of every python command: a container
#   STRATEGY=ddp                     training: ddp, zero1, zero2, zero3, zero3_offload (DeepSpeed,
#                                    scripts/ds_*.json), fsdp2 (--fully_shard)
#   PROCESSES_PER_NODE=8             otherwise: --ntasks-per-node if given, else the job's GPUs per
#                                    node, else 1
# shellcheck shell=bash

say() { echo "[launch] $*"; }
stop() { echo "error: $*" >&2; exit 2; }

# The value that argparse will see: the last `--flag value` or `--flag=value` of the arguments;
# nothing if the flag is not given.
value_of() {
  local flag=$1 value=
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      "$flag") value=${2:-} ;;
      "$flag="*) value=${1#*=} ;;
    esac
    shift
  done
  echo "$value"
}

# ---- python, and settings of libraries that every process gets, each with its reason -------------

if [ -n "${FLEXMDM_SETUP:-}" ]; then
  [ -r "$FLEXMDM_SETUP" ] || stop "FLEXMDM_SETUP: cannot read $FLEXMDM_SETUP"
  # shellcheck disable=SC1090
  . "$FLEXMDM_SETUP"
fi
if [ -n "${FLEXMDM_PYTHON:-}" ]; then
  PYTHON=$FLEXMDM_PYTHON
elif [ -n "${FLEXMDM_ENV:-}" ]; then
  if [ ! -x "$FLEXMDM_ENV/bin/python" ]; then
    command -v conda > /dev/null || stop "FLEXMDM_ENV: $FLEXMDM_ENV has no bin/python, and" \
      "there is no conda that could know it by name"
    FLEXMDM_ENV=$(conda run -n "$FLEXMDM_ENV" python -c 'import sys; print(sys.prefix)') \
      || stop "FLEXMDM_ENV: neither a folder nor conda's"
  fi
  export PATH=$FLEXMDM_ENV/bin:$PATH
  PYTHON=$FLEXMDM_ENV/bin/python
elif [ -x .venv/bin/python ]; then
  PYTHON=$PWD/.venv/bin/python
else
  PYTHON=python3
fi
read -r -a WRAP <<< "${FLEXMDM_WRAP:-}"
PYTHON_COMMAND=("${WRAP[@]}" "$PYTHON")                    # its path may hold blanks
command -v "${PYTHON_COMMAND[0]}" > /dev/null \
  || stop "no ${PYTHON_COMMAND[0]}: FLEXMDM_PYTHON or FLEXMDM_ENV names the environment to use"

export PYTHONUNBUFFERED=1                                  # a killed job's last lines reach the log
export TOKENIZERS_PARALLELISM=false                        # no warnings after a fork
export HF_HUB_DISABLE_TELEMETRY=1
# seconds between lines of a progress bar: a log is no terminal
export TQDM_MININTERVAL=${TQDM_MININTERVAL:-60}
# batches differ in length: less fragmentation
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
# a collective whose peer is gone ends the process instead of waiting for ever
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1
# bf16 and TF32 are chosen in training/arguments.py, by what torch says the GPU has.

case ${STRATEGY:-ddp} in                                   # where weights and optimizer live
  ddp) ENGINE=() ;;
  zero1 | zero2 | zero3 | zero3_offload) ENGINE=(--deepspeed "scripts/ds_$STRATEGY.json") ;;
  fsdp2) ENGINE=(--fully_shard) ;;
  *) stop "STRATEGY: $STRATEGY is none of ddp, zero1, zero2, zero3, zero3_offload, fsdp2" ;;
esac

# ---- the shape of the job ------------------------------------------------------------------------

under_slurm() { [ -n "${SLURM_JOB_ID:-}" ] && command -v srun > /dev/null; }

if under_slurm; then
  NODES=$SLURM_JOB_NUM_NODES
  PROCESSES=${PROCESSES_PER_NODE:-${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}}
  CORES=$((${SLURM_CPUS_ON_NODE:-1} / PROCESSES))
else
  NODES=1
  count='import torch; print(max(1, torch.cuda.device_count()))'
  PROCESSES=${PROCESSES_PER_NODE:-$("${PYTHON_COMMAND[@]}" -c "$count")}
  CORES=$(($(nproc) / PROCESSES))
fi
CORES=$((CORES > 0 ? CORES : 1))
# a process's share of the cores; every process using all of them is slower
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CORES}

# --gradient_accumulation_steps that keeps the global batch whatever the number of processes:
# accumulation GLOBAL_BATCH ROWS ARGS...
accumulation() {
  local batch=$1 rows=$2 asked
  shift 2
  asked=$(value_of --per_device_train_batch_size "$@")
  rows=$((${asked:-$rows} * NODES * PROCESSES))
  if [ -z "$(value_of --gradient_accumulation_steps "$@")" ] && [ $((batch % rows)) != 0 ]; then
    stop "GLOBAL_BATCH $batch is no multiple of $rows rows" \
      "($NODES nodes x $PROCESSES processes x --per_device_train_batch_size)"
  fi
  echo $((batch / rows > 0 ? batch / rows : 1))
}

# ---- starting processes --------------------------------------------------------------------------

alone() {
  say "$*"
  exec "${PYTHON_COMMAND[@]}" "$@"
}

# What each process does first, on its own node: learn its rank (in the batch script all of these
# are the first node's).
# shellcheck disable=SC2016
PROCESS='
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
  LOCAL_WORLD_SIZE=$PROCESSES
getent hosts "$MASTER_ADDR" > /dev/null || {
  echo "error: node $(hostname) cannot resolve $MASTER_ADDR, the first node" >&2
  exit 1
}
exec "$@"'

start() {
  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # Below the ports that systems give out by themselves (from 32768), and another one after every
  # requeue: the old one may linger.
  MASTER_PORT=$((10000 + (SLURM_JOB_ID * 16 + ${SLURM_RESTART_COUNT:-0}) % 20000))
  export MASTER_ADDR MASTER_PORT PROCESSES
  # --cpus-per-task: srun does not take it from the job since Slurm 22.05. --kill-on-bad-exit: one
  # dead process ends all.
  srun --export=ALL --nodes="$NODES" --ntasks=$((NODES * PROCESSES)) \
    --ntasks-per-node="$PROCESSES" --cpus-per-task="$CORES" --distribution=block \
    --kill-on-bad-exit=1 bash -c "$PROCESS" process "${PYTHON_COMMAND[@]}" "$@" &
  STEP=$!
}

# ---- signals, requeueing -------------------------------------------------------------------------

SIGNALLED=
STEP=

# Seconds until Slurm ends the job (its time limit, or the end of its grace when it is being
# preempted); nothing without a limit.
seconds_left() {
  local end
  end=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2> /dev/null) \
    && echo $((end - $(date +%s)))
}

# Signal the processes to save and stop. One that has not reached its first step has no handler yet
# and dies, which loses nothing. Repeated, because srun may not have started them yet; given up just
# before the end, so that there is time for a message.
on_usr1() {
  [ -z "$SIGNALLED" ] || return 0
  SIGNALLED=USR1
  say "USR1: asking the processes to save and stop"
  (set +e
  scancel --signal=USR1 "$SLURM_JOB_ID"
  while sleep 4 && kill -0 "$STEP" 2> /dev/null; do
    left=$(seconds_left)
    if [ "${left:-999}" -lt 9 ]; then
      scancel "$SLURM_JOB_ID.0"
    else
      scancel --signal=USR1 "$SLURM_JOB_ID" 2> /dev/null
    fi
  done) &
}

# Slurm itself sends TERM to the processes (cancelled, preempted, time limit): only wait for them.
on_term() { SIGNALLED=TERM; }

job_field() { scontrol show job --oneliner "$SLURM_JOB_ID" | grep -o " $1=[^ ]*" | cut -d = -f 2; }

# requeue NEW NEEDED: NEW steps or rows were saved in this start of the job. With fewer than NEEDED
# the next start would make no progress either, unless this one was preempted, which can happen at
# any time.
requeue() {
  if [ "$(job_field JobState)" != RUNNING ]; then
    say "the job is being ended from outside; Slurm decides whether it comes back"
    exit 1
  fi
  if [ "$1" -lt "$2" ] && [ "$(job_field PreemptTime)" = None ]; then
    say "signalled before its first new step: not requeued, it would make no progress."
    say "Give it a longer --time, or a later --signal=B:USR1@SECONDS."
    exit 1
  fi
  say "requeueing"
  scontrol requeue "$SLURM_JOB_ID" || {
    say "cannot requeue: submit the same command again, it resumes from there"
    exit 1
  }
  trap - TERM USR1
  # Slurm ends this script; leaving by itself could be taken for the job's end
  sleep 600
  exit 1
}

# run_and_finish MARK SAVED NEEDED SCRIPT ARGS...: start, wait, and end the job as finished, to be
# requeued, or failed.
#   MARK: path that exists when the work is complete, "" if the exit code decides; SAVED: command
#   that prints the number of saved steps or rows
run_and_finish() {
  local mark=$1 saved=$2 needed=$3 code=0 saved_before mark_before new
  shift 3
  if ! under_slurm; then
    [ "$PROCESSES" -gt 1 ] || exec "${PYTHON_COMMAND[@]}" "$@"  # one process needs no launcher
    exec "${PYTHON_COMMAND[@]}" -m torch.distributed.run --standalone \
      --nproc_per_node "$PROCESSES" "$@"
  fi
  saved_before=$($saved)
  mark_before=$(stat -c %y "$mark" 2> /dev/null || true)
  say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), ${saved_before:-0} saved"
  say "$NODES nodes x $PROCESSES processes x $CORES cores: $*"
  trap on_usr1 USR1
  trap on_term TERM
  start "$@"
  while :; do
    code=0
    wait "$STEP" || code=$?
    kill -0 "$STEP" 2> /dev/null || break  # still running: a signal interrupted the wait
  done
  [ -n "$mark" ] || exit $code
  new=$(($($saved) - saved_before))
  if [ -e "$mark" ] && { [ "$(stat -c %y "$mark")" != "$mark_before" ] \
    || { [ $code = 0 ] && [ -z "$SIGNALLED" ]; }; }; then
    [ $code = 0 ] || say "complete, although the processes ended with $code"
    say "finished: $mark"
    exit 0
  fi
  say "not finished: the processes ended with $code, $new new saved"
  # code 0 without a signal to this script: the processes were asked to stop by a TERM that went to
  # them alone (preemption with grace)
  if [ $code = 0 ] || [ "$SIGNALLED" = USR1 ]; then requeue "$new" "$needed"; fi
  exit $((code > 0 ? code : 1))
}

# The step of the newest checkpoint, or 0.
newest_checkpoint() {
  local name newest=0
  for name in "$OUTPUT"/checkpoint-*; do
    name=${name##*-}
    if [[ $name =~ ^[0-9]+$ ]] && [ "$name" -gt "$newest" ]; then newest=$name; fi
  done
  echo "$newest"
}
generated_rows() { cat "$OUTPUT"/generations-*.jsonl 2> /dev/null | wc -l || true; }

# has FLAG ARGS...: whether the flag is among the arguments and on, as argparse and transformers
# read it (--flag, --flag true, --flag=no).
has() {
  local flag=$1 found=1 value
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      "$flag") value=${2:-} ;;
      "$flag="*) value=${1#*=} ;;
      *) shift; continue ;;
    esac
    case ${value,,} in
      false | f | no | n | 0) found=1 ;;
      *) found=0 ;;
    esac
    shift
  done
  return $found
}

# At least two new steps: after a signal before the first one, that step still ends and is saved.
train() {
  if has --dry_run "$@"; then alone "$@"; fi
  if has --evaluate_only "$@"; then run_and_finish "" : 0 "$@"; fi
  OUTPUT=$(value_of --output_dir "$@")
  run_and_finish "$OUTPUT/final" newest_checkpoint 2 "$@" "${ENGINE[@]}"
}

evaluate() {
  if has --score_only "$@" || has --check_references "$@"; then alone "$@"; fi
  OUTPUT=$(value_of --output_dir "$@")
  run_and_finish "$OUTPUT/results.json" generated_rows 1 "$@"
}
