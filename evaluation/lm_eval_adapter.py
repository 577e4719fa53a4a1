"""Adapter that gives a FlexMDM or a LLaDA to lm-evaluation-harness; scripts/lm_evaluation.py is the
command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from common.errors import InputError
from data.chat_templates import render_chat
from evaluation.model import Given

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from evaluation.model import EvaluatedModel

ONLY_GENERATED = (
    "this task ranks given answers by likelihood; only generation tasks can be run here"
)


def cut_at(text: str, stops: Iterable[str]) -> str:
    """The text before the first of some stop strings."""
    return text[
        : min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))
    ]


def make_lm(model: EvaluatedModel) -> LM:
    """An lm_eval LM around an EvaluatedModel."""
    from lm_eval.api.model import LM
    from tqdm import tqdm

    class DiffusionLM(LM):
        tokenizer_name = "own"  # names the chat template in the harness's caches

        def generate_until(self, requests, disable_tqdm=False):
            prompts = [model.encode(request.args[0]) for request in requests]
            lengths = None
            if model.kind == "llada" and not model.arguments["gen_length"]:
                # 256: the harness's own default
                lengths = [request.args[1].get("max_gen_toks", 256) for request in requests]
            names = [f"{request.task_name}/{request.doc_id}" for request in requests]
            model.check_fits(names, Given(prompts, lengths=lengths), "--tasks")
            tasks, seen = [], {}
            for name in names:  # a request that is to be repeated is in the list several times
                tasks.append({"item": name, "sample": seen.get(name, 0)})
                seen[name] = seen.get(name, 0) + 1
            texts = [None] * len(requests)
            order = sorted(range(len(requests)), key=lambda number: -len(prompts[number]))
            with tqdm(
                total=len(order), desc="generating", disable=disable_tqdm, file=sys.stderr
            ) as bar:
                for start in range(0, len(order), model.rows_per_call):
                    batch = order[start : start + model.rows_per_call]
                    made = model.answer(
                        [prompts[number] for number in batch],
                        [tasks[number] for number in batch],
                        lengths and [lengths[number] for number in batch],
                    )
                    for number, (text, _) in zip(batch, made):
                        stops = requests[number].args[1].get("until") or []
                        texts[number] = cut_at(text, [stops] if isinstance(stops, str) else stops)
                    bar.update(len(batch))
            return texts

        def loglikelihood(self, requests, **_):
            raise InputError(f"--tasks: {ONLY_GENERATED}")

        loglikelihood_rolling = loglikelihood

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return render_chat(model.tokenizer, chat_history, add_generation_prompt)

    return DiffusionLM()
