#!/usr/bin/env bash
# Rebuild LLaDA-tiny-Base from scratch: tokenizer, text, MDM pretraining in four parts, bf16 export.
# About 30 minutes on 2 cores; it can be interrupted at any time, and the same command resumes.
#   bash scripts/make_tiny_base.sh [OUTPUT_DIR]
#     (default LLaDA-tiny-Base; work files in runs/tiny_base)
#   STEPS_COPY=20 STEPS_COUNT=20 STEPS_ALL=20 STEPS_NAMES=20 \
#     bash scripts/make_tiny_base.sh runs/base       a short run, to check that it works
# Order matters at this size. Questions, left-hand sides and heads of functions are given
# (--prompt_field), so the network first learns to copy numbers out of them, then the sums
# themselves on equations alone, then everything, and last, from functions whose head is given, to
# reuse a variable's name. All at once, unconditionally, it had learned neither numbers nor sums
# after 1,250 steps; functions before everything made it forget the sums.
set -euo pipefail
output=$(realpath -m "${1:-$(dirname "$0")/../LLaDA-tiny-Base}")
. "$(dirname "$0")/environment.sh"
work=${WORK:-runs/tiny_base}
mkdir -p "$work"
[ -f "$work/tokenizer/tokenizer.json" ] \
  || "$PYTHON" scripts/builtin_data.py tokenizer --output_dir "$work/tokenizer"
[ -f "$work/config/config.json" ] || "$PYTHON" scripts/new_base.py random --config_only \
  --tokenizer "$work/tokenizer" --output_dir "$work/config" --d_model 128 --n_layers 5 --n_heads 4 \
  --mlp_hidden_size 352 --max_sequence_length 512 --init_std 0.06

part() {  # name documents seed steps shares(math chat equations code stdlib functions) flags...
  local name=$1 documents=$2 seed=$3 steps=$4 shares=$5; shift 5
  # shellcheck disable=SC2086  # shares are six words
  [ -f "$work/$name.jsonl" ] || "$PYTHON" scripts/builtin_data.py text --split train \
    --n "$documents" --seed "$seed" --weights $shares --output "$work/$name.jsonl"
  "$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/$name.jsonl" --prompt_field prompt \
    --tokenizer "$work/config" --max_length 128 --output_dir "$work/data_$name"
  "$PYTHON" flexmdm_transfer_openwebtext.py --all_parameters --train_data "$work/data_$name" \
    --max_steps "$steps" --mask_ratio_epsilon 0.1 --learning_rate 2e-3 --warmup_steps 100 \
    --weight_decay 0.05 --adam_beta2 0.98 --gradient_accumulation_steps 2 --save_steps 200 \
    --logging_steps 100 --output_dir "$work/run_$name" --resume_from_checkpoint auto "$@"
}
part copy 80000 0 "${STEPS_COPY:-2000}" "0.6 0 0.4 0 0 0" --model_name_or_path "$work/config" \
  --from_scratch --per_device_train_batch_size 16 --loss_constant 32 \
  --lr_scheduler_type constant_with_warmup
part count 60000 2 "${STEPS_COUNT:-1000}" "0.1 0 0.9 0 0 0" --init_from "$work/run_copy/final" \
  --per_device_train_batch_size 64 --loss_constant 4 --lr_scheduler_type constant_with_warmup
part all 120000 1 "${STEPS_ALL:-3600}" "0.3 0.1 0.2 0.3 0.1 0" --init_from "$work/run_count/final" \
  --per_device_train_batch_size 16 --loss_constant 32 --lr_scheduler_type cosine
part names 70000 3 "${STEPS_NAMES:-2000}" "0.3 0.05 0.2 0 0.05 0.4" \
  --init_from "$work/run_all/final" --per_device_train_batch_size 16 --loss_constant 32 \
  --lr_scheduler_type cosine --learning_rate 1.5e-3
"$PYTHON" llada_utils.py export --checkpoint_path "$work/run_names/final" --dtype bfloat16 \
  --output_dir "$work/export"
mkdir -p "$output"
cp "$work/export"/* "$output"
cat "$work"/run_{copy,count,all,names}/train_log.jsonl > "$output/train_log.jsonl"
