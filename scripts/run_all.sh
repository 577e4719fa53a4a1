#!/bin/bash
# The whole study as a chain of jobs, each waiting for what it needs:
#   preprocessing -> transfer -> fine-tuning (math, code; both models) -> inference (both models,
#   every number of steps) -> table
#
# From the repository's folder, on a login node:
#   RUNS_DIR=/scratch/me/runs DATA_CACHE=/scratch/me/data bash scripts/run_all.sh
#   ... bash scripts/run_all.sh --dry_run                   print what would be submitted
#   ... bash scripts/run_all.sh --allow_code_execution      score code by running it in the
#                                                           sandbox; else only its text
#
# Run again, it submits only what is missing: finished stages are recognised by their files, waiting
# and running ones by their job ids in RUNS_DIR/jobs. Other settings, all optional (split at
# spaces):
#   BASE_MODEL, GLOBAL_BATCH, FLEXMDM_PYTHON, FLEXMDM_ENV, ...   as in the job scripts
#   MODEL_KINDS="flexmdm llada"                     which models
#   STEPS="128 256 512 1024 4096"                   numbers of diffusion steps [paper]
#   ALL_OPTIONS="--account=x"  CPU_OPTIONS="--partition=cpu"  IFT_OPTIONS="--nodes=2"
#   TRANSFER_OPTIONS="--nodes=2 --gpus-per-node=8"
#   INFERENCE_OPTIONS="--nodes=1"                   flags of sbatch: for all stages, for those
#                                                   without GPU, and so on
#   TRANSFER_PREPROCESS_ARGS  MATH_PREPROCESS_ARGS  CODE_PREPROCESS_ARGS
#   TRANSFER_ARGS  IFT_MATH_ARGS  IFT_CODE_ARGS
#   INFERENCE_MATH_ARGS  INFERENCE_CODE_ARGS        flags for the Python script of a stage
#                      (both models get them: give a flag that one of them has in a call with that
#                      MODEL_KINDS)
set -euo pipefail
# the settings below are split into words, which are no patterns of files
set -f
cd "$(dirname "$0")/.."
. scripts/settings.sh
need RUNS_DIR name the folder for checkpoints and results
need DATA_CACHE name the folder for preprocessed data
DRY_RUN=''
CODE_EXECUTION=''
for word in "$@"; do
  case $word in
    --dry_run) DRY_RUN=yes ;;
    --allow_code_execution) CODE_EXECUTION=$word ;;
    *) stop "$word: run_all.sh takes --dry_run and --allow_code_execution;" \
      "flags of a stage go into its variable" ;;
  esac
done
for kind in ${MODEL_KINDS:=flexmdm llada}; do
  [ "$kind" = flexmdm ] || [ "$kind" = llada ] \
    || stop "MODEL_KINDS: $kind is neither flexmdm nor llada"
done
for steps in ${STEPS:=128 256 512 1024 4096}; do
  [[ $steps =~ ^[1-9][0-9]*$ ]] || stop "STEPS: $steps is not a number of steps"
done
if [ -z "$DRY_RUN" ] && ! command -v sbatch > /dev/null; then
  stop "no sbatch here: run this on a login node, or see the plan with --dry_run"
fi
export RUNS_DIR DATA_CACHE
# one stage's settings; here they would be every stage's
unset OUTPUT_DIR TRAIN_DATA INIT_FROM CHECKPOINT_PATH
# Slurm opens a job's log before the job runs, and fails silently
[ -n "$DRY_RUN" ] || mkdir -p "$RUNS_DIR/jobs" slurm_logs

declare -A JOB=()
SUBMITTED=0

