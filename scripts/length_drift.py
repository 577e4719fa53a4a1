r"""How LLaDA's confidence in a canvas of masks changes with its length alone: the calibration of
--llada_length searched.

Laptop:
    python scripts/length_drift.py --checkpoint_path runs/continued/final --task code \
        --train_data data_cache/code --lengths 1-24 --output drift.json
    python eval_humaneval_infill.py --checkpoint_path runs/continued/final \
        --llada_infill fixed --llada_length searched --length_drift drift.json ...
One GPU, Slurm:
    the same, on the GPU that it finds; srun --gpus 1 python scripts/length_drift.py ...

Holes are cut out of --train_data as in tuning (--task math: the answer behind a prompt). Whatever
was in a hole, a canvas of each length is put there once, and the mean log of the largest
probabilities is averaged over the holes. Writes {length: mean} as JSON; the lengths are those that
the search tries.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, require_positive
from common.errors import InputError, run
from common.gpu_memory import out_of_memory_advice
from common.progress import add_quiet_flag


def lengths_of(text: str) -> list[int]:
    """1-24 or 4,8,16 as a list of lengths. Raises ArgumentTypeError."""
    first, to, last = text.partition("-")
    try:
        found = list(range(int(first), int(last) + 1)) if to else list(map(int, text.split(",")))
    except ValueError:
        found = []
    if not found or min(found) < 1 or len(found) > 10_000:
        raise argparse.ArgumentTypeError(f"{text} is neither FIRST-LAST nor N,N,..., from 1 on")
    return found


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="the LLaDA")
    add("--base_model", help="its base, when it does not name one or the base has moved")
    add("--task", choices=("math", "code"), required=True, help="how --train_data is read")
    add("--train_data", required=True, help="folder that the preprocessing script wrote")
    add("--lengths", type=lengths_of, default="1-32", help="FIRST-LAST or N,N,... (default: 1-32)")
    add("--examples", type=int, default=400, help="holes (default: 400)")
    add("--output", required=True, help="the JSON file")
    add("--batch_size", type=int, default=64, help="rows in the network's batch (default: 64)")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the network")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--seed", type=int, default=42, help="of the holes (default: 42)")
    add_quiet_flag(parser)
    return parser


@out_of_memory_advice("what helps: a smaller --batch_size, --dtype bfloat16")
def main() -> None:
    """Measure and write. Raises InputError."""
    args = make_parser().parse_args()
    require_positive(args, "examples", "batch_size")
    from fit_length_distribution import examples
    from tqdm import tqdm

    from common.files import require_writable, write_json
    from data.token_rows import load_rows
    from data.tokenizer import load_tokenizer, reserved_ids
    from llada_utils import load_llada
    from network.checkpoint_folder import checkpoint_kind
    from network.devices import pick_device, pick_dtype
    from sampling.canvas_search import first_confidence
    from training.rows import check_origin, check_rows

    require_writable(Path(args.output).parent, "--output")
    if checkpoint_kind(args.checkpoint_path) != "llada":
        raise InputError(f"--checkpoint_path: {args.checkpoint_path} is a FlexMDM, not a LLaDA")
    rows = load_rows(args.train_data)["train"]
    device = pick_device(args.device)
    model: Any = load_llada(
        args.checkpoint_path, args.base_model, pick_dtype(args.dtype, device), device
    )
    tokenizer = load_tokenizer(args.checkpoint_path)
    check_origin(args.train_data, tokenizer, args.task, "--train_data")
    check_rows(
        rows,
        model.config.embedding_size,
        reserved_ids(tokenizer),
        10**9,
        "--train_data",
        answers=True,
    )
    drawn = examples(rows, args.task, None, args.seed)
    prefixes, suffixes, _ = zip(*(next(drawn) for _ in range(args.examples)))
    drift = {
        str(number): first_confidence(
            model, prefixes, suffixes, number, len(tokenizer), args.batch_size
        ).mean()
        for number in tqdm(args.lengths, desc="lengths", file=sys.stderr)
    }
    write_json(args.output, drift)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
