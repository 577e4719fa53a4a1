#!/usr/bin/env bash
# Remake LLaDA-tiny-Base from nothing: tokenizer, text, MDM pretraining, bf16 export. About an hour on 2 cores; stop it whenever you
# like, the same command goes on.
#   bash scripts/make_tiny_base.sh [OUTPUT_DIR]        (default LLaDA-tiny-Base; work files in runs/tiny_base)
#   STEPS=200 bash scripts/make_tiny_base.sh /tmp/base  a short one, to see it work
set -euo pipefail
output=$(realpath -m "${1:-$(dirname "$0")/../LLaDA-tiny-Base}")
. "$(dirname "$0")/environment.sh"
work=${WORK:-runs/tiny_base}
steps=${STEPS:-6000}
mkdir -p "$work"
[ -f "$work/tokenizer/tokenizer.json" ] || "$PYTHON" builtin_data.py tokenizer --output_dir "$work/tokenizer"
[ -f "$work/text.jsonl" ] || "$PYTHON" builtin_data.py text --split train --n 200000 --seed 0 --output "$work/text.jsonl"
[ -f "$work/config/config.json" ] || "$PYTHON" llada_utils.py new --config_only --tokenizer "$work/tokenizer" --output_dir "$work/config" \
  --d_model 160 --n_layers 6 --n_heads 5 --mlp_hidden_size 448 --max_sequence_length 512
"$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/text.jsonl" --tokenizer "$work/config" --max_length 128 --output_dir "$work/data"
"$PYTHON" flexmdm_transfer_openwebtext.py --from_scratch --all_parameters --model_name_or_path "$work/config" --train_data "$work/data" \
  --max_steps "$steps" --per_device_train_batch_size 16 --gradient_accumulation_steps 2 --learning_rate 3e-3 --weight_decay 0.05 \
  --adam_beta2 0.98 --loss_constant 64 --save_steps 250 --logging_steps 100 --output_dir "$work/run" --resume_from_checkpoint auto
"$PYTHON" llada_utils.py export --checkpoint_path "$work/run/final" --dtype bfloat16 --output_dir "$output"
cp "$work/run/train_log.jsonl" "$output/train_log.jsonl"
