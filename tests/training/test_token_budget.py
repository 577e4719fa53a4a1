"""--tokens_per_batch: which rows share a micro-batch changes, the step's rows, noise, loss and
gradient do not.

Run: pytest tests/training/test_token_budget.py
Runs that resume, and several processes: test_training_runs.py, test_training_engines.py.
"""

import random

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback

from data.noise_stream import NoiseStream, split_by_tokens
from flexmdm_trainer import FlexMDMCollator, FlexMDMTrainer
from llada_trainer import LLaDACollator, LLaDATrainer
from training.arguments import RunArguments
from training.estimate import most_tokens
from training.micro_batches import collate_micro_batches


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 90), st.data())
def test_consecutive_rows_fill_the_budget(tokens, budget, data):
    """No micro-batch but one of a single row exceeds the budget, each takes the next row if that
    fits, and there are as many as asked for.
    """
    numbers = split_by_tokens(tokens, budget)
    assert len(numbers) == len(tokens) and numbers[0] == 0
    assert set(np.diff(numbers)) <= {0, 1}  # consecutive rows
    batches = [[n for n, of in zip(tokens, numbers) if of == k] for k in range(numbers[-1] + 1)]
    for batch, following in zip(batches, batches[1:] + [[budget]]):
        assert len(batch) == 1 or sum(batch) <= budget
        assert sum(batch) + following[0] > budget
    at_least = data.draw(st.integers(1, len(tokens)))
    numbers = split_by_tokens(tokens, budget, at_least)
    assert numbers[-1] + 1 == max(at_least, len(batches))
    assert set(np.diff(numbers)) <= {0, 1}
    for number in range(numbers[-1] + 1):
        sizes = np.array(tokens)[numbers == number]
        assert len(sizes) == 1 or sizes.sum() <= budget


def some_rows(count=70):
    return [
        {"input_ids": [random.randrange(5, 50) for _ in range(n)], "prompt_length": min(n, 3)}
        for n in random.choices(range(1, 41), k=count)
    ]


def collator_of(kind):
    """(collator, model) of tiny networks: "padded" attends to padding, "filled" fills rows."""
    if kind in ("flexmdm", "padded"):
        model = tiny.flexmdm(attend_to_padding=kind == "padded")
        return FlexMDMCollator(model.config), model
    fill = 48 if kind == "filled" else None
    return LLaDACollator(tiny.MASK, tiny.PAD, fill_length=fill), tiny.llada()


def tokens_of(batch):
    """Positions that the network computes for a batch."""
    return len(batch["token_places"]) if "token_places" in batch else batch["input_ids"].numel()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("kind", ["flexmdm", "padded", "llada", "filled"])
def test_the_rows_of_a_step_keep_their_noise_and_fill_micro_batches(kind, processes):
    """Every process has the same number of micro-batches, each within the budget by what the
    network really computes.
    """
    collate, _ = collator_of(kind)
    rows, seed, budget = some_rows(), random.randrange(2**31), random.randrange(50, 200)
    plain = NoiseStream(rows, 16, 3, seed)
    stream = NoiseStream(
        rows,
        16,
        3,
        seed,
        tokens=collate.tokens,
        micro_batch=16 // processes,
        tokens_per_batch=budget,
        processes=processes,
    )

    def facts(of, step):
        items = [of[step * 16 + place] for place in range(16)]
        return sorted(
            (item["row"], item["time_uniform"], item["random"].random()) for item in items
        )

    end_slots = 1 if kind == "padded" else 0  # the network adds them to rows of full length
    for step in range(3):
        assert facts(plain, step) == facts(stream, step)
        counts = []
        for start in range(step * 16, step * 16 + 16, 16 // processes):
            share = [stream[start + place] for place in range(16 // processes)]
            batches = collate_micro_batches(collate, share)
            counts.append(len(batches))
            for batch in batches:
                size = tokens_of(batch) + end_slots * len(batch["input_ids"])
                assert len(batch["input_ids"]) == 1 or size <= budget
            assert [int(row) for batch in batches for row in batch["row"]] == [
                item["row"] for item in share
            ]
        assert len(set(counts)) == 1


class Gradients(TrainerCallback):
    """The gradient of every parameter, as it was when the optimizer was called."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = torch.cat(
            [one.grad.flatten().clone() for one in model.parameters() if one.requires_grad]
        )


def one_step(kind, collate, model, rows, folder, budget, **settings):
    """(gradient, loss, number of micro-batches) of a step of 16 rows through the Trainer."""
    args = RunArguments(
        output_dir=str(folder),
        train_data="made",
        variable_length=kind == "flexmdm",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        tokens_per_batch=budget,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
        weight_decay=0.0,
        max_grad_norm=0.0,
        loss_constant=64,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    assert args.global_batch == 16
    stream = NoiseStream(
        rows,
        16,
        1,
        seed=5,
        expected_cost=getattr(collate, "expected_cost", None),
        tokens=collate.tokens,
        micro_batch=args.per_device_train_batch_size,
        tokens_per_batch=budget,
    )
    trainer = (FlexMDMTrainer if kind == "flexmdm" else LLaDATrainer)(
        model=model,
        args=args,
        train_dataset=stream,
        data_collator=collate,
        callbacks=[gradients := Gradients()],
    )
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    return gradients.found, line["loss"], line.get("micro_batches_per_step", 4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_a_steps_gradient_does_not_depend_on_the_budget(kind, checkpointing, tmp_path):
    """fp64, to rounding: the gradient and loss of 4 micro-batches of 4 rows, whatever the budget;
    another step's differ.
    """
    collate, model = collator_of(kind)
    model, rows = model.double(), some_rows()
    made = [collate, model, rows, tmp_path]
    settings = {"gradient_checkpointing": checkpointing}
    want, loss, _ = one_step(kind, *made, None, **settings)
    counts = set()
    for budget in (1, random.randrange(40, 120), 10**6):
        gradient, again, count = one_step(kind, *made, budget, **settings)
        assert float((gradient - want).norm() / want.norm()) < 1e-6
        assert again == pytest.approx(loss, rel=1e-6)
        counts.add(count)
    assert {1, 16} < counts
    other, _, _ = one_step(kind, collate, model, some_rows(), tmp_path, None, **settings)
    assert float((other - want).norm() / want.norm()) > 1e-2


def test_the_dry_run_knows_how_many_tokens_a_micro_batch_can_have():
    """The budget, but a row's whole length at least, and all of the step's rows at most."""

    def most(budget, rows=4, accumulation=8):
        return most_tokens(
            RunArguments(
                train_data="made",
                variable_length=True,
                sft_max_length=99,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=accumulation,
                tokens_per_batch=budget,
                use_cpu=True,
            )
        )

    assert [most(budget) for budget in (None, 1, 1000, 10**6)] == [400, 100, 1000, 3200]
