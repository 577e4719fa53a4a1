#!/bin/bash
#SBATCH --job-name=results_table
#SBATCH --nodes=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4GB
#SBATCH --time=00:15:00
#SBATCH --output=slurm_logs/%x-%j.out
#SBATCH --open-mode=append
# Collect every results.json below RUNS_DIR into a table and a plot, in RUNS_DIR/tables. Run it as a
# job or on a login node:
#   RUNS_DIR=/scratch/me/runs bash scripts/results_table.sh [flags of scripts/results_table.py]
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
. scripts/settings.sh
need RUNS_DIR name the folder of the results
. scripts/launch.sh

alone scripts/results_table.py "$RUNS_DIR" --output_dir "$RUNS_DIR/tables" "$@"
