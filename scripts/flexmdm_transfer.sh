#!/bin/bash
#SBATCH --job-name=flexmdm_transfer
#SBATCH --nodes=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=512GB
#SBATCH --time=4-00:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# Transfer learning, LLaDA-8B -> FlexMDM: 16 H100, 200,000 steps of 64 rows, about three days
# [paper]. From the repository's folder:
#   RUNS_DIR=/scratch/me/runs DATA_CACHE=/scratch/me/data \
#     sbatch scripts/flexmdm_transfer.sh [flags of flexmdm_transfer_openwebtext.py]
# MODEL_KIND=llada trains the matched baseline. BASE_MODEL, TRAIN_DATA (default:
# DATA_CACHE/transfer), OUTPUT_DIR (RUNS_DIR/transfer_KIND), GLOBAL_BATCH. Other shapes on sbatch's
# command line: --nodes=2 --gpus-per-node=8. 300 s before its time limit the job saves and requeues.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
MODEL_KIND=${MODEL_KIND:-flexmdm}
case $MODEL_KIND in
  flexmdm) KIND=(--variable_length) ;;
  llada) KIND=() ;;
  *) stop "MODEL_KIND $MODEL_KIND is neither flexmdm nor llada" ;;
esac
[ -n "${TRAIN_DATA:-}" ] \
  || need DATA_CACHE name the folder that flexmdm_transfer_preprocess.sh wrote to
TRAIN_DATA=${TRAIN_DATA:-$DATA_CACHE/transfer}
[ -n "${OUTPUT_DIR:-}" ] || need RUNS_DIR name the folder for checkpoints
OUTPUT_DIR=${OUTPUT_DIR:-$RUNS_DIR/transfer_$MODEL_KIND}
. scripts/launch.sh
ACCUMULATION=$(accumulation "${GLOBAL_BATCH:-64}" 4 "$@")

# --save_steps: the most a dead node can cost, 20 minutes at the paper's 1.3 s per step.
# --activation_checkpointing: 4 rows of 1,024 tokens are sure to fit; the backward pass takes a
# third longer.
train flexmdm_transfer_openwebtext.py "${KIND[@]}" \
  --model_name_or_path "${BASE_MODEL:-GSAI-ML/LLaDA-8B-Base}" --train_data "$TRAIN_DATA" \
  --output_dir "$OUTPUT_DIR" --max_steps 200000 --per_device_train_batch_size 4 \
  --gradient_accumulation_steps "$ACCUMULATION" --activation_checkpointing --save_steps 1000 \
  --ddp_timeout 900 --resume_from_checkpoint auto "$@"
