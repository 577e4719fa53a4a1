#!/usr/bin/env bash
# Accuracy against network evaluations on the quickstart's code models: tau-leaping, the
# event-driven sampler, each approximation.
#   bash scripts/sampler_curve.sh             after the quickstart; existing results are kept, so an
#                                             interrupted run resumes
#   ITEMS=1000 SAMPLES=4 MOST=64 JOBS=2       items; samples per item for the event-driven sampler
#                                             and the grid of 4,096 steps; tau-leaping's largest
#                                             grid that is evaluated at every step (MOST=4096:
#                                             hours, 4,096 evaluations per row); runs in parallel
# Grids of 256, 1,024 and 4,096 steps skip no-op steps (--bound_inflation 2), which does not change
# their distribution (tests/sampling/test_sampler_exactness.py); the grid of 64 is sampled both
# ways, to check this.
# Writes runs/sampler_curve/{table.md, table.json, accuracy.png} and pairs.txt, the paired
# differences of the event-driven sampler to the grids.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
work=${WORK:-runs/quickstart} output=${OUTPUT:-runs/sampler_curve} items=${ITEMS:-1000} \
  samples=${SAMPLES:-4} most=${MOST:-64}
[ -d "$work/flexmdm_code/final" ] || {
  echo "sampler_curve.sh: $work/flexmdm_code/final is missing; scripts/quickstart.sh makes it" >&2
  exit 2
}
export OMP_NUM_THREADS=1 work output
mkdir -p "$output"
[ -f "$output/code.jsonl" ] || "$PYTHON" scripts/builtin_data.py code_infill --split test \
  --n "$items" --seed 6 --output "$output/code.jsonl"
evaluate() {  # one line: name, flags
  local name flags
  read -r name flags <<< "$1"
  # shellcheck disable=SC2086  # flags are words
  "$PYTHON" eval_humaneval_infill.py --checkpoint_path "$work/flexmdm_code/final" \
    --data_path "$output/code.jsonl" --max_length 256 --batch_size 50 --allow_code_execution \
    --code_workers 1 --output_dir "$output/$name" $flags > "$output/$name.log" 2>&1 || {
    tail -n 3 "$output/$name.log" >&2
    return 1
  }
  echo "done: $name"
}
export -f evaluate
order="--unmasking confidence --confidence_method top_prob"
event="--sampler event_driven $order"
{
  echo "event_driven $event --num_samples $samples"
  echo "tau_4096_skip --diffusion_steps 4096 $order --bound_inflation 2 --num_samples $samples"
  for steps in 1024 256 64; do
    echo "tau_${steps}_skip --diffusion_steps $steps $order --bound_inflation 2"
  done
  for steps in 64 16 256 1024 4096; do
    [ $steps -gt "$most" ] || echo "tau_$steps --diffusion_steps $steps $order"
  done
  for bound in 2 1.25; do echo "bound_$bound $event --bound_inflation $bound"; done
  for events in 2 4; do
    echo "events_$events $event --bound_inflation 1.25 --events_per_evaluation $events"
  done
  for sure in 0.9 0.6; do
    echo "threshold_$sure $event --bound_inflation 1.25 --confidence_threshold $sure"
  done
  echo "tau_64_threshold --diffusion_steps 64 $order --confidence_threshold 0.9"
} | xargs -d '\n' -P "${JOBS:-2}" -I {} bash -c 'evaluate "$@"' _ {}
"$PYTHON" scripts/results_table.py "$output" --output_dir "$output"
for grid in tau_4096_skip tau_1024_skip tau_256_skip tau_64; do
  "$PYTHON" scripts/results_table.py --pair "$output/event_driven" "$output/$grid"
done | tee "$output/pairs.txt"
"$PYTHON" scripts/results_table.py --pair "$output/tau_64" "$output/tau_64_skip" \
  | tee -a "$output/pairs.txt"
