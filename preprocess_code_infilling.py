r"""Turn opc-sft-stage2 into infilling rows for fine-tuning. Also documents the infill format of
each model, the same in training and inference.

Laptop, local copy (offline):
    python preprocess_code_infilling.py --data_path mbpp_as_opc.jsonl --tokenizer llada_tokenizer
From the Hub (118,278 rows):
    python preprocess_code_infilling.py --num_proc 4
Slurm (no GPU needed):
    sbatch --cpus-per-task=8 --mem=32GB \
        --wrap "python preprocess_code_infilling.py --num_proc 8"
Then:
    python instruction_finetuning.py --task code --train_data data_cache/opc_sft ...

A row: `input_ids` = instruction + output tokenised as one text (with a newline between them if the
instruction does not end in one), `prompt_length` = number of instruction tokens; a token that
straddles the boundary belongs to the output. The trainer draws a new middle span of the output each
time a row is read (draw_middle) and formats the row:
    FlexMDM   prefix <infill-boundary> MIDDLE <infill-boundary> suffix
    LLaDA     request <prefix>prefix</prefix><suffix>suffix</suffix>MIDDLE
For FlexMDM everything but the middle stays clean; LLaDA's answer is the middle, then end-of-text.
The markers are ordinary text. Markers, prefix and suffix are tokenised separately, so a prompt made
from text (inference) has exactly the format of a training row whose prefix and suffix have the same
tokens.
Both models train on the same rows: those that fit --max_length in both formats. The others, and
rows without output, are dropped and counted in info.json and in the output. Finished output made
with the same settings is kept; output made with other settings is replaced only with --overwrite.
"""

from common.command_line import ArgumentParser, require_positive
from common.errors import run
from common.progress import add_quiet_flag
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
        help="tokens of a formatted row; longer rows are dropped (paper: 1024)",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    add_quiet_flag(parser)
    return parser


def main() -> None:
    """Tokenise the rows, drop those that are too long when formatted, write the data set."""
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
        args,
        rows,
        code_row,
        {},
        tokenizer,
        settings,
        room=args.max_length - max(overhead.values()),
        task="code",
    )


if __name__ == "__main__":
    run(main)
