#!/bin/bash
#SBATCH --job-name=IFT_math
#SBATCH --nodes=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=512GB
#SBATCH --time=2-00:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# Instruction fine-tuning on GSM8K: 16 H100, 100 epochs, 4 rows per GPU [paper's code]. From the
# repository's folder:
#   RUNS_DIR=/scratch/me/runs DATA_CACHE=/scratch/me/data \
#     sbatch scripts/IFT_math.sh [flags of instruction_finetuning.py]
# MODEL_KIND=flexmdm starts from INIT_FROM (default: RUNS_DIR/transfer_flexmdm/final),
# MODEL_KIND=llada from BASE_MODEL (or INIT_FROM). TRAIN_DATA (default: DATA_CACHE/gsm8k),
# OUTPUT_DIR (RUNS_DIR/IFT_math_KIND), GLOBAL_BATCH.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
MODEL_KIND=${MODEL_KIND:-flexmdm}
[ -n "${TRAIN_DATA:-}" ] || need DATA_CACHE name the folder that IFT_preprocess.sh wrote to
TRAIN_DATA=${TRAIN_DATA:-$DATA_CACHE/gsm8k}
[ -n "${OUTPUT_DIR:-}" ] || need RUNS_DIR name the folder for checkpoints
OUTPUT_DIR=${OUTPUT_DIR:-$RUNS_DIR/IFT_math_$MODEL_KIND}
case $MODEL_KIND in
  flexmdm)
    [ -n "${INIT_FROM:-}" ] || need RUNS_DIR name the folder of the transfer, or give INIT_FROM
    INIT_FROM=${INIT_FROM:-$RUNS_DIR/transfer_flexmdm/final}
    START=(--variable_length --init_from "$INIT_FROM") ;;
  llada) START=(${INIT_FROM:+--init_from "$INIT_FROM"}) ;;
  *) stop "MODEL_KIND $MODEL_KIND is neither flexmdm nor llada" ;;
esac
. scripts/launch.sh
ACCUMULATION=$(accumulation "${GLOBAL_BATCH:-64}" 4 "$@")

train instruction_finetuning.py --task math "${START[@]}" \
  --model_name_or_path "${BASE_MODEL:-GSAI-ML/LLaDA-8B-Base}" --train_data "$TRAIN_DATA" \
  --output_dir "$OUTPUT_DIR" --num_train_epochs 100 --per_device_train_batch_size 4 \
  --gradient_accumulation_steps "$ACCUMULATION" --activation_checkpointing --save_steps 1000 \
  --ddp_timeout 900 --resume_from_checkpoint auto "$@"
