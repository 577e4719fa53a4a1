"""Code instructions -> rows for infilling: `input_ids` (instruction + output, tokenised as one text) and `prompt_length`.

Laptop, local copy    python preprocess_code_infilling.py --data_path mbpp_as_opc.jsonl --tokenizer llada_tokenizer
From the hub          python preprocess_code_infilling.py                 (OpenCoder-LLM/opc-sft-stage2, educational_instruct)
Slurm (no GPU)        sbatch --cpus-per-task=8 --mem=16GB --wrap "python preprocess_code_infilling.py --num_proc 8"
Then                  python instruction_finetuning.py --task code --train_data data_cache/code_infilling ...

The middle is drawn anew every time a row is read, by the collators of flexmdm_trainer.py and llada_trainer.py: prefix_end is uniform in
[prompt_length, n-2), suffix_start uniform in (prefix_end, n) (paper's code). This file also holds the two layouts, for training on
token ids and for inference on text, so that both see the same token sequences:
    FlexMDM   prefix <infill-boundary> middle <infill-boundary> suffix; the boundaries are plain text, only the middle is noised
    LLaDA     an instruction, <prefix>...</prefix><suffix>...</suffix>, then the middle at the end
Prefix and suffix are tokenised apart from the marks, so they are never re-tokenised. Rows that do not fit whole with their frame are
left out and counted.
"""
import argparse

from preprocess_math import joint_row, read_training_rows
from records import InputError, run

INFILL_BOUNDARY = "<infill-boundary>"
LLADA_PARTS = ("Write the code that belongs between the prefix and the suffix.\n<prefix>", "</prefix>\n<suffix>", "</suffix>\n")   # wording ours
HUB_DATA = ("OpenCoder-LLM/opc-sft-stage2", "educational_instruct")


# ---- layouts -------------------------------------------------------------------------------------------------------------

def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def boundary_ids(tokenizer):
    """Token ids of the boundary mark."""
    return encode(tokenizer, INFILL_BOUNDARY)


def llada_layout(tokenizer):
    """Token ids of the three fixed texts of LLaDA's layout: before the prefix, between prefix and suffix, after the suffix."""
    return tuple(encode(tokenizer, part) for part in LLADA_PARTS)


def frame_flexmdm(prefix, middle, suffix, boundary):
    """Ids of prefix, mark, middle, mark, suffix: (ids, first, last), the middle being ids[first:last]."""
    ids = [*prefix, *boundary, *middle, *boundary, *suffix]
    first = len(prefix) + len(boundary)
    return ids, first, first + len(middle)


def frame_llada(prefix, middle, suffix, layout):
    """Ids of instruction, prefix, suffix, then the middle: (ids, number of prompt tokens)."""
    before, between, after = layout
    prompt = [*before, *prefix, *between, *suffix, *after]
    return [*prompt, *middle], len(prompt)


def flexmdm_infill_ids(tokenizer, prefix, suffix):
    """(prefix_ids, suffix_ids) of two texts, each with its boundary mark: what generate_flexmdm_infilling takes."""
    boundary = boundary_ids(tokenizer)
    return encode(tokenizer, prefix) + boundary, boundary + encode(tokenizer, suffix)


def llada_infill_prompt(tokenizer, prefix, suffix):
    """Prompt ids of two texts in LLaDA's layout; the middle is generated after them."""
    return frame_llada(encode(tokenizer, prefix), [], encode(tokenizer, suffix), llada_layout(tokenizer))[0]


def draw_middle(n, prompt_length, u1, u2):
    """(prefix_end, suffix_start) of a row of n tokens from two uniforms in [0, 1) (paper's code).

    prefix_end is uniform in [prompt_length, n-2), suffix_start in (prefix_end, n), so middle and suffix have at least one token. An
    output too short for that range (fewer than three tokens) has prefix_end = prompt_length, and the whole rest may be middle.
    """
    prefix_end = prompt_length + int(u1 * max(1, n - 2 - prompt_length))
    return prefix_end, prefix_end + 1 + int(u2 * max(1, n - 1 - prefix_end))


# ---- command -------------------------------------------------------------------------------------------------------------

def code_row(row, tokenizer):
    """joint_row of instruction, a line break where it has none at its end, and output."""
    instruction = row["instruction"] if row["instruction"].endswith("\n") else row["instruction"] + "\n"
    return joint_row(tokenizer, instruction, row["output"])


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument("--data_path", help=f"local JSONL or parquet, file or folder, fields instruction and output (default: hub {HUB_DATA[0]})")
    parser.add_argument("--output_dir", default="data_cache/code_infilling")
    parser.add_argument("--max_length", type=int, default=1024, help="tokens with the frame; longer rows are left out and counted (paper: 1024)")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that was made with other settings")
    return parser.parse_args()


def main():
    args = parse_args()
    from flexmdm_transfer_preprocess import is_finished, open_tokenizer, tokenizer_hash, write_dataset
    import datasets
    tokenizer = open_tokenizer(args.tokenizer)
    rows, sources = read_training_rows(args.data_path, HUB_DATA, ["instruction", "output"])
    settings = {"script": "preprocess_code_infilling.py", "sources": sources, "tokenizer": args.tokenizer,
                "tokenizer_hash": tokenizer_hash(tokenizer), "max_length": args.max_length, "rows_read": len(rows)}
    if is_finished(args.output_dir, settings, args.overwrite):
        return
    made = rows.map(code_row, fn_kwargs={"tokenizer": tokenizer}, remove_columns=rows.column_names, num_proc=args.num_proc, desc="tokenising")
    frame = max(2 * len(boundary_ids(tokenizer)), sum(map(len, llada_layout(tokenizer))))      # so that both models tune on the same rows
    lengths = [len(ids) for ids in made["input_ids"]]
    too_long = [length + frame > args.max_length for length in lengths]
    no_middle = [length <= prompt for length, prompt in zip(lengths, made["prompt_length"])]
    kept = made.select([index for index in range(len(made)) if not too_long[index] and not no_middle[index]])
    if not len(kept):
        raise InputError(f"--max_length: no row fits into {args.max_length} tokens (the frame takes {frame} of them, the shortest row has {min(lengths)})")
    info = {"settings": settings, "rows": len(kept), "frame_tokens": frame, "too_long_with_frame": sum(too_long), "empty_output": sum(no_middle),
            "longest_row_read": max(lengths), "border_token_straddles": sum(kept["straddles"]), "tokens": sum(map(len, kept["input_ids"]))}
    write_dataset(datasets.DatasetDict({"train": kept.remove_columns("straddles")}), args.output_dir, info, args.overwrite)


if __name__ == "__main__":
    run(main)
