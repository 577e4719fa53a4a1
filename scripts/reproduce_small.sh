#!/usr/bin/env bash
# The experiments behind RESULTS.md, at a scale anyone can rerun: planned for 150 minutes on 2 cores
# (actual time: RESULTS.md), no GPU, no network.
#   Every chain; if interrupted, the same command resumes:
#     bash scripts/reproduce_small.sh
#   One chain alone; more seeds: comparison_4, ablations_4, ...:
#     bash scripts/reproduce_small.sh comparison_1
#   20 times the steps and items, for a GPU; --scale 0.01 checks that everything runs:
#     bash scripts/reproduce_small.sh --scale 20 --jobs 1
#   With gsm8k/ and humaneval/ (tests/conftest.py); skipped without them:
#     FLEXMDM_DATA=/path bash scripts/reproduce_small.sh real_code gsm8k
#   12 times the training on one GPU, its runs side by side; --dry_run shows the numbers of steps:
#     bash scripts/reproduce_small.sh --gpu --scale 12
#     bash scripts/reproduce_small.sh --gpu --scale 12 --jobs 6 budget_2
# Chains are run --jobs at a time, each in one thread (networks this small gain nothing from a
# second):
#   comparison_SEED   transfer against the matched baseline, LoRA and from scratch; tuning and
#                     evaluation on word problems and infilling
#   ablations_SEED    head, time scale, padding, AdaLN groups, insertion schedule: loss by quarter
#                     of t
#   real_code         the standard library's functions, held-out modules; HumanEval single-line
#                     infilling
#   lengths           lengths of unconditional samples, answers and infills; exact match by length
#                     (after comparison_1)
#   counting_SEED     count first: the length distribution fitted to the models of
#                     comparison_SEED (trained if they are not there), on other items
#   rivals_SEED       on the items of counting_SEED and with its models: LLaDA with a search over
#                     lengths; a share placed and the rest inserted; correctors (after
#                     counting_SEED)
#   training_SEED     choices of the training by accuracy: insertion schedules and head, learning
#                     rate, averaged weights; on the items of counting_SEED (after it)
#   budget_SEED       a larger budget of training: FlexMDM and LLaDA as in comparison_SEED,
#                     counting_SEED and rivals_SEED, on their items; below
#   gsm8k             the 7,473 problems; loss and accuracy (after comparison_1)
#   samplers          accuracy against evaluations (after scripts/quickstart.sh)
# Each writes results/CHAIN.json when it is done; scripts/reproduction.py report fills the tables
# and plots of RESULTS.md from those. --scale multiplies training steps and evaluated items. WORK
# names another folder for the work files, RESULTS another for the JSON.
#
# budget_SEED has models and a work folder of its own (runs/reproduce_budget). Its runs that do not
# need each other are processes side by side, --jobs at a time (with --gpu 8), each with a log in
# WORK/logs. --gpu asks for a CUDA GPU, uses only one, and makes budget_1 the chain to run; without
# it the same chain runs on what there is, also on a CPU. Of its --scale a factor of up to 4 goes
# into the rows of a step and the rest into steps, so it trains on --scale times the rows: at 12,
# 2,400, 900 and 1,500 steps of 128 rows. Data sets and the examples of the length distributions
# grow by 3 at most, so rows recur (at 12 about twice); items and the steps of these fits never.
# --scale 12 is planned for ten minutes on an H100 or H200, which has not been measured. Of five to
# ten trainings side by side on an H100 (2026-11-26) each made about 13 steps of 128 rows per
# second: 185 s for the transfers and 115 s for the tunings, which leaves 300 s for data, fits and
# 27 evaluations.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
scale=1 jobs='' chains=() gpu='' budget='' dry_run=''
refuse() { echo "reproduce_small.sh: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --scale)
      [[ ${2:-} =~ ^[0-9]*\.?[0-9]+$ && $2 =~ [1-9] ]] || refuse "--scale needs a number above 0"
      scale=$2; shift 2 ;;
    --jobs)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || refuse "--jobs needs a whole number above 0"
      jobs=$2; shift 2 ;;
    --gpu) gpu=yes; shift ;;
    --dry_run) dry_run=yes; shift ;;
    comparison_[1-9]* | counting_[1-9]* | rivals_[1-9]* | training_[1-9]* | ablations_[1-9]* | \
      budget_[1-9]* | real_code | lengths | gsm8k | samplers)
      chains+=("$1"); shift ;;
    *) refuse "unknown chain $1; see the top of this file" ;;
  esac
