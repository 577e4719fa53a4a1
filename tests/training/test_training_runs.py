"""Training runs from start to end: every script and kind, resuming bit for bit, refusals, and the
loss whatever the batch is dealt as.

Run: pytest tests/training/test_training_runs.py
All networks and data are made here; two processes for some.
"""

import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from safetensors.torch import save_file
from training_helpers import (
    SCRIPTS,
    assert_same_weights,
    log_of,
    make_base,
    run_flags,
    run_here,
    run_together,
    weights,
    write_data,
)

from common.errors import InputError
from data.noise_stream import NoiseStream, balance_micro_batches
from flexmdm_trainer import FlexMDMCollator, FlexMDMTrainer
from llada_utils import load_flexmdm, load_llada, write_checkpoint
from network.checkpoint_folder import checkpoint_hash, checkpoint_kind, named_base
from training.checkpoints import trained_pairs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(base, data) that all tests read."""
    folder = tmp_path_factory.mktemp("made")
    return make_base(folder / "base"), write_data(folder / "data")


@pytest.fixture(autouse=True)
def signals():
    """A run installs its own handlers."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


KINDS = {
    "flexmdm": ("transfer", {"variable_length": True}),
    "flexmdm, all parameters": (
        "transfer",
        {"variable_length": True, "all_parameters": True, "length_head": "softplus"},
    ),
    "flexmdm as the paper's code": (
        "transfer",
        {
            "variable_length": True,
            "length_head": "softplus",
            "time_scale": 1,
            "attend_to_padding": True,
            "insertion_schedule": "geometric:10,0.01",
        },
    ),
    "flexmdm with a total and a distribution": (
        "transfer",
        {"variable_length": True, "length_head": "total", "length_distribution": 40},
    ),
    "llada": ("transfer", {}),
    "llada from nothing": ("transfer", {"all_parameters": True, "from_scratch": True}),
    "flexmdm on math": ("math", {"variable_length": True, "task": "math"}),
    "llada on math": ("math", {"task": "math"}),
    "flexmdm on code": ("code", {"variable_length": True, "task": "code"}),
    "llada on code": ("code", {"task": "code", "sft_max_length": 96}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_and_kind(kind, made, tmp_path, monkeypatch, capsys):
    """A run ends with a checkpoint that loads, changed weights, a log and settings; the same
    command again reuses what is there.
    """
    script, changes = KINDS[kind]
    base, data = made
    words = run_flags(base, data, tmp_path / "run", **changes)
    run_here(SCRIPTS[script], words, monkeypatch)
    final = tmp_path / "run/final"
    flexmdm = changes.get("variable_length", False)
    assert checkpoint_kind(final) == ("flexmdm" if flexmdm else "llada")
    model = (load_flexmdm if flexmdm else load_llada)(final)
    ids = torch.randint(5, 50, (2, 7))
    output = model(ids, torch.tensor([0.3, 0.8])) if flexmdm else {"logits": model(ids).logits}
    assert all(torch.isfinite(value).all() for value in output.values())
    log = log_of(tmp_path / "run")
    assert sorted(log) == [1, 2, 3, 4, 5, 6] and all(
        row["loss"] > 0 and row["grad_norm"] > 0 for row in log.values()
    )
    assert (
        log[6]["nonfinite_steps"] == 0
        and log[6]["tokens_per_second"] > log[6]["sequences_per_second"] > 0
    )
    assert json.loads((tmp_path / "run/settings.json").read_text())["max_steps"] == 6
    assert sorted(folder.name for folder in (tmp_path / "run").glob("*checkpoint*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    first, last = weights(tmp_path / "run/checkpoint-2"), weights(final)
    assert first.keys() == last.keys() and any(
        not torch.equal(first[name], last[name]) for name in first
    )

    written = (final / "README.md").stat().st_mtime_ns
    run_here(SCRIPTS[script], [*words, "--resume_from_checkpoint", "auto"], monkeypatch)
    assert (
        "this run is finished" in capsys.readouterr().out
        and (final / "README.md").stat().st_mtime_ns == written
    )
    with pytest.raises(InputError, match="already holds a run"):
        run_here(SCRIPTS[script], words, monkeypatch)


def test_overwrite_restarts_and_gives_the_same_weights(made, tmp_path, monkeypatch):
    base, data = made
    words = run_flags(base, data, tmp_path / "run", variable_length=True)
    run_here(SCRIPTS["transfer"], words, monkeypatch)
    os.rename(tmp_path / "run/final", tmp_path / "first")
    (tmp_path / "run/checkpoint-99").mkdir()
    (tmp_path / "run/.saving").mkdir()
    (tmp_path / "run/notes").mkdir()
    (tmp_path / "run/notes/final").write_text("a person's")
    run_here(SCRIPTS["transfer"], [*words, "--overwrite"], monkeypatch)
    left = {entry.name for entry in (tmp_path / "run").iterdir()}
    assert not left & {"checkpoint-99", ".saving"}
    assert (tmp_path / "run/notes/final").read_text() == "a person's"
    assert_same_weights(tmp_path / "first", tmp_path / "run/final")


@pytest.mark.parametrize("extra", [[], ["--overwrite"], ["--resume_from_checkpoint", "auto"]])
@pytest.mark.parametrize(
    "name, content",
    [
        ("final/model.safetensors", "theirs"),
        ("checkpoint-1/trainer_state.json", "{}"),
        ("settings.json", "{}"),
        ("settings.json", '{"seed": 1, "rows": 2}'),
        ("settings.json", "[]"),
        ("notes.txt", "theirs"),
    ],
)
def test_a_folder_that_is_not_a_run_is_refused_and_left_unchanged(
    made, tmp_path, monkeypatch, name, content, extra
):
    base, data = made
    file = tmp_path / "theirs" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    words = [*run_flags(base, data, tmp_path / "theirs", max_steps=1), *extra]
    with pytest.raises(InputError, match=f"--output_dir: .*{name.split('/')[0]}.* no run of ours"):
        run_here(SCRIPTS["transfer"], words, monkeypatch)
    assert [entry for entry in (tmp_path / "theirs").rglob("*") if entry.is_file()] == [file]
    assert file.read_text() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"variable_length": True},
        {
            "variable_length": True,
            "gradient_accumulation_steps": 2,
            "dataloader_num_workers": 1,
            "eval_strategy": "steps",
            "eval_steps": 3,
        },
        {
            "variable_length": True,
            "gradient_accumulation_steps": 2,
            "tokens_per_batch": 40,
            "dataloader_num_workers": 1,
            "eval_strategy": "steps",
            "eval_steps": 3,
        },
        {},
        {"all_parameters": True},
        {"ema_decay": 0.3, "eval_strategy": "steps", "eval_steps": 2},
    ],
    ids=[
        "flexmdm",
        "flexmdm, accumulation, a worker, evaluation",
        "flexmdm, token budget, a worker, evaluation",
        "llada",
        "llada, all parameters",
        "llada, averaged weights",
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(changes, made, tmp_path, monkeypatch, capsys):
    """SIGTERM in step 3: the step ends, is saved, the run stops; resumed, it ends with the weights
    (dropout on) of one that was not.
    """
    base, data = made
    run_here(SCRIPTS["transfer"], run_flags(base, data, tmp_path / "whole", **changes), monkeypatch)
    words = run_flags(
        base,
        data,
        tmp_path / "parts",
        **(changes | {"save_steps": 100, "resume_from_checkpoint": "auto"}),
    )

    from training.trainer import DiffusionTrainer

    training_step = DiffusionTrainer.training_step

    def signalled(self, *arguments):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionTrainer, "training_step", signalled)
        run_here(SCRIPTS["transfer"], words, monkeypatch)
    assert "stopped by SIGTERM at step 3 of 6" in capsys.readouterr().out
    assert not (tmp_path / "parts/final").exists() and (tmp_path / "parts/checkpoint-3").is_dir()
    run_here(SCRIPTS["transfer"], words, monkeypatch)
    assert_same_weights(tmp_path / "whole/final", tmp_path / "parts/final")
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    for step in whole:
        assert {name: whole[step][name] for name in ("loss", "grad_norm", "unmask_loss")} == {
            name: parts[step][name] for name in ("loss", "grad_norm", "unmask_loss")
        }


@pytest.mark.parametrize(
    "changes",
    [
        {"variable_length": True, "gradient_accumulation_steps": 2},
        {"all_parameters": True, "dataloader_num_workers": 0},
    ],
    ids=["flexmdm with LoRA, accumulation", "llada, all parameters"],
)
def test_averaged_weights_follow_their_formula(changes, made, tmp_path, monkeypatch):
    """The average in `final`, against one in float64 over the parameters after every step; held-out
    rows see the averages, and training goes on from its own parameters.
    """
    from training.train_log import JsonlLog
    from training.trainer import DiffusionTrainer

    def trained(model):
        pairs = getattr(model, "module", model).named_parameters()
        return {name: each.detach().clone() for name, each in pairs if each.requires_grad}

    def note(self, args, state, control, model, **others):
        states.append(trained(model))

    def evaluated(self, model, *others, **named):
        held_out[self.state.global_step] = trained(model)
        return prediction_step(self, model, *others, **named)

    states, held_out, prediction_step = [], {}, DiffusionTrainer.prediction_step
    for event in ("on_train_begin", "on_step_end"):
        monkeypatch.setattr(JsonlLog, event, note)
    monkeypatch.setattr(DiffusionTrainer, "prediction_step", evaluated)
    decay = random.uniform(0.26, 0.4)  # the warm-up's is smaller at first, larger at the end
    words = run_flags(
        *made,
        tmp_path / "run",
        ema_decay=decay,
        eval_strategy="steps",
        eval_steps=2,
        **changes,
    )
    run_here(SCRIPTS["transfer"], words, monkeypatch)
    assert len(states) == 7 and sorted(held_out) == [2, 4, 6]
    average = {name: each.double() for name, each in states[0].items()}
    for step, parameters in enumerate(states[1:], start=1):
        d = min(decay, (1 + step) / (10 + step))
        for name, each in parameters.items():
            average[name] = d * average[name] + (1 - d) * each.double()
        if step in held_out:
            checkpoint = tmp_path / f"run/checkpoint-{step}"
            for folder, want in (("", held_out[step]), ("unaveraged", parameters)):
                found = weights(checkpoint / folder)
                assert found.keys() == want.keys()
                assert all(torch.equal(found[name], want[name]) for name in want), folder
    final = weights(tmp_path / "run/final")
    assert final.keys() == average.keys()
    for name, each in average.items():
        torch.testing.assert_close(final[name].double(), each, rtol=1e-6, atol=1e-7)
    # the parameters themselves would fail
    moved = [float((held_out[4][name] - states[4][name]).abs().max()) for name in final]
    assert max(moved) > 1e-5


def test_a_checkpoint_with_averages_is_resumed_only_with_them(made, tmp_path, monkeypatch):
    for name, decay in (("averaged", 0.9), ("plain", None)):
        words = run_flags(*made, tmp_path / name, max_steps=1, ema_decay=decay, save_steps=1)
        run_here(SCRIPTS["transfer"], words, monkeypatch)
    for name, decay, message in (
        ("averaged", None, "was written with --ema_decay, this run is without it"),
        ("plain", 0.9, "was written without --ema_decay, this run is with it"),
    ):
        checkpoint = tmp_path / name / "checkpoint-1"
        words = run_flags(
            *made, tmp_path / "new", ema_decay=decay, resume_from_checkpoint=checkpoint
        )
        with pytest.raises(InputError, match=f"--resume_from_checkpoint: {checkpoint} {message}"):
            run_here(SCRIPTS["transfer"], words, monkeypatch)
        assert not (tmp_path / "new").exists()


def test_fine_tuning_starts_from_the_transferred_checkpoint(made, tmp_path, monkeypatch):
    """--init_from: settings come from the checkpoint, weights too; the wrong kind is refused."""
    base, data = made
    run_here(
        SCRIPTS["transfer"],
        run_flags(
            base, data, tmp_path / "transfer", variable_length=True, insertion_schedule="power:1.5"
        ),
        monkeypatch,
    )
    start = {
        "init_from": tmp_path / "transfer/final",
        "task": "math",
        "learning_rate": 0,
        "lora_weight_decay": 0,
        "weight_decay": 0,
    }
    run_here(
        SCRIPTS["math"],
        run_flags(base, data, tmp_path / "tuned", variable_length=True, **start),
        monkeypatch,
    )
    assert load_flexmdm(tmp_path / "tuned/final").config.insertion_schedule == {
        "name": "power",
        "p": 1.5,
    }
    assert_same_weights(tmp_path / "transfer/final", tmp_path / "tuned/final")
    with pytest.raises(InputError, match="--init_from: .* is a FlexMDM: add --variable_length"):
        run_here(SCRIPTS["math"], run_flags(base, data, tmp_path / "other", **start), monkeypatch)


def test_an_adapter_tuned_from_another_names_its_base(made, tmp_path, monkeypatch):
    """LLaDA with LoRA, tuned from a base, then from the adapter that this made."""
    base, data = made
    start = {"task": "math", "init_from": base}
    for name in ("first", "second"):
        words = run_flags(base, data, tmp_path / name, max_steps=1, **start)
        run_here(SCRIPTS["math"], words, monkeypatch)
        assert named_base(tmp_path / name / "final") == str(base)
        load_llada(tmp_path / name / "final")
        start["init_from"] = tmp_path / name / "final"
    said = json.loads((tmp_path / "second/settings.json").read_text())
    assert said["base_hash"] == checkpoint_hash(base)


REFUSED = {
    "no data": ({"train_data": None}, "--train_data: give the folder"),
    "data that is not there": ({"train_data": "nowhere"}, "--train_data: nowhere is not a folder"),
    "no base": (
        {"model_name_or_path": "nowhere"},
        "--model_name_or_path: nowhere is neither a folder nor a hub id",
    ),
    "a schedule": ({"insertion_schedule": "cubic"}, "--insertion_schedule: 'cubic' is no schedule"),
    "masks for ever": (
        {"unmask_schedule": "geometric:10,0.01"},
        "--unmask_schedule: geometric never reaches 1",
    ),
    "a head": ({"length_head": "linear"}, "--length_head: linear is none of"),
    "an epsilon": ({"time_epsilon": "0.7"}, "--time_epsilon: 0.7 is not between"),
    "no decay": ({"ema_decay": "0"}, "--ema_decay: 0.0 is not between 0 and 1"),
    "no average": ({"ema_decay": "1"}, "--ema_decay: 1.0 is not between 0 and 1"),
    "an average under DeepSpeed": (
        {"ema_decay": "0.9", "deepspeed": "nowhere.json"},
        "--ema_decay: cannot be combined with --deepspeed or --fsdp",
    ),
    "an unknown flag": ({"learing_rate": "1"}, "--learing_rate"),
    "a word for a number": ({"seed": "many"}, "--seed.*invalid int value"),
    "a FlexMDM from nothing": ({"from_scratch": True, "variable_length": True}, "--from_scratch"),
    "FSDP on a CPU": ({"fsdp": "full_shard"}, "--fsdp: on CPUs transformers would train with DDP"),
    "shards of one process": ({"fully_shard": True}, "--fully_shard: needs more than one process"),
    "4 bits without a GPU": ({"load_in_4bit": True}, "--load_in_4bit: needs a CUDA GPU"),
    "4 bits of what is trained": (
        {"load_in_4bit": True, "all_parameters": True},
        "--load_in_4bit: only a frozen base",
    ),
    "smoothing that no loss here has": (
        {"label_smoothing_factor": 0.1},
        "--label_smoothing_factor: these losses have no such term",
    ),
    "noise that no model here takes": ({"neftune_noise_alpha": 5}, "--neftune_noise_alpha"),
    "a budget of nothing": (
        {"tokens_per_batch": 0},
        "--tokens_per_batch: 0 is not at least 1",
    ),
    "a batch that changes": ({"auto_find_batch_size": True}, "--auto_find_batch_size"),
    "a checkpoint that is not there": (
        {"resume_from_checkpoint": "nowhere"},
        "--resume_from_checkpoint: nowhere is not a folder",
    ),
    "a deepspeed config that is not there": (
        {"deepspeed": "nowhere.json"},
        "nowhere.json|deepspeed is not installed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_training_settings_are_refused_in_one_line(case, made, tmp_path, monkeypatch):
    """Nothing is written, and the message names the flag."""
    changes, message = REFUSED[case]
    base, data = made
    if case == "4 bits without a GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=message):
        run_here(
            SCRIPTS["transfer"], run_flags(base, data, tmp_path / "run", **changes), monkeypatch
        )
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused_by_name(made, tmp_path, monkeypatch):
    base, data = made
    run_here(SCRIPTS["transfer"], run_flags(base, data, tmp_path / "run", max_steps=2), monkeypatch)
    for changes in ({"seed": 7}, {"lora_alpha": 8}, {"per_device_train_batch_size": 8}):
        words = run_flags(
            base,
            data,
            tmp_path / "run",
            **{"max_steps": 2, "resume_from_checkpoint": "auto", **changes},
        )
        name = "global_batch" if "per_device_train_batch_size" in changes else next(iter(changes))
        with pytest.raises(InputError, match=f"other settings: {name} "):
            run_here(SCRIPTS["transfer"], words, monkeypatch)


OTHER_FLAGS = {
    "ema_decay": 0.9,
    "optim": "sgd",
    "adam_beta1": 0.5,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-3,
    "bf16": "true",
    "optim_args": "momentum=0.1",
}


def other_file(file):
    content = json.loads(file.read_text())
    content["another"] = "hand"
    file.write_text(json.dumps(content))


def add_index(base):
    names = weights(base)
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")})
    )


# what is changed: (the setting that names it, how)
CHANGED_INPUTS = {
    "rows": ("train_data_hash", lambda base, data: write_data(data, seed=17)),
    "special tokens": ("start_hash", lambda base, _: other_file(base / "tokenizer_config.json")),
    "tokenizer": ("start_hash", lambda base, _: (base / "tokenizer.json").open("a").write("\n")),
    "index": ("start_hash", lambda base, _: add_index(base)),
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A folder with base, data and a run that was stopped: what is on disk may be changed in a
    copy.
    """
    work = tmp_path_factory.mktemp("unfinished")
    tiny.write_llada(work / "base")
    write_data(work / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        words = run_flags("base", "data", "run", max_steps=1)
        run_here(SCRIPTS["transfer"], words, patch)
    shutil.rmtree(work / "run" / "final")
    return work


@pytest.mark.parametrize("change", [*OTHER_FLAGS, *CHANGED_INPUTS])
def test_changed_inputs_and_flags_are_refused_by_name_on_resume(
    unfinished, tmp_path, monkeypatch, change
):
    work = shutil.copytree(unfinished, tmp_path / "work")
    monkeypatch.chdir(work)
    flags = {change: OTHER_FLAGS[change]} if change in OTHER_FLAGS else {}
    name, edit = CHANGED_INPUTS.get(change, (change, lambda base, data: None))
    if change == "rows":
        shutil.rmtree(work / "data")
    edit(work / "base", work / "data")
    before = {file: file.read_bytes() for file in work.rglob("run/**/*") if file.is_file()}
    words = run_flags(
        "base", "data", "run", **{"max_steps": 1, "resume_from_checkpoint": "auto", **flags}
    )
    with pytest.raises(InputError, match=f"other settings: {name} "):
        run_here(SCRIPTS["transfer"], words, monkeypatch)
    assert {file: file.read_bytes() for file in work.rglob("run/**/*") if file.is_file()} == before


def test_a_run_with_unchanged_inputs_resumes(unfinished, tmp_path, monkeypatch):
    """Also one that an older version began, whose settings.json says less, or has a flag that had
    no effect and is refused now.
    """
    work = shutil.copytree(unfinished, tmp_path / "work")
    monkeypatch.chdir(work)
    said = json.loads((work / "run/settings.json").read_text())
    for left_out in ((), ("optim", "start_hash", "base_hash")):
        kept = {key: value for key, value in said.items() if key not in left_out}
        kept |= {"weight_decay": 0.3} if left_out else {}  # a LLaDA with LoRA has none
        (work / "run/settings.json").write_text(json.dumps(kept))
        words = run_flags("base", "data", "run", max_steps=1, resume_from_checkpoint="auto")
        run_here(SCRIPTS["transfer"], words, monkeypatch)
        assert (work / "run/final").is_dir()
        shutil.rmtree(work / "run/final")


# ---- accounting

# rows, accumulation, processes, token budget
DEALS = {
    "8x1x1": (8, 1, 1, None),
    "4x2x1": (4, 2, 1, None),
    "4x1x2": (4, 1, 2, None),
    "2x2x2": (2, 2, 2, None),
    "4x2x1, 40 tokens": (4, 2, 1, 40),
    "2x2x2, 40 tokens": (2, 2, 2, 40),
}
COMPARED = (
    "loss",
    "grad_norm",
    "unmask_loss",
    "insertion_loss",
    "gap_error",
    "masks",
    "xt_length",
    "tokens",
    "learning_rate",
)


@pytest.fixture(scope="module")
def matrix(made, tmp_path_factory):
    """{(kind, deal): output folder}: four steps of 8 rows, dealt in all ways, without dropout."""
    folder, outputs, jobs = tmp_path_factory.mktemp("matrix"), {}, []
    base, data = made
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("flexmdm", "llada"):
            for name, (rows, accumulation, processes, budget) in DEALS.items():
                output = outputs[kind, name] = folder / f"{kind}-{name}"
                words = run_flags(
                    base,
                    data,
                    output,
                    variable_length=kind == "flexmdm",
                    per_device_train_batch_size=rows,
                    max_steps=4,
                    gradient_accumulation_steps=accumulation,
                    tokens_per_batch=budget,
                    lora_dropout=0,
                    save_strategy="no",
                )
                if processes == 1:
                    run_here(SCRIPTS["transfer"], words, patch)
                else:
                    jobs.append(
                        {
                            "script": SCRIPTS["transfer"],
                            "words": words,
                            "facts": folder / f"{kind}-{name}.json",
                        }
                    )
    run_together(folder, jobs)
    return outputs


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_balancing_micro_batches_across_ranks_changes_no_loss_or_gradient(kind, matrix):
    """Loss, gradient norm, every logged mean, and the weights after four steps, equal to
    rounding.
    """
    whole = log_of(matrix[kind, "8x1x1"])
    for name, (_, _, processes, budget) in DEALS.items():
        output = matrix[kind, name]
        if processes > 1:
            facts = json.loads((output.parent / f"{kind}-{name}.json").read_text())
            assert (
                facts["wrapped"] == "DistributedDataParallel"
                and facts["group"] == facts["trainer"] == processes
            )
        log = log_of(output)
        for step, row in whole.items():
            for value in COMPARED:
                assert (value in row) == (value in log[step])
                if value in row:
                    assert log[step][value] == pytest.approx(row[value], rel=2e-4, abs=1e-7), (
                        name,
                        step,
                        value,
                    )
        assert_same_weights(matrix[kind, "8x1x1"] / "final", output / "final", exact=False)
        assert ("process_tokens_max_over_mean" in log[1]) == (processes > 1)
        assert budget is None or log[1]["micro_batches_per_step"] > 1


def test_the_loss_is_the_sum_over_the_global_batch(matrix):
    """What is logged as loss: (unmasking + insertion, summed over the rows) / (rows x constant);
    nothing else divides it.
    """
    for output in matrix.values():
        for row in log_of(output).values():
            assert row["loss"] == pytest.approx(
                (row["unmask_loss"] + row.get("insertion_loss", 0)) / 64, rel=1e-5
            )


def test_micro_batches_are_balanced_across_ranks():
    """Micro-batches of several processes cost about the same, every row is in one of them; a single
    process gets alike rows together.
    """
    random = np.random.default_rng(torch.randint(2**31, (1,)).item())
    worst = []
    for _ in range(50):
        tokens = random.integers(1, 1025, 64)
        order = balance_micro_batches(tokens, 2, 16)
        assert sorted(order) == list(range(64))
        micro_batches = tokens[order].reshape(2, 16, 2).sum(2)  # (accumulation, process)
        by_process = micro_batches.sum(0)
        worst.append(by_process.max() / by_process.mean())
        assert (np.diff(tokens[balance_micro_batches(tokens, 2, 1)]) >= 0).all()
    assert np.mean(worst) < 1.1
    unsorted = [random.integers(1, 1025, 64).reshape(2, 16, 2).sum((0, 2)) for _ in range(50)]
    assert np.mean([each.max() / each.mean() for each in unsorted]) > 1.3  # what an even deal saves


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_has_the_same_rows_and_noise_for_any_number_of_processes(processes):
    """The deal moves rows about; row, time and every random number of a position stay, and token
    counts are exact.
    """
    from flexmdm_trainer import FlexMDMCollator

    collate = FlexMDMCollator(tiny.flexmdm(insertion_schedule={"name": "power", "p": 1.5}).config)
    rows = [{"input_ids": list(range(5, 5 + n % 40)), "prompt_length": n % 3} for n in range(3, 90)]
    plain = NoiseStream(rows, 16, 3, seed=4, expected_cost=collate.expected_cost)
    dealt = NoiseStream(
        rows,
        16,
        3,
        seed=4,
        expected_cost=collate.expected_cost,
        tokens=collate.tokens,
        micro_batch=4,
        processes=processes,
    )
    for step in range(3):

        def facts(stream):
            items = [stream[step * 16 + place] for place in range(16)]
            return sorted(
                (item["row"], item["time_uniform"], float(item["random"].random()))
                for item in items
            )

        assert facts(plain) == facts(dealt)
        for place in range(16):
            assert (
                collate.tokens(dealt[step * 16 + place])
                == int(collate([dealt[step * 16 + place]])["xt_length"]) + 1
            )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state, name: {**state, "other": state[name].clone()}, "holds other"),
        (
            lambda state, name: {**state, name: state[name][..., :-1].clone()},
            "which this run does not train",
        ),
        (lambda state, name: {key: value for key, value in state.items() if key != name}, "lacks"),
    ],
    ids=["unexpected", "misshapen", "missing"],
)
def test_a_checkpoints_tensors_must_match_the_trained_parameters(change, message, tmp_path):
    """What every engine checks, DeepSpeed too, whose own reading of a checkpoint without its frozen
    base cannot be strict.
    """
    model, folder = tiny.flexmdm(), tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(model, folder, tiny.tokenizer())
    parameters = dict(model.named_parameters())
    pairs = list(trained_pairs(model, folder))
    assert len(pairs) == len(parameters) and all(
        torch.equal(parameter.detach(), tensor) for parameter, tensor in pairs
    )
    state = weights(folder)
    save_file(change(state, random.choice(sorted(state))), folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        list(trained_pairs(model, folder))


@pytest.mark.parametrize("name", ["text.txt", "text.raw", "rows.jsonl", "rows.jsonl.gz", "folder"])
def test_every_kind_of_eval_data_is_read(tmp_path, name):
    """What --eval_data's help names is read as preprocessing reads it; nothing in it is one
    line.
    """
    import gzip
    from types import SimpleNamespace

    from training.held_out import held_out_rows

    texts = [
        " ".join(f"w{random.randrange(10, 50)}" for _ in range(random.randrange(3, 30)))
        for _ in range(4)
    ]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "a.jsonl").write_text(lines)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines if "jsonl" in name else "\n".join(texts))
    tokenizer = tiny.tokenizer()
    args = SimpleNamespace(eval_data=str(path), sft_max_length=16, train_data=None)
    rows = held_out_rows(args, None, tokenizer)["input_ids"]
    assert max(map(len, rows)) <= 16
    assert [token for row in rows for token in row] == [
        token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    for empty in tmp_path.rglob("*.*"):
        empty.write_bytes(
            gzip.compress(b"")
            if name.endswith(".gz")
            else b"\n"
            if "rows" not in name and name != "folder"
            else b""
        )
    with pytest.raises(InputError, match="--eval_data"):
        held_out_rows(args, None, tokenizer)


def test_two_runs_cannot_train_in_one_folder(made, tmp_path, monkeypatch):
    """Whoever comes second into a folder is told so in one line, and what the first one has there
    is untouched.
    """
    from common.files import lock_for_writing

    base, data = made
    output = tmp_path / "run"
    output.mkdir()
    settings = '{"global_batch": 4, "rows": 40}'
    (output / "settings.json").write_text(settings)
    first = lock_for_writing(output / "lock")
    for extra in (["--overwrite"], ["--resume_from_checkpoint", "auto"], []):
        with pytest.raises(InputError, match="another process is writing"):
            run_here(
                SCRIPTS["transfer"].removesuffix(".py"),
                run_flags(base, data, output, max_steps=2) + extra,
                monkeypatch,
            )
        assert (output / "settings.json").read_text() == settings and len(
            list(output.iterdir())
        ) == 2
    first.close()
    run_here(
        SCRIPTS["transfer"].removesuffix(".py"),
        run_flags(base, data, output, max_steps=2) + ["--overwrite"],
        monkeypatch,
    )
    assert (output / "final").is_dir()
    lock_for_writing(output / "lock").close()  # it is free again


def test_a_fitted_length_distribution_that_is_trained_on_holds_at_all_times(made, tmp_path):
    from training.arguments import RunArguments
    from training.models import build_model

    model = tiny.flexmdm(length_distribution=9, length_distribution_at_start=True)
    (tmp_path / "fitted").mkdir()
    write_checkpoint(model, tmp_path / "fitted", tiny.tokenizer(), card="# test\n")
    assert load_flexmdm(tmp_path / "fitted").config.length_distribution_at_start
    args = RunArguments(
        output_dir=str(tmp_path / "run"), variable_length=True, init_from=str(tmp_path / "fitted")
    )
    assert not build_model(args)[0].config.length_distribution_at_start


@pytest.mark.parametrize("attend_to_padding", [False, True])
def test_a_checkpoint_is_continued_or_evaluated_beyond_its_length(attend_to_padding, tmp_path):
    """Rows of up to --sft_max_length fit; where padding is attended to, a network that is only
    evaluated keeps its width.
    """
    from training.arguments import RunArguments
    from training.held_out import evaluate_only
    from training.models import build_model, longest_row

    model = tiny.flexmdm(attend_to_padding=attend_to_padding)
    model.config.max_length = 20
    (tmp_path / "short").mkdir()
    write_checkpoint(model, tmp_path / "short", tiny.tokenizer(), card="# test\n")
    args = RunArguments(
        output_dir=str(tmp_path / "run"),
        variable_length=True,
        init_from=str(tmp_path / "short"),
        sft_max_length=33,
        attend_to_padding=attend_to_padding,
    )
    rows = Dataset.from_dict({"input_ids": [[7] * 33]})
    model, tokenizer = build_model(args)
    items = [{"input_ids": np.full(33, 7), "prompt_length": 0, "time_uniform": 0.5}]
    items[0]["random"] = np.random.default_rng(0)
    assert FlexMDMCollator(model.config)(items)["x1"].shape == (1, 33)
    assert longest_row(args, model) == 33
    args.evaluate_only = True
    model, tokenizer = build_model(args)
    assert longest_row(args, model) == (20 if attend_to_padding else 33)
    collate = FlexMDMCollator(model.config)
    if not attend_to_padding:
        assert collate(items)["x1"].shape == (1, 33)
        return
    with pytest.raises(InputError, match="row 0 has 33 tokens"):
        evaluate_only(args, FlexMDMTrainer, model, tokenizer, rows, collate)
