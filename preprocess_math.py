r"""Turn GSM8K into instruction rows for fine-tuning: `input_ids` (prompt + answer, tokenised as one
text) and `prompt_length`.

Laptop, local copy (7,473 rows; offline):
    python preprocess_math.py --data_path gsm8k/train.jsonl --tokenizer llada_tokenizer
From the Hub, LLaDA's tokenizer:
    python preprocess_math.py
Slurm (no GPU needed):
    sbatch --cpus-per-task=8 --mem=16GB --wrap "python preprocess_math.py --num_proc 8"
Then:
    python instruction_finetuning.py --task math --train_data data_cache/gsm8k ...

A row as text (layout of the paper's code; the wording of the system text is ours):
    prompt   chat template of one user turn (system text, blank line, question) + assistant header
             + `<reasoning>`
    answer   rationale + `</reasoning>` newline `<answer>\boxed{A}</answer>`, A = what follows
             `####`, stripped
Nothing follows the answer: the LLaDA trainer itself fills rows with end-of-text, FlexMDM learns the
length from the row's end. `prompt_length` counts the tokens that end inside the prompt; a token
that straddles the boundary belongs to the answer. Rows longer than --max_length are dropped and
counted in info.json and in the output. Finished output made with the same settings is kept; output
made with other settings is replaced only with --overwrite.
"""

from common.command_line import ArgumentParser, require_positive
from common.errors import InputError, run
from common.progress import add_quiet_flag
from data.instruction_rows import read_training_rows, write_instruction_rows
from data.math_prompts import math_row

HUB_DATA = "openai/gsm8k"


def make_parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="GSAI-ML/LLaDA-8B-Base", help="folder or hub id")
    parser.add_argument(
        "--data_path",
        help=(
            "local JSONL or parquet, file or folder, fields question and answer (default: hub"
            f" {HUB_DATA})"
        ),
    )
    parser.add_argument("--output_dir", default="data_cache/gsm8k")
    parser.add_argument(
        "--max_length",
        type=int,
        default=1024,
        help="in tokens; longer rows are dropped and counted (paper: 1024)",
    )
    parser.add_argument("--num_proc", type=int, default=1, help="processes that tokenise")
    parser.add_argument(
        "--strip_annotations",
        action="store_true",
        help="remove calculator annotations such as <<48/2=24>>",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    add_quiet_flag(parser)
    return parser


def main() -> None:
    """Check every row's answer, tokenise the rows, write the data set."""
    args = make_parser().parse_args()
    from data.tokenizer import open_tokenizer

    require_positive(args, "max_length", "num_proc")
    tokenizer = open_tokenizer(args.tokenizer, args.num_proc)
    rows, sources = read_training_rows(args.data_path, (HUB_DATA, "main"), ["question", "answer"])
    for number, answer in enumerate(rows["answer"], 1):
        if not answer.rpartition("####")[1]:
            raise InputError(
                f"--data_path: the answer of row {number} has no '####' before its final result"
            )
        if not answer.rpartition("####")[2].strip():
            raise InputError(
                f"--data_path: the answer of row {number} has nothing after its '####'; the model"
                " would be trained on an empty box"
            )
    settings = {
        "script": "preprocess_math.py",
        "sources": sources,
        "strip_annotations": args.strip_annotations,
    }
    options = {"strip_annotations": args.strip_annotations}
    write_instruction_rows(
        args, rows, math_row, options, tokenizer, settings, room=args.max_length, task="math"
    )


if __name__ == "__main__":
    run(main)
