#!/bin/bash
#SBATCH --job-name=inference_math
#SBATCH --nodes=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=512GB
#SBATCH --time=1-00:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# GSM8K test: generate with one checkpoint at one number of steps, and score. From the repository's
# folder:
#   RUNS_DIR=/scratch/me/runs sbatch scripts/inference_math.sh [flags of eval_gsm8k.py]
# MODEL_KIND=flexmdm|llada, CHECKPOINT_PATH (default: RUNS_DIR/IFT_math_KIND/final), DIFFUSION_STEPS
# (default: 256 [paper's code]; empty: no such flag, for --sampler count_first), OUTPUT_DIR
# (default: RUNS_DIR/inference_math_KIND_STEPS).
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
MODEL_KIND=${MODEL_KIND:-flexmdm}
DIFFUSION_STEPS=${DIFFUSION_STEPS-256}
# the paper's decoding of the baseline: 1,024 tokens in one block, random remasking; FlexMDM's
# settings are the script's defaults
case $MODEL_KIND in
  flexmdm) KIND=(--variable_length) ;;
  llada) KIND=(--gen_length 1024 --block_length 1024 --remasking random) ;;
  *) stop "MODEL_KIND $MODEL_KIND is neither flexmdm nor llada" ;;
esac
[ -z "$DIFFUSION_STEPS" ] || KIND=(--diffusion_steps "$DIFFUSION_STEPS" "${KIND[@]}")
[ -n "${CHECKPOINT_PATH:-}" ] || need RUNS_DIR name the folder of the fine-tuned checkpoints
CHECKPOINT_PATH=${CHECKPOINT_PATH:-$RUNS_DIR/IFT_math_$MODEL_KIND/final}
[ -n "${OUTPUT_DIR:-}" ] || need RUNS_DIR name the folder for results
OUTPUT_DIR=${OUTPUT_DIR:-$RUNS_DIR/inference_math_$MODEL_KIND${DIFFUSION_STEPS:+_$DIFFUSION_STEPS}}
. scripts/launch.sh

evaluate eval_gsm8k.py --checkpoint_path "$CHECKPOINT_PATH" --output_dir "$OUTPUT_DIR" \
  "${KIND[@]}" "$@"
