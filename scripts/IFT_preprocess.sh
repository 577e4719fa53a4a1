#!/bin/bash
#SBATCH --job-name=IFT_preprocess
#SBATCH --nodes=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32GB
#SBATCH --time=04:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# Instruction data of one task for IFT_math.sh or IFT_code.sh. No GPU. Submit from the repository's
# folder:
#   TASK=math DATA_CACHE=/scratch/me/data \
#     sbatch scripts/IFT_preprocess.sh [flags of preprocess_math.py]
#   TASK=code DATA_CACHE=/scratch/me/data \
#     sbatch scripts/IFT_preprocess.sh [flags of preprocess_code_infilling.py]
# BASE_MODEL (its tokenizer), OUTPUT_DIR (default: DATA_CACHE/gsm8k or DATA_CACHE/code_infilling).
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
need TASK math or code
case $TASK in
  math) SCRIPT=preprocess_math.py NAME=gsm8k ;;
  code) SCRIPT=preprocess_code_infilling.py NAME=code_infilling ;;
  *) stop "TASK $TASK is neither math nor code" ;;
esac
[ -n "${OUTPUT_DIR:-}" ] || need DATA_CACHE name the folder for preprocessed data
OUTPUT_DIR=${OUTPUT_DIR:-$DATA_CACHE/$NAME}
. scripts/launch.sh

alone $SCRIPT --tokenizer "${BASE_MODEL:-GSAI-ML/LLaDA-8B-Base}" --output_dir "$OUTPUT_DIR" \
  --num_proc "$CORES" "$@"
