r"""Give an existing checkpoint a length distribution: a head for p(n | given), the number of tokens
that follow a prompt or fill a hole. Everything else stays as it is, so what the checkpoint could do
it can do as before; --sampler count_first (FlexMDM) then works, and --llada_length counted (LLaDA).

Laptop:
    python scripts/fit_length_distribution.py --checkpoint_path runs/math/final \
        --task math --train_data data_cache/math --output_dir runs/math_counting
One GPU:
    python scripts/fit_length_distribution.py --checkpoint_path CHECKPOINT --task code \
        --train_data DATA --examples 50000 --output_dir runs/code_counting
The paper code's FlexMDM:
    ... --checkpoint_path FOLDER_WITH_PYTORCH_MODEL_BIN --base_model GSAI-ML/LLaDA-8B-Base
Slurm:
    srun --gpus 1 python scripts/fit_length_distribution.py ...

--train_data is what the checkpoint was tuned on (preprocess_math.py, preprocess_code_infilling.py).
Every row is a prompt and the number of tokens behind it; with --task code a random middle is taken
out of each, as in tuning. As the network is frozen, its last hidden state at the gap is computed
once for --examples of them, and the head is trained on these: minutes on a laptop. A twentieth is
held out; the head that predicts it best is kept. A LLaDA adapter is merged into its base.
Writes --output_dir/{config.json, model.safetensors, tokenizer, fit_log.jsonl}.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, finite_number, require_positive
from common.config_values import LENGTH_DISTRIBUTION
from common.errors import InputError, run
from common.gpu_memory import out_of_memory_advice
from common.progress import add_quiet_flag, command, ending

if TYPE_CHECKING:
    from torch import Tensor

ROWS_PER_STEP = 256  # of the head's optimiser
Example = tuple[list[int], list[int], int]  # prefix, suffix, number of tokens between them


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    add_quiet_flag(parser)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="the checkpoint, of either kind")
    add("--base_model", help="its base, when it does not name one or the base has moved")
    add("--lora_alpha", type=float, help="LoRA alpha, where the checkpoint does not store it")
    add("--task", choices=("math", "code"), required=True, help="how --train_data is read")
    add("--train_data", required=True, help="folder that the preprocessing script wrote")
    add("--output_dir", required=True, help="where the new checkpoint goes")
    add("--most", type=int, default=1024, help="largest number of tokens (default: 1024)")
    add("--examples", type=int, default=16000, help="rows that the head is shown (default: 16000)")
    add("--max_steps", type=int, default=2000, help="steps of the head's optimiser (default: 2000)")
    add("--batch_size", type=int, default=64, help="rows in the network's batch (default: 64)")
    add(
        "--learning_rate",
        type=finite_number,
        default=1e-3,
        help="AdamW's, falling linearly to 0 (default: 1e-3)",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the network")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--seed", type=int, default=42, help="of batches and middles (default: 42)")
    return parser


def examples(rows: Any, task: str, boundary_ids: list[int] | None, seed: int) -> Iterator[Example]:
    """Rows in random order, again and again. boundary_ids: FlexMDM's frame around a middle."""
    import numpy as np

    from data.infills import draw_middle, format_flexmdm_infill

    random = np.random.default_rng(seed)
    while True:
        for number in random.permutation(len(rows)).tolist():
            ids, prompt_length = rows[number]["input_ids"], rows[number]["prompt_length"]
            if task == "math":
                yield list(ids[:prompt_length]), [], len(ids) - prompt_length
                continue
            start, end = draw_middle(len(ids), prompt_length, *random.random(2))
            if boundary_ids is None:
                yield list(ids[:start]), list(ids[end:]), end - start
            else:
                framed, first, _ = format_flexmdm_infill(ids[:start], [], ids[end:], boundary_ids)
                yield framed[:first].tolist(), framed[first:].tolist(), end - start


def hidden_states(
    model: Any, drawn: Iterator[Example], examples: int, batch_size: int
) -> tuple["Tensor", "Tensor"]:
    """What the head is shown of so many examples, (n, d), and the numbers to predict, (n,)."""
    import torch
    from tqdm import tqdm

    from sampling.length_law import missing_log_probs

    shown: list[Any] = []
    keep = lambda _, inputs: shown.append(inputs[0])
    hook = model.length_distribution.norm.register_forward_pre_hook(keep)
    numbers: list[int] = []
    with torch.no_grad(), tqdm(total=examples, desc="hidden states", file=sys.stderr) as bar:
        while len(numbers) < examples:
            count = min(batch_size, examples - len(numbers))
            prefixes, suffixes, missing = zip(*(next(drawn) for _ in range(count)))
            missing_log_probs(model, prefixes, suffixes)
            numbers += missing
            bar.update(count)
    hook.remove()
    return torch.cat(shown), torch.tensor(numbers, device=model.device)