# stage NAME MARK "STAGES IT NEEDS" "VARIABLES" "SBATCH OPTIONS" SCRIPT ARGS...
# MARK: the path that is there when the stage is finished
stage() {
  local name=$1 mark=$2 needs=$3 variables=$4 options=$5 dependency='' other job
  shift 5
  if [ -e "$mark" ]; then
    printf '%-10s %-32s %s\n' finished "$name" "$mark"
    return
  fi
  job=$(cat "$RUNS_DIR/jobs/$name" 2> /dev/null || true)
  if [ -n "$job" ] && [ "$(squeue -h -j "$job" -o %j 2> /dev/null)" = "$name" ]; then
    printf '%-10s %-32s %s\n' "$job" "$name" "already queued"
    JOB[$name]=$job
    return
  fi
  for other in $needs; do dependency+=${JOB[$other]:+:${JOB[$other]}}; done
  # shellcheck disable=SC2206
  local command=($variables sbatch --parsable --export=ALL --job-name="$name"
                 ${ALL_OPTIONS:-} $options
                 ${dependency:+--dependency=afterok$dependency --kill-on-invalid-dep=yes}
                 "scripts/$1" "${@:2}")
  if [ -n "$DRY_RUN" ]; then
    job="<$name>"
    printf '%-10s %-32s %s\n' "to submit" "$name" "${command[*]}"
  else
    job=$(env "${command[@]}")
    # a federation appends its cluster's name
    job=${job%%;*}
    echo "$job" > "$RUNS_DIR/jobs/$name"
    printf '%-10s %-32s %s\n' "$job" "$name" "${dependency:+after${dependency//:/ }}"
  fi
  JOB[$name]=$job
  SUBMITTED=$((SUBMITTED + 1))
}

# shellcheck disable=SC2086  # flags are words
{
stage transfer_preprocess "$DATA_CACHE/transfer/info.json" "" "" "${CPU_OPTIONS:-}" \
  flexmdm_transfer_preprocess.sh ${TRANSFER_PREPROCESS_ARGS:-}
stage math_preprocess "$DATA_CACHE/gsm8k/info.json" "" "TASK=math" "${CPU_OPTIONS:-}" \
  IFT_preprocess.sh ${MATH_PREPROCESS_ARGS:-}
stage code_preprocess "$DATA_CACHE/code_infilling/info.json" "" "TASK=code" "${CPU_OPTIONS:-}" \
  IFT_preprocess.sh ${CODE_PREPROCESS_ARGS:-}
if [[ " $MODEL_KINDS " == *" flexmdm "* ]]; then
  stage transfer "$RUNS_DIR/transfer_flexmdm/final" transfer_preprocess "MODEL_KIND=flexmdm" \
    "${TRANSFER_OPTIONS:-}" flexmdm_transfer.sh ${TRANSFER_ARGS:-}
fi
everything=
for task in math code; do
  for kind in $MODEL_KINDS; do
    needs=${task}_preprocess
    [ "$kind" = llada ] || needs+=" transfer"                  # LLaDA is tuned from the base
    [ $task = math ] && flags=${IFT_MATH_ARGS:-} || flags=${IFT_CODE_ARGS:-}
    stage "IFT_${task}_$kind" "$RUNS_DIR/IFT_${task}_$kind/final" "$needs" "MODEL_KIND=$kind" \
      "${IFT_OPTIONS:-}" IFT_$task.sh $flags
    [ $task = math ] && flags=${INFERENCE_MATH_ARGS:-} \
      || flags="$CODE_EXECUTION ${INFERENCE_CODE_ARGS:-}"
    for steps in $STEPS; do
      name=inference_${task}_${kind}_$steps
      stage "$name" "$RUNS_DIR/$name/results.json" "IFT_${task}_$kind" \
        "MODEL_KIND=$kind DIFFUSION_STEPS=$steps" "${INFERENCE_OPTIONS:-}" inference_$task.sh $flags
      everything+=" $name"
    done
  done
done
table=$RUNS_DIR/tables/table.md
# there will be new results: another table, after them
if [ $SUBMITTED != 0 ]; then
  table=''  # no path: nothing is there
  [ -n "$DRY_RUN" ] || rm -f "$RUNS_DIR/jobs/results_table"
fi
stage results_table "$table" "$everything" "" "${CPU_OPTIONS:-}" results_table.sh
}

echo
if [ -n "$DRY_RUN" ]; then
  echo "$SUBMITTED jobs to submit"
elif [ $SUBMITTED = 0 ]; then
  echo "nothing to submit"
else
  echo "$SUBMITTED jobs submitted. Follow them:   squeue --me        tail -F slurm_logs/NAME-ID.out"
  echo "Stop everything:   scancel ${JOB[*]}"
fi
echo "The table will be in $RUNS_DIR/tables; run this command again to submit what is missing."
