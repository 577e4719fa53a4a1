r"""Two studies of lengths that the evaluation scripts do not cover.

    python scripts/length_study.py items --tokenizer LLaDA-tiny-Base --longest 40 --each 12 \
        --output items.jsonl
            infills of generated test functions whose middle has exactly 0, 1, ... 40 tokens, in
            HumanEval-infilling's fields (above 38 tokens the middle begins with the function's
            name, because nothing else is that long)
    python scripts/length_study.py free --flexmdm CHECKPOINT --llada CHECKPOINT --text FOLDER \
        --n 400 --output free.json
            lengths of unconditional samples, against those of the text that the models were trained
            on (rows without a prompt)
Both run on one CPU core in a minute or two, or on a GPU; under Slurm:
    srun --gpus 1 python scripts/length_study.py ...
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.command_line import ArgumentParser, require_positive
from common.errors import InputError, run
from common.files import write_json
from common.gpu_memory import out_of_memory_advice
from common.rows import write_rows
from data.functions import PIECES, draw_code, infill_row
from data.tokenizer import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES = 6000  # functions looked at for the items of one length
# tokens behind "def name(" in the longest function, with the tiny base's tokenizer
LONGEST_BODY = 38


def holes(body: str, count: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """[(start, end)] in characters: every run of whole pieces of body that has `count` tokens.
    lengths: tokens of each piece.
    """
    ends = [match.end() for match in PIECES.finditer(body)]
    starts = [0, *ends[:-1]]
    if count == 0:
        return [(start, start) for start in starts[1:]]
    found = []
    for first in range(len(starts)):
        total = 0
        for last in range(first, len(starts)):
            total += lengths[last]
            if total == count:
                found.append((starts[first], ends[last]))
            if total >= count:
                break
    return found


def length_items(
    tokenizer: PreTrainedTokenizerBase, longest: int, each: int, seed: int = 0
) -> list[dict[str, Any]]:
    """`each` items for every middle length 0 ... longest. Raises InputError where functions are too
    short for a length.
    """
    rng = random.Random(f"length items {seed}")
    functions = draw_code(rng, "test")
    rows: list[dict[str, Any]] = []

    def tokens(text):
        return len(text_ids(tokenizer, text)) if text else 0

    for count in range(longest + 1):
        made = 0
        seen: set[tuple[str, int]] = set()
        for _ in range(TRIES):
            item = next(functions)
            # behind "def name(", and only where that is too short behind "def "
            for border in ("(", " "):
                head, body = item["code"].split(border, 1)
                if tokens(body) >= count:
                    break
            found = holes(body, count, [tokens(match.group()) for match in PIECES.finditer(body)])
            if not found or (border == " " and count <= LONGEST_BODY):
                continue
            start, end = rng.choice(found)
            middle = body[start:end]
            # pieces joined may tokenise otherwise
            if tokens(middle) != count or (item["text"], start) in seen:
                continue
            seen.add((item["text"], start))
            rows.append(
                infill_row(
                    item,
                    f"Length/{count}/{made}",
                    f"{item['instruction']}{head}{border}{body[:start]}",
                    middle,
                    body[end:],
                )
            )
            made += 1
            if made == each:
                break
        else:
            raise InputError(
                f"--longest: only {made} of {each} items with a middle of {count} tokens were found"
            )
    return rows


def free_lengths(args: argparse.Namespace) -> dict[str, Any]:
    """{"text", "flexmdm", "llada": lengths in tokens} of rows without a prompt and of texts from
    nothing, temperature 1; "canvas": LLaDA's masks. Raises InputError where every row has a prompt.
    """
    import torch

    from data.token_rows import load_rows
    from llada_utils import load_flexmdm, load_llada
    from network.devices import pick_device
    from sampling.flexmdm import generate_flexmdm
    from sampling.llada import generate_mdm

    rows = load_rows(args.text, "--text")["train"]
    rows = (
        rows.filter(lambda prompt: prompt == 0, input_columns="prompt_length")
        if "prompt_length" in rows.column_names
        else rows
    )
    if not len(rows):
        raise InputError(f"--text: {args.text} has no row without a prompt")
    rows = rows.shuffle(seed=0).select(range(min(len(rows), 10 * args.n)))
    lengths = {"text": [len(ids) for ids in rows["input_ids"]]}
    device, seeds = pick_device("auto"), torch.arange(args.n)
    flexmdm = load_flexmdm(args.flexmdm, device=device)
    llada = load_llada(args.llada, device=device)
    ids: dict[str, Any] = {
        "mask_id": flexmdm.config.mask_token_id,
        "pad_id": flexmdm.config.pad_token_id,
    }
    result = generate_flexmdm(
        flexmdm,
        batch_size=args.n,
        sampler="event_driven",
        temperature=1.0,
        seeds=seeds,
        rows_at_once=50,
        **ids,
    )
    lengths["flexmdm"] = result.lengths.tolist()
    canvas = max(lengths["text"])
    empty = torch.zeros((args.n, 0), dtype=torch.long)
    result = generate_mdm(
        llada,
        empty,
        steps=None,
        gen_length=canvas,
        block_length=None,
        temperature=1.0,
        cfg_scale=0.0,
        remasking="random",
        seeds=seeds,
        rows_at_once=50,
        **ids,
    )
    pad = ids["pad_id"]
    lengths["llada"] = [
        next((place for place, token in enumerate(row) if token == pad), len(row))
        for row in result.sequences.tolist()
    ]
    return {"canvas": canvas, **lengths}


def make_parser() -> ArgumentParser:
    """The commands and their flags."""
    parser = ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", help="items or free")
    items, free = kinds.add_parser("items"), kinds.add_parser("free")
    items.add_argument(
        "--tokenizer", required=True, help="folder or hub id: lengths are counted in its tokens"
    )
    items.add_argument(
        "--longest", type=int, default=40, help="tokens of the longest middle (default: 40)"
    )
    items.add_argument("--each", type=int, default=12, help="items of each length (default: 12)")
    free.add_argument(
        "--flexmdm", required=True, metavar="CHECKPOINT", help="a transferred FlexMDM"
    )
    free.add_argument(
        "--llada", required=True, metavar="CHECKPOINT", help="the LLaDA trained on the same text"
    )
    free.add_argument(
        "--text",
        required=True,
        metavar="FOLDER",
        help="that text, as flexmdm_transfer_preprocess.py wrote it",
    )
    free.add_argument("--n", type=int, default=400, help="texts to write (default: 400)")
    for command in (items, free):
        command.add_argument("--output", required=True, metavar="FILE", help="file to write")
    return parser


@out_of_memory_advice("what helps: a larger GPU, or the CPU (CUDA_VISIBLE_DEVICES= in front)")
def main() -> None:
    """Write what the command asks for."""
    args = make_parser().parse_args()
    if args.kind == "items":
        require_positive(args, "longest", "each")
        from data.tokenizer import load_tokenizer

        rows = length_items(load_tokenizer(args.tokenizer), args.longest, args.each)
        write_rows(args.output, rows)
        print(f"{args.output}: {len(rows)} items")
    else:
        require_positive(args, "n")
        write_json(args.output, free_lengths(args))
        print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