done
if [ ${#chains[@]} -eq 0 ]; then
  chains=(comparison_1 comparison_2 comparison_3 real_code
    ablations_1 ablations_2 ablations_3 lengths gsm8k samplers)
  [ -z "$gpu" ] || chains=(budget_1)
fi
for name in "${chains[@]}"; do
  case $name in
    budget_*) budget=yes ;;
    *) [ -z "$gpu" ] || refuse "--gpu is for the chains budget_SEED, not for $name"
      others=$name ;;
  esac
done
[ -z "$budget" ] || [ -z "${others:-}" ] || refuse "run budget_SEED and $others one after the other"
work=${WORK:-runs/reproduce${budget:+_budget}} results=${RESULTS:-results} data=${FLEXMDM_DATA:-}
base=LLaDA-tiny-Base jobs=${jobs:-$([ -n "$gpu" ] && echo 8 || echo 2)}
export OMP_NUM_THREADS=1

# rows: of a training step; the others multiply steps, data sets and numbers of items
rows=32 step_scale=$scale data_scale=$scale item_scale=$scale batch=50
if [ -n "$budget" ]; then
  batch=400
  read -r rows step_scale data_scale item_scale < <(awk -v s="$scale" 'BEGIN {
    k = s < 1 ? 1 : s > 4 ? 4 : int(s)
    print 32 * k, s / k, s < 3 ? s : 3, s < 1 ? s : 1
  }')
fi
scaled() {  # n, least, factor
  awk -v n="$1" -v s="${3:-$scale}" -v least="${2:-4}" \
    'BEGIN { n = int(n * s + 0.5); print n < least ? least : n }'
}
steps() { scaled "$1" 4 "$step_scale"; }
say() { printf '== %s %s\n' "$(date +%H:%M:%S)" "$*"; }
if [ -n "$dry_run" ]; then
  echo "${chains[*]}: $jobs processes at a time"
  echo "steps of $rows rows: transfer $(steps 800), word problems $(steps 300)," \
    "infilling $(steps 500)"
  echo "rows of training data: text $(scaled 60000 2000 "$data_scale")," \
    "word problems $(scaled 16000 500 "$data_scale"), infilling $(scaled 20000 500 "$data_scale")"
  exit
fi
made_with=$(cat "$work/scale" 2> /dev/null || echo "$scale")
[ "$made_with" = "$scale" ] \
  || refuse "$work holds runs with --scale $made_with; name another folder in WORK"
if [ -n "$gpu" ]; then
  CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
  export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    || refuse "--gpu: torch sees no CUDA GPU; without --gpu, budget_1 runs on the CPU"
fi
mkdir -p "$work/logs" "$results"
echo "$scale" > "$work/scale"

