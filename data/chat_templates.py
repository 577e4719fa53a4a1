"""Render messages as text with a tokenizer's chat template.

A chat template is a program (Jinja) that may come from anywhere: one line of it can allocate a
gigabyte, or never end. Templates known to be LLaDA's or ours are rendered in this process; any
other is rendered in a process of its own, with limits on memory and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from data.tokenizer import CHAT_TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# the longest that are in use have about 20 kB; prompts are a few kB
LONGEST_TEMPLATE, LONGEST_TEXT = 64 * 1024, 1024 * 1024
MEMORY, SECONDS = 1024, 10  # MiB for the whole process, for one text
# SHA-256 of LLaDA-8B-Instruct's template and of LLaDA-tiny-Base's
KNOWN = (
    "d499ad7b1715355631faa50e1e7472f0c50a37f32b454b3184dde8f89c796aba",
    "c4f9094fb7aa30ec041a92a0fab6991484191c75db8de47742d6b447198f7691",
)
# SIGALRM's default action ends the process wherever it is, also in an operation of C code, and
# whether or not anybody still waits for it
RENDERER = f"""
import json, resource, signal, sys
from transformers.utils.chat_template_utils import render_jinja_template

try:
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY} << 20,) * 2)
except ValueError:  # macOS does not take a limit on memory
    if sys.platform == "linux":
        raise
print(flush=True)
for line in sys.stdin:
    signal.alarm({SECONDS})
    try:
        (text,), _ = render_jinja_template(**json.loads(line))
        answer = {{"text": text}}
        if len(text) > {LONGEST_TEXT}:
            answer = {{"error": "its text is longer than {LONGEST_TEXT} characters"}}
    except MemoryError:
        answer = {{"error": "it needs more than {MEMORY} MiB of memory"}}
    except Exception as error:
        answer = {{"error": f"{{type(error).__name__}}: {{error}}"[:300]}}
    signal.alarm(0)
    print(json.dumps(answer), flush=True)
"""


def render_chat(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool = True,
) -> str:
    """tokenizer.apply_chat_template as text. Raises InputError naming the template's file if the
    template is missing, fails, or exceeds a limit.
    """
    folder = Path(tokenizer.name_or_path)
    files = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    source = f"chat template of {next((file for file in files if file.exists()), folder)}"
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several, and none of them is the default
        raise InputError(f"{source}: {error}") from None
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        raise InputError(f"{source}: not text of at most {LONGEST_TEMPLATE} characters")
    hashed = hashlib.sha256(template.encode(errors="replace")).hexdigest()
    if template == CHAT_TEMPLATE or hashed in KNOWN:
        # text, as tokenize is False
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text
    request = {
        **tokenizer.special_tokens_map,
        "conversations": [
            [{k: v for k, v in message.items() if v is not None} for message in messages]
        ],
        "chat_template": template,
        "add_generation_prompt": add_generation_prompt,
    }
    process = _renderer(os.getpid())
    try:
        process.stdin.write(json.dumps(request, default=str) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline() or "{}")
    except BrokenPipeError:
        answer = {}
    if not answer:
        _renderer.cache_clear()
        process.communicate()
        answer = {"error": f"it takes longer than {SECONDS} s, or more than {MEMORY} MiB of memory"}
    if "error" in answer:
        raise InputError(f"{source}: {answer['error']}")
    return answer["text"]


@lru_cache(maxsize=1)
def _renderer(pid):
    """The process that renders for the process `pid`: a forked worker shares no pipe. It ends with
    its standard input.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {sys.path}\n{RENDERER}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
    # what follows is the template's own time
    if not process.stdout.readline():
        raise InputError("the process that renders chat templates does not start")
    return process
