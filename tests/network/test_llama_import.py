"""scripts/new_base.py llama: what it writes gives the numbers of transformers' own Llama, and what
it cannot be is refused in one line before anything is written.

pytest tests/network/test_llama_import.py                             seconds
"""

import json
import shutil
import sys

import new_base
import pytest
import tiny
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.errors import InputError
from data.tokenizer import load_tokenizer
from llada_dit import rope
from llada_utils import load_llada
from network.packed_rows import PaddedRows


def write_source(folder, **changes):
    """A random Llama of one kind, as transformers saves it."""
    tokenizer = tiny.byte_level(prefix_space=False)
    config = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    } | changes
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def causal_logits(model, ids):
    """Our network's logits (1, L, V) under a causal mask, which it has no flag for."""
    n, config = ids.shape[1], model.config
    width = config.d_model // config.n_heads
    cos, sin = (table[:, None] for table in rope(torch.arange(n), width, config.rope_theta))
    rows = PaddedRows(n, None, "cpu")
    rows.mask = torch.ones(n, n, dtype=torch.bool).tril()
    hidden = model.model.transformer.wte(ids)
    for block in model.model.transformer.blocks:
        hidden = block(hidden, cos, sin, rows)
    return model.head(model.model.transformer.ln_f(hidden))


@settings(max_examples=12, deadline=None)
@given(
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([100.0, 10_000.0, 500_000.0]),
    st.sampled_from([1e-6, 1e-2]),
    st.integers(1, 3),
)
def test_logits_are_those_of_transformers(tmp_path_factory, tied, kv_heads, theta, eps, layers):
    work = tmp_path_factory.mktemp("llama")
    source = write_source(
        work / "source",
        tie_word_embeddings=tied,
        num_key_value_heads=kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        rms_norm_eps=eps,
        num_hidden_layers=layers,
    )
    new_base.import_llama(str(source), work / "base")
    theirs, ours = LlamaForCausalLM.from_pretrained(source).eval(), load_llada(work / "base")
    ids = torch.randint(3, theirs.config.vocab_size, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(
            causal_logits(ours, ids)[..., : theirs.config.vocab_size],
            theirs(ids).logits,
            rtol=1e-3,
            atol=1e-3,
        )
    assert load_tokenizer(work / "base").pad_token_id == 2


# ---- refusals ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "llama", tie_word_embeddings=False)


def refused(folder, output, match):
    with pytest.raises(InputError, match=match):
        new_base.import_llama(str(folder), output)
    assert not output.exists()


def changed(source, tmp_path, without=(), **changes):
    folder = shutil.copytree(source, tmp_path / "source", dirs_exist_ok=True)
    content = json.loads((folder / "config.json").read_text()) | changes
    content = {key: value for key, value in content.items() if key not in without}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


WRONG = {
    "eos -1": {"eos_token_id": -1},
    "eos outside": {"eos_token_id": 100_000},
    "eos as text": {"eos_token_id": "2"},
    "eos in a list, outside": {"eos_token_id": [100_000, 2]},
    "heads": {"num_attention_heads": 5},
    "kv heads": {"num_key_value_heads": 3},
    "odd head": {"num_attention_heads": 8, "num_key_value_heads": 8},
    "head_dim": {"head_dim": 8},
    "biases": {"attention_bias": True},
    "scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "scaling beside default": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "part of a head": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "two thetas": {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 8.0}},
    "theta as a list": {"rope_parameters": {"rope_theta": [1]}},
    "rope as text": {"rope_scaling": "linear"},
    "layers": {"num_hidden_layers": 0},
    "layers as text": {"num_hidden_layers": "2"},
    "more layers than weights": {"num_hidden_layers": 3},
    "width": {"hidden_size": 48},
    "rows": {"vocab_size": 5},
    "epsilon": {"rms_norm_eps": -1},
    "tied": {"tie_word_embeddings": True},
    "tied as text": {"tie_word_embeddings": "true"},
    "another model": {"model_type": "qwen3"},
    "activation": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("case", WRONG)
def test_unsupported_llama_variants_are_refused(source, tmp_path, case):
    refused(changed(source, tmp_path, **WRONG[case]), tmp_path / "base", "--source|fit the network")


@pytest.mark.parametrize("key", new_base.NEEDED)
def test_a_missing_size_is_named(source, tmp_path, key):
    refused(changed(source, tmp_path, without=[key]), tmp_path / "base", f"missing {key}")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*new_base.NEEDED, *new_base.OPTIONAL, "eos_token_id", "rope_parameters"]),
    st.sampled_from([-1, 1.5, "x", [], [None], {"a": 1}, True, 10**12, float("nan")]),
)
def test_an_odd_config_value_is_refused_in_one_line_or_loads(source, tmp_path_factory, key, value):
    """One line, or a base that loads."""
    work = tmp_path_factory.mktemp("odd")
    try:
        new_base.import_llama(str(changed(source, work, **{key: value})), work / "base")
    except InputError:
        assert not (work / "base").exists()
    else:
        load_tokenizer(work / "base")
        load_llada(work / "base")


@pytest.mark.parametrize("missing", [{"without": ["eos_token_id"]}, {"eos_token_id": None}])
def test_a_missing_eos_id_is_taken_from_the_tokenizer(source, tmp_path, missing):
    new_base.import_llama(str(changed(source, tmp_path, **missing)), tmp_path / "base")
    assert load_tokenizer(tmp_path / "base").eos_token_id == 2


@pytest.mark.parametrize("without", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_missing_matrix_is_refused_not_silently_tied(source, tmp_path, without):
    folder = shutil.copytree(source, tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    del state[without]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, tmp_path / "base", without)


@pytest.mark.parametrize("content", [None, "{", "[]", "3"])
def test_a_folder_without_a_tokenizer_is_refused(source, tmp_path, content):
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    refused(folder, tmp_path / "base", "--source: .*tokenizer.json")


@pytest.mark.parametrize(
    "flag, value",
    [("n_layers", 0), ("n_layers", -1), ("d_model", 0), ("n_heads", 0), ("n_heads", 3)]
    + [("n_heads", 16), ("mlp_hidden_size", -4), ("max_sequence_length", 0), ("init_std", -0.1)],
)
def test_impossible_sizes_of_a_random_base_are_refused(tmp_path, monkeypatch, flag, value):
    words = ["random", "--tokenizer", ROOT / "LLaDA-tiny-Base", "--d_model", 16]
    words += [f"--{flag}={value}", "--output_dir", tmp_path / "base"]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    with pytest.raises(InputError, match="the flags"):
        new_base.main()
    assert not (tmp_path / "base").exists()
