"""Flags of transformers' TrainingArguments that these scripts cannot do, or whose values it would
answer with a traceback once a run's folder is begun: refused before anything is written.
"""

import inspect
from typing import Any, TypeAlias

from common.errors import InputError

Arguments: TypeAlias = Any  # RunArguments, whose module imports this one
# (flag, its only value here, why)
FIXED: tuple[tuple[str, Any, str], ...] = (
    ("label_smoothing_factor", 0.0, "these losses have no such term"),
    ("neftune_noise_alpha", None, "these losses have no such term"),
    ("label_names", None, "a row's loss needs no labels"),
    ("prediction_loss_only", False, "an evaluation is the loss by time"),
    ("batch_eval_metrics", False, "an evaluation needs all rows at once"),
    ("eval_do_concat_batches", True, "an evaluation needs all rows at once"),
    ("remove_unused_columns", False, "the collator needs every column"),
    ("use_liger_kernel", False, "its kernels are for other networks"),
)
# what the Trainer itself passes to a schedule of the learning rate
OF_A_RUN = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")


def refuse_library_flags(args: Arguments) -> None:
    """Refuse what the flags of transformers cannot be here. Raises InputError naming the flag."""
    for flag, value, why in FIXED:
        if getattr(args, flag) not in (value, None):
            raise InputError(f"--{flag}: {why}; leave it out")
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name):
            raise InputError(
                f"--accelerator_config: {name} would change which rows a process gets; leave it out"
            )
    known = set(available_reports())
    for report in args.report_to:
        if report not in known:
            raise InputError(
                f"--report_to: {report} is unknown or not installed; here there is"
                f" {', '.join(sorted(known)) or 'none'}"
            )
    for part in args.optim_args.split(",") if args.optim_args else ():
        if part.count("=") != 1:
            raise InputError(f"--optim_args: {part!r} is not NAME=VALUE")
    check_schedule(args)


def available_reports() -> list[str]:
    """The names that --report_to may have: those of the programs that are installed."""
    from transformers.integrations import integration_utils

    listed = integration_utils.get_available_reporting_integrations()
    # its list, made for `all`, lacks flyte, and azure_ml beside mlflow
    others = {
        "flyte": integration_utils.is_flytekit_available,
        "azure_ml": integration_utils.is_azureml_available,
    }
    return sorted({*listed, *(name for name, there in others.items() if there())})


def check_schedule(args: Arguments) -> None:
    """Refuse --lr_scheduler_kwargs that the schedule does not take, or lacks. Raises InputError."""
    import torch
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

    given, kind = args.lr_scheduler_kwargs or {}, args.lr_scheduler_type
    if not isinstance(given, dict):
        raise InputError(f"--lr_scheduler_kwargs: {given} is no JSON object")
    schedule: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
    parameters = inspect.signature(schedule).parameters
    if "kwargs" in parameters:  # it takes whatever torch's own class takes
        return
    name = getattr(kind, "value", kind)
    takes = [each for each in parameters if each not in OF_A_RUN]
    for setting in given:
        if setting not in takes:
            words = f"takes {', '.join(takes)}" if takes else "has no settings"
            raise InputError(f"--lr_scheduler_kwargs: {setting}: the schedule {name} {words}")
    weight = torch.zeros(1, device="cpu", requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=args.learning_rate)  # some compare it with their end
    try:
        get_scheduler(kind, optimizer, 0, 10**9, dict(given))
    except Exception as error:  # whatever a schedule says of a value, or of one that is not there
        raise InputError(f"--lr_scheduler_kwargs {given}: the schedule {name}: {error}") from None
