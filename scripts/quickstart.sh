#!/usr/bin/env bash
# The whole method on a laptop, about 12 minutes on 2 cores: train the tiny base into a FlexMDM,
# fine-tune FlexMDM and LLaDA on word problems and on code infilling, evaluate both on both, and
# print one table.
#   bash scripts/quickstart.sh            a second run resumes, or reuses what is there
#                                         (runs/quickstart)
#   SHORT=1 bash scripts/quickstart.sh    few steps, to check that everything runs
#                                         (runs/quickstart_short; its numbers mean nothing)
# WORK names another folder for the work files. Two chains run in parallel, one core each: networks
# this small gain nothing from a second thread. The terminal shows one (transfer, FlexMDM on word
# problems), WORK/other.log the other (LLaDA, then FlexMDM on code).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
if [ -n "${SHORT:-}" ]; then
  work=${WORK:-runs/quickstart_short} transfer_steps=16 math_steps=8 code_steps=8 llada_steps=8 \
    items=12 fit=(--examples 96 --max_steps 20)
else
  work=${WORK:-runs/quickstart} transfer_steps=1300 math_steps=450 code_steps=1000 llada_steps=200 \
    items=200 fit=(--examples 16000 --max_steps 4000)
fi
base=LLaDA-tiny-Base
export OMP_NUM_THREADS=1
mkdir -p "$work"
started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

order=(--unmasking confidence --confidence_method top_prob)
say "a first answer, by FlexMDM-tiny-Math: the FlexMDM that this script trained before"
"$PYTHON" flexmdm_inference.py --checkpoint_path FlexMDM-tiny-Math --task math --quiet \
  --prompt "Sam is 72 years old. How old will Sam be in 9 years?"

say "data: built-in word problems, functions with tests, library functions"
make_data() {  # kind file split n flags...
  local kind=$1 file=$work/$2.jsonl split=$3 n=$4; shift 4
  [ -f "$file" ] || "$PYTHON" scripts/builtin_data.py "$kind" --split "$split" --n "$n" --seed 5 \
    --output "$file" "$@"
}
test_data() {
  make_data math math_test test "$items"
  make_data code_infill code_test test "$items"
  make_data stdlib_infill stdlib_test test $((items / 2))
  make_data math math_train train 16000
  "$PYTHON" preprocess_math.py --data_path "$work/math_train.jsonl" --tokenizer $base \
    --max_length 128 --output_dir "$work/math"
}
test_data > "$work/data.log" 2>&1 &
other=$!
trap 'pkill -P "$other" 2> /dev/null || true; kill "$other" 2> /dev/null || true' EXIT
make_data code code_train train 20000
"$PYTHON" preprocess_code_infilling.py --data_path "$work/code_train.jsonl" --tokenizer $base \
  --max_length 136 --output_dir "$work/code"
make_data text text train 60000 --weights 0.35 0.05 0.05 0 0 0.55
"$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/text.jsonl" --prompt_field prompt \
  --tokenizer $base --max_length 128 --output_dir "$work/text"
wait "$other" || { tail -n 5 "$work/data.log" >&2; exit 1; }

# Insertion power:5, not the paper's linear: most tokens are inserted as masks before the first is
# unmasked. In this time, a network of this size is far worse at counting the tokens missing between
# words than at filling masks (README, "Numbers"). LoRA is a little worse (RESULTS.md), so FlexMDM
# trains all parameters, and so does LLaDA for the infilling prompt, which is new to it; on word
# problems LoRA keeps LLaDA from forgetting its sums.
settings=(--learning_rate 2e-3 --adam_beta2 0.98 --loss_constant 32 --logging_steps 25
  --save_steps 200 --save_total_limit 1
  --resume_from_checkpoint auto --sft_max_length 136 --per_device_train_batch_size 32)
tune() {  # kind task steps flags...
  local kind=$1 task=$2 steps=$3; shift 3
  say "$kind: instruction tuning on $task"
  "$PYTHON" instruction_finetuning.py --task "$task" --train_data "$work/$task" \
    --max_steps "$steps" --output_dir "$work/${kind}_$task" "${settings[@]}" "$@"
}
evaluate() {  # kind set flags...
  local kind=$1 set=$2 task=code checkpoint; shift 2
  say "$kind: evaluation on $set"
  [ "$set" = math ] && task=math
  checkpoint=$work/${kind}_$task/final
  [ "$kind" = counting ] && checkpoint=$work/counting_$task
  if [ "$set" = math ]; then
    "$PYTHON" eval_gsm8k.py --checkpoint_path "$checkpoint" \
      --data_path "$work/math_test.jsonl" --max_length 136 --batch_size 50 \
      --output_dir "$work/results/math_$kind" "$@"
  else
    "$PYTHON" eval_humaneval_infill.py --checkpoint_path "$checkpoint" \
      --data_path "$work/${set}_test.jsonl" --max_length 256 --batch_size 50 \
      --allow_code_execution --output_dir "$work/results/${set}_$kind" "$@"
  fi
}
# The same FlexMDM with a head for the length of an answer: the number of tokens first, then only
# unmasking (docs/count_first.md)
fit_lengths() {  # task
  say "flexmdm: fitting the length distribution on $1"
  [ -f "$work/counting_$1/config.json" ] || "$PYTHON" scripts/fit_length_distribution.py \
    --checkpoint_path "$work/flexmdm_$1/final" --task "$1" --train_data "$work/$1" \
    --output_dir "$work/counting_$1" --most 256 "${fit[@]}"
}
flexmdm_sampler=(--sampler event_driven "${order[@]}")
llada_sampler=(--block_length 8 --remasking low_confidence)
other_chain() {
  tune llada math "$llada_steps" --model_name_or_path $base --lora_dropout 0
  evaluate llada math --gen_length 40 "${llada_sampler[@]}"
  tune llada code "$llada_steps" --model_name_or_path $base --all_parameters
  for set in code stdlib; do evaluate llada $set --gen_length 32 "${llada_sampler[@]}"; done
  "$PYTHON" eval_humaneval_infill.py --check_references --data_path "$work/code_test.jsonl" \
    --allow_code_execution --output_dir "$work/results/code_references"
  say "flexmdm: waiting for the transfer"
  until [ -f "$work/transfer/final/config.json" ]; do sleep 1; done
  tune flexmdm code "$code_steps" --variable_length --all_parameters \
    --init_from "$work/transfer/final"
  for set in code stdlib; do evaluate flexmdm $set "${flexmdm_sampler[@]}"; done
  fit_lengths code
  for set in code stdlib; do
    evaluate counting $set --sampler count_first --length_candidates 4 "${order[@]}"
  done
}
other_chain > "$work/other.log" 2>&1 &
other=$!
say "flexmdm: transfer, LLaDA-tiny becomes a FlexMDM"
"$PYTHON" flexmdm_transfer_openwebtext.py --variable_length --model_name_or_path $base \
  --train_data "$work/text" --max_steps "$transfer_steps" --output_dir "$work/transfer" \
  --insertion_schedule power:5 --time_epsilon 0.02 --lr_scheduler_type constant_with_warmup \
  --all_parameters "${settings[@]}"
tune flexmdm math "$math_steps" --variable_length --all_parameters \
  --init_from "$work/transfer/final"
evaluate flexmdm math "${flexmdm_sampler[@]}"
fit_lengths math
evaluate counting math --sampler count_first "${order[@]}"
say "waiting for LLaDA and FlexMDM on code ($work/other.log)"
wait "$other" || { tail -n 5 "$work/other.log" >&2; exit 1; }

say "the table"
"$PYTHON" scripts/quickstart_table.py "$work"