# beside NAME COMMAND: runs it; for budget_SEED in the background, $jobs at a time, each with a log.
# together: waits for all of them. After a failure nothing more is begun.
begun=0 broken=''
beside() {
  local name=$1 log=$work/logs/${1//\//_}.log
  shift
  [ -n "$budget" ] || { "$@"; return; }
  if [ "$begun" -ge "$jobs" ]; then wait -n || broken=yes; begun=$((begun - 1)); fi
  [ -z "$broken" ] || together
  {
    SECONDS=0
    ("$@") > "$log" 2>&1 &                           # not inside `if`: there, set -e would not hold
    wait $! || { say "$name failed, see $log: $(tail -n 1 "$log")"; exit 1; }
    say "$name took $SECONDS s"
  } &
  begun=$((begun + 1))
}
together() {
  while [ "$begun" -gt 0 ]; do wait -n || broken=yes; begun=$((begun - 1)); done
  [ -z "$broken" ] || exit 1
}

make_data() {  # kind file split n flags...
  local kind=$1 file=$work/$2.jsonl split=$3 n=$4; shift 4
  [ -f "$file" ] || "$PYTHON" scripts/builtin_data.py "$kind" --split "$split" --n "$n" --seed 7 \
    --output "$file" "$@"
}
text_data() {  # file split n
  make_data text "$1" "$2" "$3" --weights 0.25 0.05 0.05 0.15 0.05 0.45
  "$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/$1.jsonl" --prompt_field prompt \
    --tokenizer $base --max_length 128 --output_dir "$work/$1"
}
math_data() {  # file n
  make_data math math_test test "$(scaled 200 8 "$item_scale")"
  make_data math "$1" train "$2"
  "$PYTHON" preprocess_math.py --data_path "$work/$1.jsonl" --tokenizer $base \
    --max_length 128 --output_dir "$work/math"
}
code_data() {  # file n
  make_data code_infill code_test test "$(scaled 200 8 "$item_scale")"
  make_data code "$1" train "$2"
  "$PYTHON" preprocess_code_infilling.py --data_path "$work/$1.jsonl" --tokenizer $base \
    --max_length 136 --output_dir "$work/code"
}
shared_data() {
  beside text text_data text train "$(scaled 60000 2000 "$data_scale")"
  beside math math_data math_train "$(scaled 16000 500 "$data_scale")"
  beside code code_data code_train "$(scaled 20000 500 "$data_scale")"
  beside text_test text_data text_test test "$(scaled 1200 40 "$item_scale")"
  together
  [ -f "$work/random/config.json" ] || "$PYTHON" scripts/new_base.py random --tokenizer $base \
    --output_dir "$work/random" --d_model 128 --n_layers 5 --n_heads 4 --mlp_hidden_size 352 \
    --max_sequence_length 512 --init_std 0.06
}

# Flags of every training run; a matched pair differs only in --variable_length and its flags.
# Everything is in fp32, on a GPU too, so that budgets are compared and not precisions.
exact=(--dtype float32)
settings=(--bf16 false --learning_rate 2e-3 --adam_beta2 0.98 --loss_constant 32 --logging_steps 25
  --save_steps 200 --save_total_limit 1
  --resume_from_checkpoint auto --per_device_train_batch_size "$rows" --sft_max_length 136)
flexmdm=(--variable_length --time_epsilon 0.02)
llada=(--mask_ratio_epsilon 0.02)
transfer() {  # folder steps flags...
  local folder=$1 steps=$2; shift 2
  say "$folder: text, $steps steps"
  beside "$folder" "$PYTHON" flexmdm_transfer_openwebtext.py --max_steps "$steps" \
    --output_dir "$work/$folder" --lr_scheduler_type constant_with_warmup "${settings[@]}" "$@"
}
tune() {  # folder task steps flags...
  local folder=$1 task=$2 steps=$3; shift 3
  say "$folder: tuning on $task, $steps steps"
  beside "$folder" "$PYTHON" instruction_finetuning.py --task "$task" --max_steps "$steps" \
    --output_dir "$work/$folder" "${settings[@]}" "$@"
}
# script run eval_data flags...: NLL bound and held-out loss by quarter of time,
# RUN/bound.log
bound() {
  local script=$1 run=$2 rows=$3; shift 3
  [ ! -f "$run/bound.log" ] || return 0
  "$PYTHON" "$script" --evaluate_only "${settings[@]}" --eval_data "$rows" --eval_draws 2 \
    --per_device_eval_batch_size 64 "$@" --init_from "$run/final" > "$run/bound.tmp"
  mv "$run/bound.tmp" "$run/bound.log"
}
math() {  # folder checkpoint problems flags...
  local folder=$1 checkpoint=$2 problems=$3; shift 3
  say "$folder: $problems"
  beside "$folder" "$PYTHON" eval_gsm8k.py --checkpoint_path "$work/$checkpoint/final" \
    --data_path "$problems" --batch_size $batch "${exact[@]}" --output_dir "$work/$folder" "$@"
}
infill() {  # folder checkpoint items flags...
  local folder=$1 checkpoint=$2 items=$3; shift 3
  say "$folder: infills of $items"
  beside "$folder" "$PYTHON" eval_humaneval_infill.py --checkpoint_path "$work/$checkpoint/final" \
    --data_path "$items" --batch_size $batch "${exact[@]}" --code_workers 1 \
    --allow_code_execution --output_dir "$work/$folder" "$@"
}
surest=(--unmasking confidence --confidence_method top_prob)
event=(--sampler event_driven "${surest[@]}" --no-use_sliding_window)
fast=("${event[@]}" --bound_inflation 1.25 --confidence_threshold 0.9)
tau=(--sampler tau_leaping "${surest[@]}")
# the paper's window, wider than most gaps here; then the first 8 masks, as in LLaDA's blocks of 8
window=(--use_sliding_window --alpha 15 --max_window 32)
narrow=(--use_sliding_window --alpha 8 --max_window 8)
# made of what no training text holds (scripts/builtin_data.py --split test)
unseen=$work/text_test/train
fixed=(--remasking low_confidence)

train_both() {  # seed folder: FlexMDM by transfer, LLaDA continued, each tuned on both tasks
  local s=$2 math code
  settings+=(--seed "$1")
  math=$(steps 300) code=$(steps 500)
  transfer "$s/transfer" "$(steps 800)" "${flexmdm[@]}" --train_data "$work/text" \
    --model_name_or_path $base --insertion_schedule power:5 --all_parameters
  transfer "$s/continued" "$(steps 800)" "${llada[@]}" --train_data "$work/text" \
    --model_name_or_path $base --all_parameters
  together
  tune "$s/flexmdm_math" math "$math" --train_data "$work/math" --variable_length \
    --init_from "$work/$s/transfer/final" --all_parameters
  tune "$s/llada_math" math "$math" --train_data "$work/math" "${llada[@]}" \
    --init_from "$work/$s/continued/final" --all_parameters
  tune "$s/flexmdm_code" code "$code" --train_data "$work/code" --variable_length \
    --init_from "$work/$s/transfer/final" --all_parameters
  tune "$s/llada_code" code "$code" --train_data "$work/code" "${llada[@]}" \
    --init_from "$work/$s/continued/final" --all_parameters
  together
}

matched_pair() {  # folder of the models: at equal evaluations, without a left-to-right prior
  local s=$1 problems=$work/math_test.jsonl items=$work/code_test.jsonl
  math "$s/results/math_flexmdm_tau40" "$s/flexmdm_math" "$problems" --max_length 136 \
    "${tau[@]}" --diffusion_steps 40 --no-use_sliding_window
  math "$s/results/math_llada_one_block" "$s/llada_math" "$problems" --max_length 136 \
    "${fixed[@]}" --gen_length 40
  infill "$s/results/code_flexmdm_tau32" "$s/flexmdm_code" "$items" --max_length 256 \
    "${tau[@]}" --diffusion_steps 32 --no-use_sliding_window
  infill "$s/results/code_llada_one_block" "$s/llada_code" "$items" --max_length 256 \
    "${fixed[@]}" --gen_length 32
}

comparison() {  # seed
  local s=seed$1 name text items problems=$work/math_test.jsonl
  text=$(steps 800)
  train_both "$1" "$s"
  matched_pair "$s"
  math "$s/results/math_flexmdm_event" "$s/flexmdm_math" "$problems" --max_length 136 "${event[@]}"
  math "$s/results/math_flexmdm_fast" "$s/flexmdm_math" "$problems" --max_length 136 "${fast[@]}"
  math "$s/results/math_flexmdm_tau40_window" "$s/flexmdm_math" "$problems" --max_length 136 \
    "${tau[@]}" --diffusion_steps 40 "${window[@]}"
  math "$s/results/math_flexmdm_tau40_narrow" "$s/flexmdm_math" "$problems" --max_length 136 \
    "${tau[@]}" --diffusion_steps 40 "${narrow[@]}"
  math "$s/results/math_llada_blocks" "$s/llada_math" "$problems" --max_length 136 "${fixed[@]}" \
    --gen_length 40 --block_length 8
  items=$work/code_test.jsonl
  infill "$s/results/code_flexmdm_event" "$s/flexmdm_code" "$items" --max_length 256 "${event[@]}"
  infill "$s/results/code_flexmdm_fast" "$s/flexmdm_code" "$items" --max_length 256 "${fast[@]}"
  infill "$s/results/code_flexmdm_tau32_window" "$s/flexmdm_code" "$items" --max_length 256 \
    "${tau[@]}" --diffusion_steps 32 "${window[@]}"
  infill "$s/results/code_flexmdm_tau32_narrow" "$s/flexmdm_code" "$items" --max_length 256 \
    "${tau[@]}" --diffusion_steps 32 "${narrow[@]}"
  infill "$s/results/code_llada_blocks" "$s/llada_code" "$items" --max_length 256 "${fixed[@]}" \
    --gen_length 32 --block_length 8
  infill "$s/results/code_llada_in_place" "$s/continued" "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill oracle
  transfer "$s/transfer_lora" "$text" "${flexmdm[@]}" --train_data "$work/text" \
    --model_name_or_path $base --insertion_schedule power:5
  transfer "$s/scratch" "$text" "${flexmdm[@]}" --train_data "$work/text" \
    --model_name_or_path "$work/random" --insertion_schedule power:5 --all_parameters
  for name in transfer transfer_lora scratch; do
    bound flexmdm_transfer_openwebtext.py "$work/$s/$name" "$unseen" --variable_length
  done
  bound flexmdm_transfer_openwebtext.py "$work/$s/continued" "$unseen" "${llada[@]}"
}

fit() {  # folder checkpoint task
  say "$1: length distribution"
  [ -f "$work/$1/final/config.json" ] || beside "$1" "$PYTHON" \
    scripts/fit_length_distribution.py --checkpoint_path "$work/$2/final" --task "$3" \
    --train_data "$work/$3" --output_dir "$work/$1/final" --most 256 "${exact[@]}" \
    --examples "$(scaled 16000 96 "$data_scale")" --max_steps "$(scaled 4000 20 "$item_scale")"
}
counting() {  # seed, folder of the models, folder of the rest
  local s=${2:-seed$1} c=${3:-counting$1} k
  local problems=$work/math_count.jsonl items=$work/code_count.jsonl
  local first=(--sampler count_first "${surest[@]}" --no-use_sliding_window)
  train_both "$1" "$s"
  [ -f "$problems" ] || "$PYTHON" scripts/builtin_data.py math --split test \
    --n "$(scaled 400 8 "$item_scale")" --seed 31 --output "$problems"
  [ -f "$items" ] || "$PYTHON" scripts/builtin_data.py code_infill --split test \
    --n "$(scaled 400 8 "$item_scale")" --seed 31 --output "$items"
  fit "$c/flexmdm_math" "$s/flexmdm_math" math
  fit "$c/flexmdm_code" "$s/flexmdm_code" code
  fit "$c/llada_math" "$s/llada_math" math
  fit "$c/llada_code" "$s/continued" code        # in place: no tuning on infilling
  together
  math "$c/results/math_flexmdm_event" "$s/flexmdm_math" "$problems" --max_length 136 "${event[@]}"
  for k in 1 2 3; do
    math "$c/results/math_flexmdm_count$k" "$c/flexmdm_math" "$problems" --max_length 136 \
      "${first[@]}" --length_candidates $k
  done
  math "$c/results/math_flexmdm_count1_by2" "$c/flexmdm_math" "$problems" --max_length 136 \
    "${first[@]}" --events_per_evaluation 2
  math "$c/results/math_llada_blocks" "$s/llada_math" "$problems" --max_length 136 "${fixed[@]}" \
    --gen_length 40 --block_length 8
  math "$c/results/math_llada_counted" "$c/llada_math" "$problems" --max_length 136 \
    "${fixed[@]}" --llada_length counted
  infill "$c/results/code_flexmdm_event" "$s/flexmdm_code" "$items" --max_length 256 "${event[@]}"
  for k in 1 2 3 4 6; do
    infill "$c/results/code_flexmdm_count$k" "$c/flexmdm_code" "$items" --max_length 256 \
      "${first[@]}" --length_candidates $k
  done
  infill "$c/results/code_llada_blocks" "$s/llada_code" "$items" --max_length 256 "${fixed[@]}" \
    --gen_length 32 --block_length 8
  infill "$c/results/code_llada_counted" "$c/llada_code" "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill fixed --llada_length counted
  infill "$c/results/code_llada_in_place" "$s/continued" "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill oracle
}

length_drift() {  # folder checkpoint
  [ ! -f "$work/$1/drift.json" ] || return 0
  beside "$1/drift" "$PYTHON" scripts/length_drift.py --task code --lengths 1-24 \
    --checkpoint_path "$work/$2/final" --train_data "$work/code" \
    --examples "$(scaled 400 8 "$item_scale")" --output "$work/$1/drift.json" "${exact[@]}"
  together
}
rivals() {  # seed, the two folders of counting, folder of the rest
  local s=${2:-seed$1} c=${3:-counting$1} r=${4:-rivals$1}
  local problems=$work/math_count.jsonl items=$work/code_count.jsonl share=(--placed_share 0.5)
  local back=(--corrector_time 0.6 --corrector_rounds 2)
  local guided=(--corrector_time 0.6 --corrector_choice least_confident)
  length_drift "$r" "$s/continued"
  infill "$r/results/code_llada_searched" "$s/continued" "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill fixed --llada_length searched --length_drift "$work/$r/drift.json"
  infill "$r/results/code_flexmdm_count_guided" "$c/flexmdm_code" "$items" --max_length 256 \
    "${event[@]}" --placed_share 1 "${guided[@]}" --corrector_rounds 2
  [ "$1" = 1 ] || return 0  # the others did not pass the screening of seed 1
  infill "$r/results/code_flexmdm_share" "$c/flexmdm_code" "$items" --max_length 256 \
    "${event[@]}" "${share[@]}"
  infill "$r/results/code_flexmdm_corrected" "$s/flexmdm_code" "$items" --max_length 256 \
    "${event[@]}" "${back[@]}"
  infill "$r/results/code_flexmdm_guided" "$s/flexmdm_code" "$items" --max_length 256 \
    "${event[@]}" "${guided[@]}"
  math "$r/results/math_flexmdm_share" "$c/flexmdm_math" "$problems" --max_length 136 \
    "${event[@]}" "${share[@]}"
  math "$r/results/math_flexmdm_corrected" "$s/flexmdm_math" "$problems" --max_length 136 \
    "${event[@]}" "${back[@]}"
}

budget() {  # seed
  local b=budget$1
  counting "$1" "$b" "$b/counting"
  matched_pair "$b"
  rivals "$1" "$b" "$b/counting" "$b/rivals"
  together
}

training() {  # seed
  local c=training$1 name flags task problems=$work/math_count.jsonl items=$work/code_count.jsonl
  local first=(--sampler count_first "${surest[@]}" --no-use_sliding_window)
  settings+=(--seed "$1")
  while read -r name flags; do
    # after seed 1, those that passed the screening
    [ "$1" = 1 ] || [ "$name" = total_cosine ] || continue
    # shellcheck disable=SC2086  # flags are words
    transfer "$c/$name/transfer" "$(steps 800)" "${flexmdm[@]}" --train_data "$work/text" \
      --model_name_or_path $base --all_parameters $flags < /dev/null
    for task in math:300 code:500; do
      tune "$c/$name/${task%:*}" "${task%:*}" "$(steps "${task#*:}")" --variable_length \
        --train_data "$work/${task%:*}" --init_from "$work/$c/$name/transfer/final" \
        --all_parameters < /dev/null
      fit "$c/$name/counting_${task%:*}" "$c/$name/${task%:*}" "${task%:*}" < /dev/null
    done
    math "$c/results/math_${name}_event" "$c/$name/math" "$problems" --max_length 136 \
      "${event[@]}" < /dev/null
    math "$c/results/math_${name}_count1" "$c/$name/counting_math" "$problems" --max_length 136 \
      "${first[@]}" < /dev/null
    infill "$c/results/code_${name}_event" "$c/$name/code" "$items" --max_length 256 \
      "${event[@]}" < /dev/null
    for k in 1 4; do
      infill "$c/results/code_${name}_count$k" "$c/$name/counting_code" "$items" \
        --max_length 256 "${first[@]}" --length_candidates $k < /dev/null
    done
  done << 'END'
power_12 --insertion_schedule power:12
cosine --insertion_schedule power:5 --lr_scheduler_type cosine
power_8 --insertion_schedule power:8
total --insertion_schedule power:5 --length_head total
total_cosine --insertion_schedule power:5 --length_head total --lr_scheduler_type cosine
ema --insertion_schedule power:5 --ema_decay 0.99
power_3 --insertion_schedule power:3
END
  # the control: LLaDA with the same learning rate
  transfer "$c/llada_cosine/continued" "$(steps 800)" "${llada[@]}" --train_data "$work/text" \
    --model_name_or_path $base --all_parameters --lr_scheduler_type cosine
  tune "$c/llada_cosine/math" math "$(steps 300)" --train_data "$work/math" "${llada[@]}" \
    --init_from "$work/$c/llada_cosine/continued/final" --all_parameters
  fit "$c/llada_cosine/counting_math" "$c/llada_cosine/math" math
  fit "$c/llada_cosine/counting_code" "$c/llada_cosine/continued" code
  math "$c/results/math_llada_cosine_counted" "$c/llada_cosine/counting_math" "$problems" \
    --max_length 136 "${fixed[@]}" --llada_length counted
  infill "$c/results/code_llada_cosine_counted" "$c/llada_cosine/counting_code" "$items" \
    --max_length 256 "${fixed[@]}" --llada_infill fixed --llada_length counted
}

ablations() {  # seed
  local s=ablations$1 steps name flags
  settings+=(--seed "$1")
  steps=$(scaled 250)
  while read -r name flags; do
    # shellcheck disable=SC2086  # flags are words
    transfer "$s/$name" "$steps" --variable_length --all_parameters --train_data "$work/text" \
      --model_name_or_path $base $flags < /dev/null
    bound flexmdm_transfer_openwebtext.py "$work/$s/$name" "$unseen" --variable_length < /dev/null
  done << 'END'
default --insertion_schedule linear
softplus --length_head softplus
time_1 --time_scale 1
padding --attend_to_padding
per_block --adaln_group_size 1
power_3 --insertion_schedule power:3
power_5 --insertion_schedule power:5
geometric --insertion_schedule geometric:10,0.01
END
}

real_code() {
  local r=real_code steps tuning
  steps=$(scaled 1200) tuning=$(scaled 500)
  make_data text stdlib_text train "$(scaled 40000 1000)" --weights 0 0 0 0.1 0.9 0
  make_data stdlib stdlib_train train "$(scaled 6000 300)"
  make_data stdlib_infill stdlib_test test "$(scaled 300 8)"
  "$PYTHON" flexmdm_transfer_preprocess.py --data_path "$work/stdlib_text.jsonl" --tokenizer $base \
    --max_length 160 --output_dir "$work/stdlib_text"
  "$PYTHON" preprocess_code_infilling.py --data_path "$work/stdlib_train.jsonl" --tokenizer $base \
    --max_length 176 --output_dir "$work/stdlib_code"
  settings+=(--seed 1 --sft_max_length 176)
  transfer $r/base "$steps" "${llada[@]}" --train_data "$work/stdlib_text" \
    --model_name_or_path $base --all_parameters
  transfer $r/transfer "$steps" "${flexmdm[@]}" --train_data "$work/stdlib_text" \
    --model_name_or_path "$work/$r/base/final" --insertion_schedule power:5 --all_parameters
  transfer $r/continued "$steps" "${llada[@]}" --train_data "$work/stdlib_text" \
    --init_from "$work/$r/base/final" --all_parameters
  tune $r/flexmdm_code code "$tuning" --train_data "$work/stdlib_code" --variable_length \
    --init_from "$work/$r/transfer/final" --all_parameters
  tune $r/llada_code code "$tuning" --train_data "$work/stdlib_code" "${llada[@]}" \
    --init_from "$work/$r/continued/final" --all_parameters
  local set items
  for set in stdlib humaneval; do
    items=$work/stdlib_test.jsonl
    if [ $set = humaneval ]; then
      items=$data/humaneval/HumanEval-SingleLineInfilling.jsonl.gz
      [ -f "$items" ] || { say "FLEXMDM_DATA has no humaneval/: left out"; continue; }
    fi
    infill "$r/results/${set}_flexmdm" $r/flexmdm_code "$items" --max_length 1024 "${fast[@]}"
    infill "$r/results/${set}_llada" $r/llada_code "$items" --max_length 1024 "${fixed[@]}" \
      --gen_length 32 --block_length 8
    infill "$r/results/${set}_llada_oracle" $r/continued "$items" --max_length 1024 "${fixed[@]}" \
      --llada_infill oracle
    infill "$r/results/${set}_llada_fixed" $r/continued "$items" --max_length 1024 "${fixed[@]}" \
      --llada_infill fixed --gen_length 12
  done
}

lengths() {
  local r=lengths items=$work/length_items.jsonl
  [ -f "$items" ] || "$PYTHON" scripts/length_study.py items --tokenizer $base --longest 40 \
    --each "$(scaled 12 1)" --output "$items"
  infill $r/results/flexmdm seed1/flexmdm_code "$items" --max_length 256 "${event[@]}"
  infill $r/results/llada_oracle seed1/continued "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill oracle
  infill $r/results/llada_fixed_12 seed1/continued "$items" --max_length 256 "${fixed[@]}" \
    --llada_infill fixed --gen_length 12
  infill $r/results/llada_tuned seed1/llada_code "$items" --max_length 256 "${fixed[@]}" \
    --gen_length 40 --block_length 8
  [ -f "$work/$r/free.json" ] || "$PYTHON" scripts/length_study.py free \
    --flexmdm "$work/seed1/transfer/final" --llada "$work/seed1/continued/final" \
    --text "$work/text" --n "$(scaled 400 8)" --output "$work/$r/free.json"
}

gsm8k() {
  local r=gsm8k steps kind
  steps=$(scaled 300)
  settings+=(--seed 1 --sft_max_length 448 --per_device_train_batch_size 16)
  "$PYTHON" preprocess_math.py --data_path "$data/gsm8k/train.jsonl" --tokenizer $base \
    --max_length 448 --output_dir "$work/gsm8k_train"
  head -n "$(scaled 300 16)" "$data/gsm8k/test.jsonl" > "$work/gsm8k_test.jsonl"
  "$PYTHON" preprocess_math.py --data_path "$work/gsm8k_test.jsonl" --tokenizer $base \
    --max_length 448 --output_dir "$work/gsm8k_test"
  tune $r/flexmdm math "$steps" --train_data "$work/gsm8k_train" --variable_length \
    --init_from "$work/seed1/transfer/final" --all_parameters
  bound instruction_finetuning.py "$work/$r/flexmdm" "$work/gsm8k_test" --task math \
    --variable_length
  tune $r/llada math "$steps" --train_data "$work/gsm8k_train" "${llada[@]}" \
    --init_from "$work/seed1/continued/final" --all_parameters
  bound instruction_finetuning.py "$work/$r/llada" "$work/gsm8k_test" --task math "${llada[@]}"
  for kind in flexmdm llada; do
    local flags=("${event[@]}" --bound_inflation 1.25 --events_per_evaluation 4)
    [ $kind = flexmdm ] \
      || flags=("${fixed[@]}" --gen_length 192 --block_length 32 --diffusion_steps 96)
    math "$r/results/$kind" "$r/$kind" "$data/gsm8k/test.jsonl" --subsample "$(scaled 100 8)" \
      --max_length 512 "${flags[@]}"
  done
}

# of the quickstart's own folder, not of this work folder
samplers() { env -u WORK -u OUTPUT bash scripts/sampler_curve.sh; }

failures() { grep ' failed, see ' "$1" >&2 || tail -n 4 "$1" >&2; }  # log
chain() {
  local name=$1
  [ ! -f "$results/$name.json" ] || { say "$results/$name.json is there: $name is done"; return 0; }
  local first=${name%%_[1-9]*} log=$work/$name.log changes
  [ "$first" != gsm8k ] || [ -f "$data/gsm8k/train.jsonl" ] || {
    say "FLEXMDM_DATA has no gsm8k/: gsm8k is left out"
    return 0
  }
  # counting_SEED trains by itself where comparison_SEED is not among the chains
  if [ "$first" = counting ] && [[ " ${chains[*]} " == *" comparison_${name##*_} "* ]]; then
    until [ -f "$results/comparison_${name##*_}.json" ]; do
      [ -f "$work/comparison_${name##*_}.failed" ] && return 1
      sleep 5
    done
  fi
  if [[ $first =~ ^(rivals|training)$ ]] && [ ! -f "$results/counting_${name##*_}.json" ]; then
    echo "reproduce_small.sh: $name needs counting_${name##*_} first" >&2
    return 1
  fi
  if [ "$first" = lengths ] || [ "$first" = gsm8k ]; then
    until [ -f "$results/comparison_1.json" ]; do
      [ -f "$work/comparison_1.failed" ] && return 1
      sleep 5
    done
  fi
  say "$name begins, log: $log"
  rm -f "$work/$name.failed"
  if [ ! -f "$work/$name.commit" ]; then
    changes=$(git diff --quiet HEAD -- '*.py' '*.sh' || echo +changes)
    echo "$(git rev-parse --short HEAD)$changes" > "$work/$name.commit"
  fi
  ("$first" "${name##*_}") > "$log" 2>&1 &          # not inside `if`: there, set -e would not hold
  if wait $!; then
    "$PYTHON" scripts/reproduction.py collect "$name" --work "$work" --results "$results" \
      --scale "$scale"
    say "$name is done"
  else
    touch "$work/$name.failed"
    failures "$log"
    say "$name failed, see $log"
    return 1
  fi
}

# jobs in the background do not hear Ctrl-C themselves
trap 'trap - INT TERM; kill 0; exit 130' INT TERM
say "data"
shared_data > "$work/data.log" 2>&1 &
wait $! || { failures "$work/data.log"; exit 1; }
chains_at_once=$jobs running=0 failed=0
[ -z "$budget" ] || chains_at_once=1
for name in "${chains[@]}"; do
  if [ $running -ge "$chains_at_once" ]; then wait -n || failed=1; running=$((running - 1)); fi
  chain "$name" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do wait -n || failed=1; running=$((running - 1)); done
exit $failed
