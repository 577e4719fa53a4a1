r"""opc-sft-stage2 -> infilling rows for fine-tuning, and how an infill is written for each model,
in training and inference alike.

Laptop, local copy (no network):
    python preprocess_code_infilling.py --data_path mbpp_as_opc.jsonl --tokenizer llada_tokenizer
From the hub (118,278 rows):
    python preprocess_code_infilling.py --num_proc 4
Slurm (no GPU needed):
    sbatch --cpus-per-task=8 --mem=32GB \
        --wrap "python preprocess_code_infilling.py --num_proc 8"
Then:
    python instruction_finetuning.py --task code --train_data data_cache/opc_sft ...

A row: `input_ids` = instruction + output tokenised as one text (a newline is put between them where
the instruction ends in none), `prompt_length` = number of instruction tokens; a token that
straddles the border belongs to the output. The trainer draws a fresh middle of the output every
time a row is read (draw_middle) and frames the row:
    FlexMDM   prefix <infill-boundary> MIDDLE <infill-boundary> suffix
    LLaDA     request <prefix>prefix</prefix><suffix>suffix</suffix>MIDDLE
FlexMDM keeps everything but the middle clean; LLaDA's answer is the middle, then end-of-text.
Markers are ordinary text. They, prefix and suffix are tokenised apart from each other, so a prompt
made from text (inference) is framed exactly like a training row whose prefix and suffix have these
tokens.
Both models train on the same rows: those whose longer framing fits --max_length. The others, and
rows without output, are left out, counted in info.json and on the screen. A finished output made
with the same settings is kept; with other settings the script refuses unless --overwrite.
"""

from common.command_line import ArgumentParser, require_positive
from common.errors import run
from data.infills import code_row, infill_boundary_ids, llada_infill_layout

HUB_DATA = "OpenCoder-LLM/opc-sft-stage2"


def make_parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(description=__doc__)
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


def main() -> None:
    """Tokenise the rows, leave out those whose framing is too long, write the data set."""
    args = make_parser().parse_args()
    from data.instruction_rows import read_training_rows, write_instruction_rows
    from data.tokenizer import open_tokenizer

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