def fit(
    head: Any, hidden: "Tensor", n: "Tensor", max_steps: int, learning_rate: float, log: Any
) -> None:
    """Train the head on hidden states (n, d); a twentieth of them is held out, and the head that
    predicts it best is kept. log: a RowWriter.
    """
    import copy

    import torch
    from tqdm import tqdm

    n = n.clamp(max=head.most)
    held_out = max(1, len(n) // 20)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max_steps)
    best, best_loss = copy.deepcopy(head.state_dict()), float("inf")
    for step in tqdm(range(1, max_steps + 1), desc="fitting", file=sys.stderr):
        rows = torch.randint(held_out, len(n), (ROWS_PER_STEP,)).to(n.device)
        loss = -head(hidden[rows], n[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 and step != max_steps:
            continue
        with torch.no_grad():
            log_p = head.log_probs(hidden[:held_out])  # (held_out, most + 1)
        nats = -log_p.gather(1, n[:held_out, None]).mean().item()
        right = (log_p.argmax(1) == n[:held_out]).float().mean().item()
        log.append(
            {
                "step": step,
                "nats": round(loss.item(), 4),
                "held_out_nats": round(nats, 4),
                "held_out_likeliest_right": round(right, 4),
            }
        )
        if nats < best_loss:
            best, best_loss = copy.deepcopy(head.state_dict()), nats
    head.load_state_dict(best)


@out_of_memory_advice("what helps: a smaller --batch_size, --dtype bfloat16")
def main() -> None:
    """Load, fit, write. Raises InputError."""
    args = make_parser().parse_args()
    require_positive(args, "most", "examples", "max_steps", "batch_size")
    if not LENGTH_DISTRIBUTION[0](args.most):
        raise InputError(f"--most: {args.most} is not {LENGTH_DISTRIBUTION[1]}")
    if args.learning_rate <= 0:
        raise InputError(f"--learning_rate: {args.learning_rate} is not above 0")
    import torch

    from common.files import complete_folder, require_replaceable, resolve_folder
    from common.rows import RowWriter
    from data.infills import infill_boundary_ids
    from data.token_rows import load_rows
    from data.tokenizer import load_tokenizer, reserved_ids
    from llada_utils import load_flexmdm, load_llada, write_checkpoint
    from network.checkpoint_folder import checkpoint_kind
    from network.devices import pick_device, pick_dtype
    from training.rows import check_origin, check_rows

    require_replaceable(args.output_dir, "checkpoint")
    rows = load_rows(args.train_data)["train"]
    given = resolve_folder(args.checkpoint_path, "--checkpoint_path")
    beside: Any = given if (given / "tokenizer.json").exists() else args.base_model
    tokenizer = load_tokenizer(beside or given)
    kind = checkpoint_kind(args.checkpoint_path)
    device = pick_device(args.device)
    where: dict[str, Any] = dict(
        base=args.base_model, dtype=pick_dtype(args.dtype, device), device=device
    )
    if kind == "flexmdm":
        model: Any = load_flexmdm(
            args.checkpoint_path, lora_alpha=args.lora_alpha, merge=False, **where
        )
    else:
        model = load_llada(args.checkpoint_path, **where)
        vars(model).pop("peft_config", None)  # merged
    check_origin(args.train_data, tokenizer, args.task, "--train_data")
    size = getattr(model, "backbone", model).config.embedding_size
    check_rows(rows, size, reserved_ids(tokenizer), 10**9, "--train_data", answers=True)
    torch.manual_seed(args.seed)
    if model.config.length_distribution:
        print("note: the checkpoint's own length distribution is replaced", file=sys.stderr)
    model.add_length_distribution(args.most)
    if kind == "flexmdm":
        model.config.length_distribution_at_start = True
    boundary = infill_boundary_ids(tokenizer) if kind == "flexmdm" else None
    with complete_folder(args.output_dir, "checkpoint") as folder:
        drawn = examples(rows, args.task, boundary, args.seed)
        hidden, n = hidden_states(model, drawn, args.examples, args.batch_size)
        with RowWriter(folder / "fit_log.jsonl") as log:
            fit(model.length_distribution, hidden, n, args.max_steps, args.learning_rate, log)
        card = f"# A length distribution for `{args.checkpoint_path}`\n\nFitted on"
        card += f" `{args.train_data}` with everything else frozen: fit_log.jsonl.\n"
        write_checkpoint(model, folder, tokenizer, card=card)
    infill = ("eval_humaneval_infill.py", "--allow_code_execution")
    script, *flags = infill if args.task == "code" else ("eval_gsm8k.py",)
    counting = ("--sampler", "count_first") if kind == "flexmdm" else ("--llada_length", "counted")
    ending(
        f"{kind} with a length distribution",
        args.output_dir,
        command(script, "--checkpoint_path", args.output_dir, *counting, *flags),
    )


if __name__ == "__main__":
    run(main)
