"""The format of a math problem: the prompt, and the target text that answers it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from common.rows import Row
from data.chat_templates import render_chat
from data.instruction_rows import joint_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SYSTEM_PROMPT = (
    "You are a careful mathematician. Work the problem below out one step at a time. Put your"
    " working between <reasoning> and </reasoning>; then state the final result between <answer>"
    " and </answer>, written as \\boxed{result}."
)


def math_prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """The prompt as text; encode it with add_special_tokens=False, because the template already
    contains the start token.
    """
    turn = [{"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{question}"}]
    return render_chat(tokenizer, turn) + "<reasoning>"


def task_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, task: str) -> str:
    """The prompt of an inference command: as it is ("text") or as a question ("math"). Raises
    ValueError for another task.
    """
    if task not in ("text", "math"):
        raise ValueError(f"task is {task!r}: text or math")
    return math_prompt(tokenizer, prompt) if task == "math" else prompt


def math_target(answer: str) -> str:
    """The text that follows math_prompt, from a GSM8K answer "rationale #### A". Raises ValueError
    without `####`.
    """
    rationale, mark, final = answer.rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####' before its final result")
    return f"{rationale.strip()}</reasoning>\n<answer>\\boxed{{{final.strip()}}}</answer>"


def math_row(row: Row, tokenizer: PreTrainedTokenizerFast, strip_annotations: bool) -> Row:
    """joint_row of one GSM8K row; strip_annotations removes the calculator's <<48/2=24>>."""
    answer = re.sub(r"<<[^<>]*>>", "", row["answer"]) if strip_annotations else row["answer"]
    return joint_row(tokenizer, math_prompt(tokenizer, row["question"]), math_target(answer))
