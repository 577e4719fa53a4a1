#!/bin/bash
#SBATCH --job-name=flexmdm_transfer_preprocess
#SBATCH --nodes=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=128GB
#SBATCH --time=24:00:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# Text corpora -> tokenised chunks for the transfer. No GPU. Submit from the repository's folder:
#   DATA_CACHE=/scratch/me/data \
#     sbatch scripts/flexmdm_transfer_preprocess.sh [flags of flexmdm_transfer_preprocess.py]
# Without --corpus or --data_path: the paper's OpenWebText and Proof-Pile-2, from the Hub.
# BASE_MODEL (its tokenizer), OUTPUT_DIR (default: DATA_CACHE/transfer). An interrupted job resumes
# from the parts that it has tokenised.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
[ -n "${OUTPUT_DIR:-}" ] || need DATA_CACHE name the folder for preprocessed data
OUTPUT_DIR=${OUTPUT_DIR:-$DATA_CACHE/transfer}
. scripts/launch.sh
CORPUS=(--corpus openwebtext proof-pile-2)
[ -z "$(value_of --corpus "$@")$(value_of --data_path "$@")" ] || CORPUS=()

alone flexmdm_transfer_preprocess.py "${CORPUS[@]}" \
  --tokenizer "${BASE_MODEL:-GSAI-ML/LLaDA-8B-Base}" --output_dir "$OUTPUT_DIR" \
  --cache_path "${OUTPUT_DIR}_parts" --num_proc "$CORES" "$@"
