"""opc-sft-stage2 -> infilling rows for fine-tuning, and how an infill is written for each model, in
training and inference alike.

Laptop, local copy (no network):     python preprocess_code_infilling.py --data_path mbpp_as_opc.jsonl --tokenizer llada_tokenizer
From the hub (118,278 rows):         python preprocess_code_infilling.py --num_proc 4
Slurm (no GPU needed):               sbatch --cpus-per-task=8 --mem=32GB --wrap "python preprocess_code_infilling.py --num_proc 8"
Then:                                python instruction_finetuning.py --task code --train_data data_cache/opc_sft ...

A row: `input_ids` = instruction + output tokenised as one text (a newline is put between them where
the instruction ends in none), `prompt_length` = number of instruction tokens; a token that
straddles the border belongs to the output. The trainer draws a fresh middle of the output every
time a row is read (draw_middle) and frames the row:
    FlexMDM   prefix <infill-boundary> MIDDLE <infill-boundary> suffix          everything but the middle stays clean
    LLaDA     request <prefix>prefix</prefix><suffix>suffix</suffix>MIDDLE      the middle, then end-of-text, is the answer
Markers are ordinary text. They, prefix and suffix are tokenised apart from each other, so a prompt
made from text (inference) is framed exactly like a training row whose prefix and suffix have these
tokens.
Both models train on the same rows: those whose longer framing fits --max_length. The others, and
rows without output, are left out, counted in info.json and on the screen. A finished output made
with the same settings is kept; with other settings the script refuses unless --overwrite.
"""

import argparse
from typing import NamedTuple

import numpy as np

from common.command_line import require_positive
from common.errors import run

INFILL_BOUNDARY = "<infill-boundary>"
REQUEST = (
    "Write the code that is missing between the prefix and the suffix below. Give the missing code"
    " only.\n"
)
HUB_DATA = "OpenCoder-LLM/opc-sft-stage2"


class LLaDALayout(NamedTuple):
    """Token ids around prefix and suffix in the baseline's infill prompt."""

    before_prefix: list
    between: list
    after_suffix: list


def text_ids(tokenizer, text):
    """Ids of a text, nothing added to it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def infill_boundary_ids(tokenizer):
    """Ids of the boundary marker, the same on both sides of a middle."""
    return text_ids(tokenizer, INFILL_BOUNDARY)


def llada_infill_layout(tokenizer):
    """The parts that frame_llada puts around prefix and suffix."""
    return LLaDALayout(
        *(
            text_ids(tokenizer, text)
            for text in (REQUEST + "<prefix>", "</prefix><suffix>", "</suffix>")
        )
    )


def draw_middle(n, prompt_length, u1, u2):
    """(prefix_end, suffix_start) of a row of n tokens, the middle being
    ids[prefix_end:suffix_start], never empty.

    u1, u2: uniform in [0, 1). prefix_end is uniform in [prompt_length, n - 2), suffix_start in
    (prefix_end, n) (the paper's code).
    With an output of one or two tokens the first range is empty: the middle is then the output's
    first token.
    """
    if not 0 <= prompt_length < n:
        raise ValueError(
            f"a row of {n} tokens with a prompt of {prompt_length} has no output to take a middle"
            " from"
        )
    prefix_end = prompt_length + int(u1 * max(n - 2 - prompt_length, 0))
    return prefix_end, prefix_end + 1 + int(u2 * (n - 1 - prefix_end))


def frame_flexmdm(prefix_ids, middle_ids, suffix_ids, boundary_ids):
    """(ids, start, end): prefix, boundary, middle, boundary, suffix as one int64 array, the middle
    being ids[start:end].
    """
    ids = np.concatenate(
        [prefix_ids, boundary_ids, middle_ids, boundary_ids, suffix_ids],
        dtype=np.int64,
        casting="unsafe",
    )
    start = len(prefix_ids) + len(boundary_ids)
    return ids, start, start + len(middle_ids)


def frame_llada(prefix_ids, middle_ids, suffix_ids, layout):
    """(ids, prompt_length): the baseline's infill prompt and then the middle, as one int64 array."""
    parts = [
        layout.before_prefix,
        prefix_ids,
        layout.between,
        suffix_ids,
        layout.after_suffix,
        middle_ids,
    ]
    ids = np.concatenate(parts, dtype=np.int64, casting="unsafe")
    return ids, len(ids) - len(middle_ids)


def flexmdm_infill_ids(tokenizer, prefix, suffix):
    """(prefix ids ending in the boundary, suffix ids beginning with it), lists, for
    generate_flexmdm_infilling.
    """
    ids, start, end = frame_flexmdm(
        text_ids(tokenizer, prefix), [], text_ids(tokenizer, suffix), infill_boundary_ids(tokenizer)
    )
    return ids[:start].tolist(), ids[end:].tolist()


def llada_infill_prompt(tokenizer, prefix, suffix):
    """Ids, a list, of the baseline's prompt for an infill; the generated tokens are the middle."""
    ids, _ = frame_llada(
        text_ids(tokenizer, prefix), [], text_ids(tokenizer, suffix), llada_infill_layout(tokenizer)
    )
    return ids.tolist()


def code_row(row, tokenizer):
    """joint_row of one row with fields instruction and output."""
    from preprocess_math import joint_row

    instruction = row["instruction"]
    return joint_row(
        tokenizer, instruction if instruction.endswith("\n") else instruction + "\n", row["output"]
    )


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument(
        "--data_path",
        help=(
            "local JSONL or parquet, file or folder, fields instruction and output "
            f"(default: hub {HUB_DATA}, educational_instruct)"
        ),
    )
    parser.add_argument("--output_dir", default="data_cache/opc_sft")
    parser.add_argument(
        "--max_length",
        type=int,
        default=1024,
        help="tokens of a framed row; longer ones are left out (paper: 1024)",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    return parser


def main():
    args = make_parser().parse_args()
    from flexmdm_transfer_preprocess import open_tokenizer
    from preprocess_math import read_training_rows, write_instruction_rows

    require_positive(args, "max_length", "num_proc")
    tokenizer = open_tokenizer(args.tokenizer, args.num_proc)
    rows, sources = read_training_rows(
        args.data_path, (HUB_DATA, "educational_instruct"), ["instruction", "output"]
    )
    overhead = {
        "flexmdm": 2 * len(infill_boundary_ids(tokenizer)),
        "llada": sum(map(len, llada_infill_layout(tokenizer))),
    }
    settings = {
        "script": "preprocess_code_infilling.py",
        "sources": sources,
        "framing_tokens": overhead,
    }
    write_instruction_rows(
        args, rows, code_row, {}, tokenizer, settings, room=args.max_length - max(overhead.values())
    )


if __name__ == "__main__":
    run(main)
