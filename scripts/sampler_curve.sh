#!/usr/bin/env bash
# Accuracy against network evaluations on the quickstart's code models: tau-leaping, the event-driven sampler, each approximation, LLaDA.
#   bash scripts/sampler_curve.sh             after the quickstart; what is there is kept, so a stopped run goes on
#   ITEMS=450 SAMPLES=8 MOST=4096 JOBS=2      items, answers to each by the event-driven sampler, tau-leaping's largest grid, runs at once
# Writes runs/sampler_curve/{table.md, table.json, accuracy.png}, and the paired difference of the event-driven sampler to the largest grid.
# Hours with MOST=4096: every row then takes 4,096 evaluations. MOST=256, ITEMS=300 is what the README's table was made with.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
work=${WORK:-runs/quickstart} output=${OUTPUT:-runs/sampler_curve} items=${ITEMS:-450} samples=${SAMPLES:-8} most=${MOST:-4096}
[ -d "$work/flexmdm_code/final" ] || { echo "sampler_curve.sh: $work/flexmdm_code/final is missing; scripts/quickstart.sh makes it" >&2; exit 2; }
export OMP_NUM_THREADS=1 work output
mkdir -p "$output"
[ -f "$output/code.jsonl" ] || "$PYTHON" builtin_data.py code_infill --split test --n "$items" --seed 6 --output "$output/code.jsonl"
evaluate() {  # one line: name, kind, flags
  local name kind flags
  read -r name kind flags <<< "$1"
  # shellcheck disable=SC2086  # flags are words
  "$PYTHON" eval_humaneval_infill.py --checkpoint_path "$work/${kind}_code/final" --data_path "$output/code.jsonl" --max_length 256 --batch_size 50 \
    --allow_code_execution --code_workers 1 --output_dir "$output/$name" $flags > "$output/$name.log" 2>&1 || { tail -n 3 "$output/$name.log" >&2; return 1; }
  echo "done: $name"
}
export -f evaluate
order="--unmasking confidence --confidence_method top_prob"
event="--sampler event_driven $order --num_samples $samples"
{
  for steps in 4096 1024 256 64 16; do [ $steps -gt "$most" ] || echo "tau_$steps flexmdm --diffusion_steps $steps $order"; done
  echo "event_driven flexmdm $event"
  for bound in 2 1.25; do echo "bound_$bound flexmdm $event --bound_inflation $bound"; done
  for events in 2 4; do echo "events_$events flexmdm $event --bound_inflation 1.25 --events_per_evaluation $events"; done
  for sure in 0.9 0.6; do echo "threshold_$sure flexmdm $event --bound_inflation 1.25 --confidence_threshold $sure"; done
  echo "tau_64_threshold flexmdm --diffusion_steps 64 $order --confidence_threshold 0.9"
  for steps in 32 16 8; do echo "llada_$steps llada --gen_length 32 --block_length 8 --remasking low_confidence --diffusion_steps $steps"; done
} | xargs -d '\n' -P "${JOBS:-2}" -I {} bash -c 'evaluate "$@"' _ {}
"$PYTHON" results_table.py "$output" --output_dir "$output"
"$PYTHON" results_table.py --pair "$output/event_driven" "$output/tau_$most"
