#!/usr/bin/env bash
# The whole method on a laptop, about 15 minutes on 2 cores: the tiny base becomes a FlexMDM, FlexMDM and LLaDA are tuned on word problems
# and on code infilling, both are evaluated on both, and one table is printed.
#   bash scripts/quickstart.sh            a second run goes on with, or reuses, what is there (runs/quickstart)
#   SHORT=1 bash scripts/quickstart.sh    few steps: does everything run? (runs/quickstart_short; its numbers mean nothing)
# WORK names another folder for the work files. The two models are made side by side, a core each: networks this small gain nothing from
# a second thread. LLaDA's screen output goes to WORK/llada.log.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
if [ -n "${SHORT:-}" ]; then
  work=${WORK:-runs/quickstart_short} transfer_steps=16 math_steps=8 code_steps=8 items=12
else
  work=${WORK:-runs/quickstart} transfer_steps=650 math_steps=350 code_steps=350 items=200
fi
base=LLaDA-tiny-Base
export OMP_NUM_THREADS=1
mkdir -p "$work"
started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

say "data: built-in word problems, functions with tests, library functions"
make_data() { [ -f "$2" ] || "$PYTHON" builtin_data.py "$1" --split "$3" --n "$4" --seed "$5" --output "$2"; }
[ -f "$work/text.jsonl" ] || "$PYTHON" builtin_data.py text --split train --n 30000 --seed 5 --weights 0.3 0.2 0.1 0.4 0 --output "$work/text.jsonl"
make_data math "$work/math_train.jsonl" train 7000 5
make_data math "$work/math_test.jsonl" test "$items" 5
make_data code "$work/code_train.jsonl" train 7000 5
make_data code_infill "$work/code_test.jsonl" test "$items" 5
make_data stdlib_infill "$work/stdlib_test.jsonl" test "$items" 5
"$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/text.jsonl" --prompt_field prompt --tokenizer $base --max_length 128 --output_dir "$work/text"
"$PYTHON" preprocess_math.py --data_path "$work/math_train.jsonl" --tokenizer $base --max_length 128 --output_dir "$work/math"
"$PYTHON" preprocess_code_infilling.py --data_path "$work/code_train.jsonl" --tokenizer $base --max_length 136 --output_dir "$work/code"

settings=(--per_device_train_batch_size 16 --gradient_accumulation_steps 2 --learning_rate 2e-3 --lora_dropout 0 --loss_constant 64
  --logging_steps 25 --save_steps 100 --save_total_limit 1 --resume_from_checkpoint auto)
tune() {  # kind task steps flags...
  local kind=$1 task=$2 steps=$3; shift 3
  say "$kind: instruction tuning on $task"
  "$PYTHON" instruction_finetuning.py --task "$task" --train_data "$work/$task" --max_steps "$steps" --sft_max_length 136 \
    --output_dir "$work/${kind}_$task" "${settings[@]}" "$@"
}
evaluate() {  # kind sampler flags...: the same left-to-right prior for both, a window for FlexMDM, blocks for LLaDA
  local kind=$1 set; shift
  say "$kind: evaluation"
  "$PYTHON" eval_gsm8k.py --checkpoint_path "$work/${kind}_math/final" --data_path "$work/math_test.jsonl" --max_length 136 --batch_size 50 \
    --output_dir "$work/results/math_$kind" "$@"
  for set in code stdlib; do
    "$PYTHON" eval_humaneval_infill.py --checkpoint_path "$work/${kind}_code/final" --data_path "$work/${set}_test.jsonl" --max_length 256 \
      --batch_size 50 --allow_code_execution --output_dir "$work/results/${set}_$kind" "$@"
  done
}
llada() {
  tune llada math "$math_steps" --model_name_or_path $base
  tune llada code "$code_steps" --model_name_or_path $base
  evaluate llada --block_length 8 --remasking low_confidence
}
flexmdm() {
  say "flexmdm: transfer, LLaDA-tiny becomes a FlexMDM"
  "$PYTHON" flexmdm_transfer_openwebtext.py --variable_length --model_name_or_path $base --train_data "$work/text" --sft_max_length 136 \
    --max_steps "$transfer_steps" --output_dir "$work/transfer" --time_epsilon 0.02 --all_parameters "${settings[@]}"
  tune flexmdm math "$math_steps" --variable_length --all_parameters --init_from "$work/transfer/final"
  tune flexmdm code "$code_steps" --variable_length --all_parameters --init_from "$work/transfer/final"
  evaluate flexmdm --unmasking confidence --use_sliding_window --alpha 5 --max_window 8 --diffusion_steps 96
}
llada > "$work/llada.log" 2>&1 &
other=$!
trap 'pkill -P "$other" 2> /dev/null || true; kill "$other" 2> /dev/null || true' EXIT
flexmdm
say "waiting for LLaDA ($work/llada.log)"
wait "$other" || { tail -n 5 "$work/llada.log" >&2; exit 1; }
"$PYTHON" eval_humaneval_infill.py --check_references --data_path "$work/code_test.jsonl" --allow_code_execution --output_dir "$work/results/code_references"

say "the table"
"$PYTHON" scripts/quickstart_table.py "$work"
