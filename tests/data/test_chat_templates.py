"""Chat templates from anywhere: the text is transformers' own, and one that never ends or asks for
the machine's memory is one line that names its file.

pytest tests/data/test_chat_templates.py                           half a minute
"""

import hashlib
import json
import multiprocessing
import os
import random
import time

import pytest
import tiny
from conftest import ROOT, _folder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data import chat_templates
from data.chat_templates import render_chat
from data.math_prompts import math_prompt
from data.tokenizer import CHAT_TEMPLATE, load_tokenizer

LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content|trim +"
    " ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)
CHATML = (
    "{%- for m in messages -%}\n{{ '<|im_start|>' ~ m['role'] ~ '\n' ~ m['content'] ~ '<|im_end|>'"
    " }}\n{%- endfor -%}{{ messages | tojson }}"
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=30)}
    ),
    min_size=1,
    max_size=3,
)


def tokenizer_with(folder, template, place="chat_template.jinja"):
    """A tokenizer read from a folder that holds this template, in one of the places it may have."""
    folder.mkdir(exist_ok=True)
    tiny.tokenizer().save_pretrained(folder)
    if place == "chat_template.jinja":
        (folder / place).write_bytes(template.encode())
    else:
        tiny.edit_json(folder / "tokenizer_config.json", chat_template=template)
    return load_tokenizer(folder)


@pytest.mark.parametrize("template", [LLAMA, CHATML])
def test_the_text_is_that_of_transformers(tmp_path, template):
    tokenizer = tokenizer_with(tmp_path / "given", template)

    @settings(max_examples=40, deadline=None)
    @given(TURNS, st.booleans())
    @example([{"role": "user", "content": "\ud800\u2028\x85 é\r\n"}], True)
    def check(messages, prompt):
        assert render_chat(tokenizer, messages, prompt) == tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )

    check()
    assert math_prompt(tokenizer, "1 + 1?").endswith("<reasoning>")


def test_known_templates_are_rendered_here(monkeypatch):
    """Ours and LLaDA's: they are the normal path, which costs nothing."""
    monkeypatch.setattr(chat_templates, "_renderer", lambda pid: pytest.fail("a process"))
    tokenizers = [load_tokenizer(ROOT / "LLaDA-tiny-Base"), tiny.tokenizer()]
    tokenizers[1].chat_template = CHAT_TEMPLATE
    assert all(math_prompt(each, "1 + 1?").endswith("<reasoning>") for each in tokenizers)
    official = load_tokenizer(_folder("FLEXMDM_DATA") / "llada_tokenizer")
    hashed = hashlib.sha256(official.chat_template.encode()).hexdigest()
    assert official.chat_template != CHAT_TEMPLATE and hashed in chat_templates.KNOWN
    assert "1 + 1?" in math_prompt(official, "1 + 1?")


def costly():
    """A template of every kind that passes a bound, with fresh numbers."""
    n, power = random.randrange(90_000, 100_000), random.randrange(10, 14)
    endless = "".join(f"{{% for {name} in range({n}) %}}" for name in "abcd")
    endless += "{% endfor %}" * 4
    return {
        "memory": (f"{{{{ 'x' * 10**{power} }}}}", "MiB of memory"),
        "powers": (f"{{{{ 3 ** {power * 10**8} % 7 }}}}", "longer than 10 s"),
        "loops": (endless, "longer than 10 s"),
        "filter": (
            f"{{{{ '%{2**30 + n}d' | format(1) }}}}",
            "MiB of memory|MemoryError|Overflow",
        ),
        "doubling": (
            "{% set s = namespace(t='x') %}{% for a in range(64) %}{% set s.t = s.t + s.t %}"
            "{% endfor %}{{ s.t }}",
            "MiB of memory",
        ),
        "text": (f"{{{{ 'x' * {2**20 + n} }}}}", "longer than 1048576 characters"),
        "later": (
            "{% if 'Q2' in messages[0].content %}"
            + f"{{{{ 'x' * 10**{power} }}}}"
            + "{% endif %}ok",
            "MiB of memory",
        ),
        "syntax": ("{% for %}", "TemplateSyntaxError"),
        "its own refusal": ("{{ raise_exception('no such role') }}", "no such role"),
    }


@pytest.mark.parametrize("kind", costly())
def test_a_template_that_passes_a_bound_is_refused_by_its_file(tmp_path, kind):
    template, words = costly()[kind]
    place = random.choice(["chat_template.jinja", "tokenizer_config.json"])
    tokenizer = tokenizer_with(tmp_path / "given", template, place)
    if kind == "later":
        assert math_prompt(tokenizer, "Q1") == "ok<reasoning>"
    start = time.monotonic()
    with pytest.raises(InputError, match=f"chat template of .*given/{place}: .*({words})"):
        math_prompt(tokenizer, "Q2")
    assert time.monotonic() - start < 40
    # the next template is not held up by it
    assert math_prompt(tokenizer_with(tmp_path / "next", "a{{ bos_token }}"), "q").startswith("a")


@pytest.mark.parametrize("template", ["{#" + "x" * 70_000 + "#}", 5, {"other": "x"}])
def test_what_is_no_template_is_refused_by_its_file(tmp_path, template):
    with pytest.raises(InputError, match="chat template of .*tokenizer_config.json: "):
        math_prompt(tokenizer_with(tmp_path / "given", template, "tokenizer_config.json"), "q")


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_a_pipe_beside_the_tokenizer_is_refused_at_once(tmp_path, name):
    tokenizer_with(tmp_path / "given", LLAMA)
    (tmp_path / "given" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "given" / name)
    with pytest.raises(InputError, match=f"cannot read .*{name}"):
        load_tokenizer(tmp_path / "given")


def test_forked_workers_render_for_themselves(tmp_path):
    """As preprocessing with --num_proc does."""
    tokenizer = tokenizer_with(tmp_path / "given", LLAMA)
    questions = [f"q{random.random()}" for _ in range(40)]
    expected = [math_prompt(tokenizer, question) for question in questions]
    with multiprocessing.get_context("fork").Pool(3, _use, (tokenizer,)) as pool:
        assert pool.map(_prompt, questions, 1) == expected


def _use(tokenizer):
    global used
    used = tokenizer


def _prompt(question):
    return math_prompt(used, question)


def test_nothing_that_a_template_writes_is_taken_for_the_processs_answer():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = '{{ "\\n{\\"text\\": \\"false\\"}\\n" }}' + CHATML
    text = render_chat(tokenizer, [{"role": "user", "content": '"}\n{"text": "x"}'}])
    assert json.loads(text.rpartition("<|im_end|>")[2])[0]["content"] == '"}\n{"text": "x"}'
