"""--evaluate_only: the NLL upper bound of a model on held-out rows."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.gpu_memory import out_of_memory_advice
from data.noise_stream import NoiseStream
from data.token_rows import held_out_split, load_rows
from data.tokenizer import reserved_ids
from training.arguments import RunArguments
from training.likelihood_bound import report
from training.memory import HELD_OUT
from training.models import longest_row
from training.process_group import end_process_group
from training.rows import check_rows
from training.trainer import DiffusionTrainer

if TYPE_CHECKING:
    from datasets import Dataset


def held_out_rows(
    args: RunArguments, rows: "dict[str, Dataset] | None", tokenizer: Any
) -> "Dataset":
    """The rows for --evaluate_only: --eval_data (a data folder or text), else the held-out split of
    --train_data. Raises InputError.
    """
    if not args.eval_data:
        assert rows is not None  # then they come from --train_data
        return held_out_split(rows)
    path = Path(args.eval_data)
    if path.is_dir() and (
        (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
    ):
        return held_out_split(load_rows(path, "--eval_data"))
    from datasets import Dataset

    from data.chunking import tokenise_and_cut
    from data.corpora import documents, local_files

    try:
        texts = list(documents(local_files(path), "text", None, None))
    except InputError as error:
        raise InputError(str(error).replace("--data_path", "--eval_data")) from None
    if not texts:
        raise InputError(f"--eval_data: {path} holds no text")
    batch = {name: [document[name] for document in texts] for name in ("text", "prompt_characters")}
    pieces = tokenise_and_cut(batch, range(len(texts)), tokenizer, args.sft_max_length, 0)
    kept = [
        ids for ids, forbidden in zip(pieces["input_ids"], pieces["forbidden"]) if not forbidden
    ]
    if len(kept) < len(pieces["input_ids"]):
        print(
            f"{len(pieces['input_ids']) - len(kept)} of {len(pieces['input_ids'])} rows contain the"
            " mask or padding token: left out"
        )
    if not kept:
        raise InputError(f"--eval_data: {path} holds no text")
    return Dataset.from_dict({"input_ids": kept})


@out_of_memory_advice(HELD_OUT)
def evaluate_only(
    args: RunArguments,
    trainer_cls: type[DiffusionTrainer],
    model: Any,
    tokenizer: Any,
    rows: "Dataset",
    collator: Any,
) -> None:
    """Print the NLL upper bound and the loss by quarter of time of a model on rows (a data set with
    input_ids). Nothing is written.
    """
    check_rows(
        rows,
        getattr(model, "backbone", model).config.embedding_size,
        reserved_ids(tokenizer),
        longest_row(args, model),
        "--eval_data" if args.eval_data else "--train_data",
        hasattr(args, "task"),
    )
    unbounded = args.variable_length and collator.config.insertion_schedule["name"] == "geometric"
    draws = args.eval_draws * len(rows)
    cost = getattr(collator, "expected_cost", None)

    def stream(seed: int, fixed_time: float | None = None) -> NoiseStream:
        return NoiseStream(
            rows, draws, 1, seed, shuffle=False, expected_cost=cost, fixed_time=fixed_time
        )

    main = stream(args.seed + 1)
    ends = None if unbounded else stream(args.seed + 2, collator.LAST_TIME)
    epsilon = collator.config.time_epsilon if args.variable_length else collator.epsilon
    with tempfile.TemporaryDirectory() as args.output_dir:  # the Trainer makes its folder
        trainer = trainer_cls(
            model=model, args=args, data_collator=collator, processing_class=tokenizer
        )
        report(trainer, main, ends, epsilon, args.init_from or args.model_name_or_path)
    end_process_group()
