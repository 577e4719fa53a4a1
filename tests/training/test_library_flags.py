"""What transformers' own flags cannot be here is refused in one line that names the flag, before
anything is read or written.

Run: pytest tests/training/test_library_flags.py        (seconds)
"""

import random
import sys

import pytest
from transformers.integrations import integration_utils
from transformers.optimization import SchedulerType

from common.errors import InputError
from training import library_flags
from training.arguments import RunArguments, parse_arguments


def checked(**settings):
    RunArguments(train_data="data", use_cpu=True, **settings).check()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor: these losses"),
        ({"label_names": ["x"]}, "--label_names"),
        ({"prediction_loss_only": True}, "--prediction_loss_only: "),
        ({"batch_eval_metrics": True}, "--batch_eval_metrics: "),
        ({"eval_do_concat_batches": False}, "--eval_do_concat_batches: "),
        ({"remove_unused_columns": True}, "--remove_unused_columns: "),
        ({"use_liger_kernel": True}, "--use_liger_kernel: "),
        ({"accelerator_config": {"split_batches": True}}, "--accelerator_config: split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "--accelerator_config: dispatch"),
        ({"report_to": "tensorbord"}, "--report_to: tensorbord is unknown or not installed"),
        ({"optim_args": "betas"}, "--optim_args: 'betas' is not NAME=VALUE"),
        ({"save_total_limit": -1}, "--save_total_limit: -1 is not at least 0"),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers: -1 is not at least 0"),
        ({"eval_accumulation_steps": 0}, "--eval_accumulation_steps: 0 is not at least 1"),
        ({"lr_scheduler_kwargs": "[1]"}, r"--lr_scheduler_kwargs: \[1\] is no JSON object"),
        (
            {"lr_scheduler_kwargs": {"num_cycle": 5}},
            "--lr_scheduler_kwargs: num_cycle: the schedule cosine takes num_cycles$",
        ),
        (
            {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 5}},
            "--lr_scheduler_kwargs: num_cycles: the schedule constant has no settings$",
        ),
        (
            {"lr_scheduler_kwargs": {"num_cycles": "five"}},
            "--lr_scheduler_kwargs {'num_cycles': 'five'}: the schedule cosine: ",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "--lr_scheduler_kwargs {}: the schedule cosine_with_min_lr: ",
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.1}},
            r"--lr_scheduler_kwargs {'lr_end': 0.1}: the schedule polynomial: lr_end \(0.1\) must",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_the_trainer_cannot_do_is_refused(settings, said):
    with pytest.raises(InputError, match=f"^{said}"):
        checked(**settings)


def test_what_it_can_do_is_taken(monkeypatch):
    monkeypatch.setattr(library_flags, "available_reports", lambda: ["mlflow"])
    checked(report_to="mlflow", optim_args=f"eps={random.random()}, foreach=True")
    checked(lr_scheduler_kwargs={"num_cycles": random.uniform(0.1, 9)}, save_total_limit=0)
    polynomial = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.1}}
    checked(**polynomial, learning_rate=0.2)
    checked(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-5})
    checked(accelerator_config={"non_blocking": True, "even_batches": False})
    needed = {"warmup_stable_decay": {"num_decay_steps": 3}}
    needed |= dict.fromkeys(("cosine_with_min_lr", "cosine_warmup_with_min_lr"), {"min_lr": 0.1})
    for kind in SchedulerType:
        settings = {"lr_scheduler_type": kind.value, "lr_scheduler_kwargs": needed.get(kind.value)}
        checked(eval_strategy="steps", **settings)


def test_a_program_that_all_leaves_out_may_be_named(monkeypatch):
    for program in ("azureml", "mlflow", "flytekit"):
        monkeypatch.setattr(integration_utils, f"is_{program}_available", lambda: True)
    for report in ("azure_ml", "flyte", "mlflow"):
        checked(report_to=report)


@pytest.mark.parametrize("typed", [["--lr_scheduler_kwargs", "{'a': 1}"], ["--fsdp_config={x"]])
def test_a_value_that_is_no_json_is_refused_by_its_flag(typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--train_data", "data", "--use_cpu", *typed])
    flag = typed[0].partition("=")[0]
    with pytest.raises(InputError, match=f"^{flag}: .* is no JSON: "):
        parse_arguments(RunArguments, None)
    monkeypatch.setattr(sys, "argv", [*sys.argv[:4], '--lr_scheduler_kwargs={"num_cycles": 2}'])
    assert parse_arguments(RunArguments, None).lr_scheduler_kwargs == {"num_cycles": 2}
