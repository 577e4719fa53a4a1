#!/bin/bash
#SBATCH --job-name=inference_code
#SBATCH --nodes=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=512GB
#SBATCH --time=1-00:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# HumanEval infilling: generate with one checkpoint at one number of steps, and score. From the
# repository's folder:
#   RUNS_DIR=/scratch/me/runs sbatch scripts/inference_code.sh [flags of eval_humaneval_infill.py]
# MODEL_KIND=flexmdm|llada, CHECKPOINT_PATH (default: RUNS_DIR/IFT_code_KIND/final), DIFFUSION_STEPS
# (default: 4096 [paper's code]; empty: no such flag, for --sampler count_first), OUTPUT_DIR
# (default: RUNS_DIR/inference_code_KIND_STEPS).
# Model-written programs run only with --allow_code_execution, in the sandbox of
# evaluation/sandbox/runner.py; without it only the text is scored.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
MODEL_KIND=${MODEL_KIND:-flexmdm}
DIFFUSION_STEPS=${DIFFUSION_STEPS-4096}
# the paper's decoding: FlexMDM by tau-leaping; of the baseline 1,024 tokens in one block, random
# remasking
case $MODEL_KIND in
  flexmdm) KIND=(--variable_length ${DIFFUSION_STEPS:+--preset paper}) ;;
  llada) KIND=(--gen_length 1024 --block_length 1024 --remasking random) ;;
  *) stop "MODEL_KIND $MODEL_KIND is neither flexmdm nor llada" ;;
esac
[ -z "$DIFFUSION_STEPS" ] || KIND=(--diffusion_steps "$DIFFUSION_STEPS" "${KIND[@]}")
[ -n "${CHECKPOINT_PATH:-}" ] || need RUNS_DIR name the folder of the fine-tuned checkpoints
CHECKPOINT_PATH=${CHECKPOINT_PATH:-$RUNS_DIR/IFT_code_$MODEL_KIND/final}
[ -n "${OUTPUT_DIR:-}" ] || need RUNS_DIR name the folder for results
OUTPUT_DIR=${OUTPUT_DIR:-$RUNS_DIR/inference_code_$MODEL_KIND${DIFFUSION_STEPS:+_$DIFFUSION_STEPS}}
. scripts/launch.sh

has --allow_code_execution "$@" || say "programs will not be run, only the text is scored:" \
  "no pass@1. To run them in the sandbox:" \
  "sbatch scripts/inference_code.sh --allow_code_execution"
evaluate eval_humaneval_infill.py --checkpoint_path "$CHECKPOINT_PATH" --output_dir "$OUTPUT_DIR" \
  "${KIND[@]}" "$@"
