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
#   DATA_CACHE=/scratch/me/data sbatch scripts/flexmdm_transfer_preprocess.sh [flags of flexmdm_transfer_preprocess.py]
# BASE_MODEL (its tokenizer), OUTPUT_DIR (default: DATA_CACHE/transfer). A stopped job goes on from what it has cached.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
OUTPUT_DIR=${OUTPUT_DIR:-${DATA_CACHE:?name the folder for preprocessed data}/transfer}
. scripts/launch.sh

alone flexmdm_transfer_preprocess.py --tokenizer "${BASE_MODEL:-GSAI-ML/LLaDA-8B-Base}" --output_dir "$OUTPUT_DIR" --num_proc "$CORES" "$@"
