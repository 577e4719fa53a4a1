"""How much GPU memory a training run needs, whether it can fit, and what helps if it does not."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.gpu_memory import gib, require_room

if TYPE_CHECKING:
    from training.arguments import RunArguments

HELD_OUT = "what helps: a smaller --per_device_eval_batch_size"


def always_held(args: "RunArguments", model: Any) -> dict[str, float]:
    """{"weights", "optimizer": bytes} that a run holds on a GPU at all times, at least."""
    from training.estimate import bytes_a_gpu, elements, strategy_of

    frozen, trained = elements(model)
    if args.evaluate_only:
        return {"weights": 2 * frozen + 4 * trained}
    held = frozen / 4 if args.load_in_4bit else frozen
    parts = bytes_a_gpu(held, trained, args.world_size, 0)[strategy_of(args)]
    zero = args.deepspeed and args.hf_deepspeed_config.config.get("zero_optimization", {})
    moments = str(getattr(args.optim, "value", args.optim)).startswith("adamw_torch")
    kept = moments and not (zero and "offload_optimizer" in zero)
    return {"weights": parts["weights"], "optimizer": parts["optimizer"] if kept else 0}


def require_room_for_training(args: "RunArguments", folder: Path) -> None:
    """Refuse, before its weights are read, a model that cannot be trained on this process's GPU.
    folder: of the checkpoint or base to start from. Raises InputError.
    """

    def parts():
        from training.estimate import meta_model

        try:
            model = meta_model(args, folder)
        except InputError:  # errors in the folder are reported when it is read
            return {}
        return always_held(args, model)

    require_room(args.device, parts, lambda: f"what helps: {', '.join(smaller_weights(args))}")


def smaller_weights(args: "RunArguments") -> list[str]:
    """Options that reduce weights and optimizer per GPU and are not in use yet."""
    helps = ["LoRA instead of --all_parameters"] if args.all_parameters else []
    if args.engine == "whole":
        helps.append("--fully_shard or --deepspeed scripts/ds_zero3.json on several GPUs")
    elif args.engine == "zero-3":
        helps.append("--deepspeed scripts/ds_zero3_offload.json, more GPUs")
    else:
        helps.append("--deepspeed scripts/ds_zero3.json, more GPUs")
    return helps


def training_advice(args: "RunArguments", trainer_cls: Any, model: Any, *rest: Any) -> str:
    """What an out-of-memory run needs, by --dry_run's estimate, and what helps."""
    from training.estimate import most_tokens, run_bytes, strategy_of

    helps, most = [], most_tokens(args)
    if not (args.gradient_checkpointing or args.activation_checkpointing):
        helps.append("--gradient_checkpointing")
    if most > args.sft_max_length + args.variable_length:  # more than one row
        helps.append(
            f"a smaller --per_device_train_batch_size than {args.per_device_train_batch_size} "
            "with more --gradient_accumulation_steps"
            if args.tokens_per_batch is None
            else f"a smaller --tokens_per_batch than {most}"
        )
    helps += [*smaller_weights(args), "a shorter --sft_max_length"]
    strategy = strategy_of(args)
    need = run_bytes(args, model, args.world_size)[strategy]
    return (
        f"--dry_run's estimate per GPU, {strategy}: {gib(need)}; what helps: {', '.join(helps)}. "
        "--resume_from_checkpoint auto resumes from the newest checkpoint"
    )
