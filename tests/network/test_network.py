"""The network and its loading: golden numbers of the original code, what padding must not change,
every checkpoint format.

Run: FLEXMDM_GOLDEN=... pytest tests/network/test_network.py
"""

import json
import shutil

import pytest
import tiny
import torch
from new_base import import_llama

from common.errors import InputError
from data.tokenizer import load_tokenizer
from llada_dit import ScalarLengthHead, timestep_embedding
from llada_utils import export_merged, load_flexmdm, load_llada, new_flexmdm, write_checkpoint
from network.checkpoint_folder import checkpoint_kind
from network.config import FIXED_SETTINGS, LLaDAConfig
from network.lora import add_lora, merge_lora

LORA = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.0}
HEADS = {
    "log_rate": {},
    "total": {"length_head": "total"},
    "both heads": {"length_head": "total", "length_distribution": 70},
}


@pytest.fixture
def paper_base(golden_dir, tmp_path):
    """A folder whose config.json fits the golden pytorch_model.bin."""
    backbone = json.loads((golden_dir / "flexmdm_tiny/config.json").read_text())["backbone"]
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llada", **backbone}))
    return folder


# ---- golden numbers


def test_golden_llada(golden, golden_dir):
    numbers = golden("llada_tiny/golden.safetensors")
    model = load_llada(golden_dir / "llada_tiny")
    output = model(numbers["input_ids"], output_hidden_states=True)
    torch.testing.assert_close(output.logits, numbers["logits"], rtol=0, atol=1e-5)
    assert len(output.hidden_states) == 5
    for index, hidden in enumerate(output.hidden_states):
        torch.testing.assert_close(hidden, numbers[f"hidden_states.{index}"], rtol=0, atol=2e-5)
    masked = model(numbers["input_ids"], numbers["attention_mask"]).logits
    torch.testing.assert_close(masked, numbers["logits_masked_r2"], rtol=0, atol=1e-5)
    long = model(numbers["long_input_ids"]).logits[:, -8:]  # longer than max_sequence_length
    torch.testing.assert_close(long, numbers["long_logits_last8"], rtol=0, atol=1e-5)


def test_golden_llada_inside_a_block(golden, golden_dir):
    from llada_dit import rope, rotate
    from network.packed_rows import PaddedRows

    numbers = golden("llada_tiny/golden.safetensors")
    model = load_llada(golden_dir / "llada_tiny")
    cos, sin = rope(torch.arange(128), 16, 500000.0)
    torch.testing.assert_close(cos, numbers["rope_cos"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin, numbers["rope_sin"], rtol=0, atol=1e-6)
    block, x = model.model.transformer.blocks[1], numbers["hidden_states.1"]
    y = block.attn_norm(x)
    torch.testing.assert_close(y, numbers["block1.attn_norm"], rtol=0, atol=1e-5)
    for projection, name in [(block.q_proj, "q_rot"), (block.k_proj, "k_rot")]:
        heads = projection(y).view(3, 17, 4, 16).transpose(1, 2)
        torch.testing.assert_close(
            rotate(heads, cos[:17], sin[:17]), numbers[f"block1.{name}"], rtol=0, atol=1e-5
        )
    attended = block.attention(y, cos[:17, None], sin[:17, None], PaddedRows(17, None, "cpu"))
    torch.testing.assert_close(attended, numbers["block1.attn_out"], rtol=0, atol=1e-5)
    torch.testing.assert_close(x + attended, numbers["block1.after_attn"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        block.ff_norm(x + attended), numbers["block1.ff_norm"], rtol=0, atol=1e-5
    )


def test_golden_llada_bf16(golden, golden_dir):
    """Sharded bf16 weights, and fp32 weights under autocast: bf16 keeps 8 bits, so agreement is to
    about 1 % of the logits' size.
    """
    numbers = golden("llada_tiny/golden.safetensors")
    sharded = load_llada(golden_dir / "llada_tiny_sharded_bf16", dtype=torch.bfloat16)
    assert sharded.model.transformer.wte.weight.dtype == torch.bfloat16
    output = sharded(numbers["input_ids"], output_hidden_states=True)
    torch.testing.assert_close(output.logits, numbers["logits_bf16"], rtol=0, atol=0.04)
    torch.testing.assert_close(
        output.hidden_states[-1], numbers["hidden_last_bf16"], rtol=0, atol=0.06
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = load_llada(golden_dir / "llada_tiny")(numbers["input_ids"]).logits
    torch.testing.assert_close(
        logits, numbers["logits_autocast_bf16_fp32weights"], rtol=0, atol=0.04
    )


@pytest.mark.parametrize("merge", [False, True])
def test_golden_flexmdm(golden, golden_dir, paper_base, merge):
    """The paper code's pytorch_model.bin, LoRA scale 1.5, padding attended to, as adapters and
    merged.
    """
    numbers = golden("flexmdm_tiny/golden.safetensors")
    model = load_flexmdm(golden_dir / "flexmdm_tiny", base=paper_base, lora_alpha=6, merge=merge)
    output = model(numbers["input_ids"], numbers["t"], output_hidden_states=True)
    torch.testing.assert_close(output["logits"], numbers["logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(output["length"], numbers["length"], rtol=1e-4, atol=0)
    for index in (0, 1, 8, 9, 10):  # a wrong group of a block shows between 8 and 9
        torch.testing.assert_close(
            output["hidden_states"][index], numbers[f"hidden_states.{index}"], rtol=0, atol=5e-5
        )
    if merge:
        merged = golden("flexmdm_tiny/merged_lora_weights.safetensors")
        weights = dict(model.named_parameters())
        for name, weight in merged.items():
            torch.testing.assert_close(
                weights[name.replace("merged.", "backbone.")], weight, rtol=0, atol=1e-6
            )
    with torch.no_grad():
        for modulation in model.temb_mods:
            modulation.weight.zero_()
            modulation.bias.zero_()
    torch.testing.assert_close(
        model(numbers["input_ids"], numbers["t"])["logits"],
        numbers["logits_without_modulation"],
        rtol=0,
        atol=1e-5,
    )


def test_golden_flexmdm_bf16_autocast(golden, golden_dir, paper_base):
    numbers = golden("flexmdm_tiny/golden.safetensors")
    model = load_flexmdm(golden_dir / "flexmdm_tiny", base=paper_base, lora_alpha=6, merge=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(numbers["input_ids"], numbers["t"])
    # what bf16 costs the original
    noise = (numbers["logits_bf16_autocast"].float() - numbers["logits"]).square().mean().sqrt()
    assert (
        output["logits"].float() - numbers["logits_bf16_autocast"].float()
    ).square().mean().sqrt() < 1.5 * noise
    assert (output["logits"].float() - numbers["logits"]).square().mean().sqrt() < 1.5 * noise
    torch.testing.assert_close(
        output["length"], numbers["length_bf16_autocast"].float(), rtol=0.06, atol=0
    )


def test_golden_time_embedding(golden, golden_dir, paper_base):
    numbers = golden("flexmdm_tiny/golden.safetensors")
    torch.testing.assert_close(
        timestep_embedding(numbers["t"], 64), numbers["timestep_embedding"], rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        timestep_embedding(numbers["t"], 7),
        numbers["timestep_embedding_odd_dim7"],
        rtol=0,
        atol=1e-6,
    )
    model = load_flexmdm(golden_dir / "flexmdm_tiny", base=paper_base)
    torch.testing.assert_close(
        model.time_mlp(timestep_embedding(numbers["t"], 64)), numbers["temb"], rtol=0, atol=1e-5
    )


def test_paper_checkpoint_with_wrong_keys_is_refused(golden_dir, paper_base, tmp_path):
    state = torch.load(golden_dir / "flexmdm_tiny/pytorch_model.bin", weights_only=True)
    prefix = "backbone.base_model.model.model.transformer."

    def attempt(change, message):
        changed = dict(state)
        change(changed)
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        torch.save(changed, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            load_flexmdm(folder, base=paper_base)

    def rename(s):
        s["time_mlp.9.weight"] = s.pop("time_mlp.0.weight")

    attempt(rename, r"missing time_mlp\.0\.weight; unexpected time_mlp\.9\.weight")
    attempt(
        lambda s: s.pop(f"{prefix}blocks.3.q_proj.lora_B.default.weight"),
        r"missing .*blocks\.3\.q_proj\.lora_B",
    )
    attempt(
        lambda s: s.update({"scalar_length_head.proj2.weight": torch.zeros(1, 3)}),
        r"misshapen scalar_length_head\.proj2\.weight",
    )
    attempt(
        lambda s: s.update({f"{prefix}blocks.5.temb_mod.bias": torch.ones(128)}),
        r"temb_mod.*blocks\.5\.temb_mod\.bias",
    )
    with pytest.raises(InputError, match="--base_model"):
        load_flexmdm(golden_dir / "flexmdm_tiny", base=None)


# ---- what must hold for any weights


@pytest.mark.parametrize(
    "kind, expected",
    [("log_rate", 0.37), ("softplus", 700), ("total", 0.37 / 12)],
)
def test_untrained_flexmdm_is_llada(kind, expected):
    """Zero AdaLN and zero lora_B: logits equal LLaDA's first L rows on the same ids with the end
    slot appended, at every t.
    """
    model = tiny.flexmdm(length_head=kind, lora=LORA)
    llada = tiny.llada()
    model.backbone.load_state_dict(llada.state_dict())
    add_lora(model.backbone, LORA)
    model.init_new_parts()
    ids = torch.randint(0, 58, (3, 11))
    with_slot = torch.cat([ids, torch.full((3, 1), tiny.PAD)], 1)
    for t in (0.0, 0.3, 0.999):
        output = model(ids, torch.full((3,), t))
        torch.testing.assert_close(
            output["logits"], llada(with_slot).logits[:, :11], rtol=0, atol=1e-5
        )
    assert 0.5 * expected < output["length"].mean() < 2 * expected


@pytest.mark.parametrize("explicit_mask", [False, True])
def test_padding_changes_nothing(explicit_mask):
    """A row alone equals the same row in a padded batch, for logits and lengths; an end-of-text
    inside a row is text.
    """
    model = tiny.flexmdm()
    lengths = [0, 1, 5, 9, 13]
    rows = [torch.randint(0, 58, (n,)) for n in lengths]
    rows[3][4] = tiny.PAD
    batch = torch.full((5, 16), tiny.PAD)
    for number, row in enumerate(rows):
        batch[number, : len(row)] = row
    mask = torch.arange(16) < torch.tensor(lengths)[:, None] if explicit_mask else None
    t = torch.rand(5)
    together = model(batch, t, attention_mask=mask)
    for number, row in enumerate(rows):
        n = len(row)
        alone = model(row[None], t[number : number + 1])
        torch.testing.assert_close(
            alone["logits"][0], together["logits"][number, :n], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            alone["length"][0], together["length"][number, : n + 1], rtol=1e-4, atol=1e-5
        )


def test_padding_matters_in_compatibility_mode():
    model = tiny.flexmdm(attend_to_padding=True)
    row = torch.randint(0, 58, (1, 5))
    padded = torch.cat([row, torch.full((1, 4), tiny.PAD)], 1)
    assert (
        model(row, torch.rand(1))["logits"] - model(padded, torch.rand(1))["logits"][:, :5]
    ).abs().max() > 1e-3


def test_logits_at_chosen_positions_only():
    ids, chosen = torch.randint(0, 58, (4, 9)), torch.rand(4, 9) < 0.4
    for model, call in [
        (tiny.llada(), lambda m, **k: m(ids, **k).logits),
        (tiny.flexmdm(), lambda m, **k: m(ids, torch.ones(4) / 2, **k)["logits"]),
    ]:
        torch.testing.assert_close(
            call(model, logits_mask=chosen), call(model)[chosen], rtol=1e-4, atol=1e-5
        )


def test_grouped_query_attention_equals_repeated_heads():
    model = tiny.llada(n_kv_heads=2)
    full = tiny.llada()
    state = model.state_dict()
    for name in list(state):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            state[name] = state[name].view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32)
    full.load_state_dict(state)
    ids = torch.randint(0, 58, (2, 7))
    torch.testing.assert_close(model(ids).logits, full(ids).logits, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_gives_equal_gradients():
    model = tiny.flexmdm(lora=LORA)
    add_lora(model.backbone, LORA)
    tiny.stir(model).train()
    ids, t = torch.randint(0, 58, (3, 9)), torch.rand(3)
    gradients = []
    for on in (False, True):
        (model.activation_checkpointing_enable if on else model.activation_checkpointing_disable)()
        model.zero_grad()
        output = model(ids, t)
        (output["logits"].square().mean() + output["length"].mean()).backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        )
    assert gradients[0] and all(g.abs().sum() > 0 for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_length_head_rates_are_bounded_or_nonnegative():
    hidden = torch.randn(5, 32) * 100
    head = tiny.stir(ScalarLengthHead(32, "log_rate"), 3.0)
    assert head(hidden).abs().max() <= 15
    assert (tiny.stir(ScalarLengthHead(32, "softplus"))(hidden).exp() >= 0).all()


# ---- configurations and formats


def test_unsupported_config_values_are_refused_by_name():
    good = tiny.llada_config().to_json()
    for key, value in [
        ("rope", False),
        ("block_type", "sequential"),
        ("weight_tying", True),
        ("include_qkv_bias", True),
        ("alibi", True),
        ("layer_norm_type", "default"),
        ("embedding_dropout", 0.1),
        ("activation_type", "gelu"),
        ("multi_query_attention", True),
    ]:
        with pytest.raises(ValueError, match=key):
            LLaDAConfig.from_json({**good, key: value})
    for key in (
        "rope",
        "weight_tying",
        "n_kv_heads",
        "mask_token_id",
        "rms_norm_eps",
        "block_type",
    ):
        with pytest.raises(ValueError, match=f"missing .*{key}"):
            LLaDAConfig.from_json({k: v for k, v in good.items() if k != key})
    assert set(FIXED_SETTINGS) <= set(good) and LLaDAConfig.from_json(good).to_json() == good


def test_8b_sizes_are_the_papers():
    """LLaDA-8B's config gives 8,015,581,184 base and 402,657,281 trainable parameters (on the meta
    device: nothing is allocated).
    """
    from llada_utils import build_flexmdm
    from network.config import FlexMDMConfig

    backbone = LLaDAConfig().to_json()
    model = build_flexmdm(
        FlexMDMConfig(backbone=backbone, lora={"r": 128, "lora_alpha": 128, "lora_dropout": 0.1})
    )
    count = lambda parameters: sum(p.numel() for p in parameters)
    assert (
        count(p for n, p in model.backbone.named_parameters() if ".lora_" not in n) == 8_015_581_184
    )
    assert sum(".lora_" not in n for n, _ in model.backbone.named_parameters()) == 291
    assert count(p for n, p in model.named_parameters() if ".lora_" in n) == 117_374_976
    assert [
        count(part.parameters())
        for part in (model.temb_mods, model.time_mlp, model.scalar_length_head)
    ] == [134_250_496, 134_238_208, 16_793_601]
    assert count(p for p in model.parameters() if p.requires_grad) == 402_657_281


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("lora", [LORA, None])
def test_own_checkpoint_round_trip_and_export(tmp_path, lora, head):
    base = tiny.write_llada(tmp_path / "base")
    model = new_flexmdm(
        base,
        lora=lora,
        max_length=64,
        insertion_schedule={"name": "power", "p": 1.7},
        adaln_group_size=2,
        **head,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(model, folder, tiny.tokenizer())
    assert checkpoint_kind(folder) == "flexmdm"
    ids, t = torch.randint(0, 58, (2, 9)), torch.rand(2)
    want = model(ids, t)
    export_merged(folder, tmp_path / "merged")
    shutil.rmtree(tmp_path / "base") if lora is None else None
    again = load_flexmdm(folder)
    assert (
        again.config.insertion_schedule == {"name": "power", "p": 1.7}
        and again.config.max_length == 64
    )
    shutil.rmtree(tmp_path / "base", ignore_errors=True)
    for loaded in (again, load_flexmdm(tmp_path / "merged")):
        got = loaded(ids, t)
        torch.testing.assert_close(got["logits"], want["logits"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got["length"], want["length"], rtol=1e-4, atol=1e-5)
        assert not any(".lora_" in name for name, _ in loaded.named_parameters())
    if lora:
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "pt") as content:
            assert set(content.keys()) == {
                name for name, p in model.named_parameters() if p.requires_grad
            }


def test_adapter_folder_is_plain_peft(tmp_path):
    """What the baseline writes, peft itself reads; what peft writes, load_llada reads."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tiny.write_llada(tmp_path / "base")
    model = load_llada(base)
    model.name_or_path = str(base)
    add_lora(model, LORA)
    tiny.stir(model)
    model.load_state_dict(
        {
            **model.state_dict(),
            **{
                (
                    n.replace(".weight", ".base_layer.weight")
                    if n.replace(".weight", ".base_layer.weight") in model.state_dict()
                    else n
                ): t
                for n, t in load_llada(base).state_dict().items()
            },
        }
    )
    (tmp_path / "ours").mkdir()
    write_checkpoint(model, tmp_path / "ours", tiny.tokenizer())
    ids = torch.randint(0, 58, (2, 9))
    want = model(ids).logits
    torch.testing.assert_close(
        load_llada(tmp_path / "ours")(ids).logits, want, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        PeftModel.from_pretrained(load_llada(base), str(tmp_path / "ours")).eval()(ids).logits,
        want,
        rtol=1e-4,
        atol=1e-4,
    )
    theirs = get_peft_model(
        load_llada(base), LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"])
    )
    tiny.stir(theirs, 0.1)
    theirs.base_model.model.name_or_path = str(base)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    with torch.no_grad():  # stir also changed the base: put it back
        clean = dict(load_llada(base).named_parameters())
        for name, parameter in theirs.named_parameters():
            if "lora_" not in name:
                parameter.copy_(
                    clean[name.removeprefix("base_model.model.").replace(".base_layer", "")]
                )
    torch.testing.assert_close(
        load_llada(tmp_path / "theirs", base=base)(ids).logits,
        theirs(ids).logits,
        rtol=1e-4,
        atol=1e-4,
    )


def test_damaged_and_wrong_folders_are_refused(tmp_path):
    base = tiny.write_llada(tmp_path / "base")
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(InputError, match="model.safetensors"):
        load_llada(base)
    (base / "model.safetensors").write_bytes(weights)
    tiny.edit_json(base / "config.json", d_model=64)
    with pytest.raises(InputError, match="misshapen"):
        load_llada(base)
    with pytest.raises(InputError, match="neither a folder nor a hub id"):
        load_llada("no/such/folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint_kind(tmp_path / "empty")
    with pytest.raises(InputError, match="is a LLaDA"):
        load_flexmdm(tiny.write_llada(tmp_path / "other"))


def test_import_of_a_llama(tmp_path, data_dir):
    """A real pretrained Llama-architecture model: our block gives the numbers of transformers' own
    Llama once attention is causal.
    """
    from transformers import LlamaForCausalLM

    source = data_dir / "stories260K"
    import_llama(source, tmp_path / "base")
    ours, theirs = load_llada(tmp_path / "base"), LlamaForCausalLM.from_pretrained(source).eval()
    one = torch.randint(3, 512, (4, 1))  # one token: causal or not is the same
    torch.testing.assert_close(
        ours(one).logits[..., :512], theirs(one).logits, rtol=1e-4, atol=1e-4
    )
    ids = torch.randint(3, 512, (1, 12))
    hidden = ours.model.transformer.wte(ids)  # longer: our blocks under a causal mask
    from llada_dit import rope
    from network.packed_rows import PaddedRows

    cos, sin = (table[:, None] for table in rope(torch.arange(12), 8, ours.config.rope_theta))
    rows = PaddedRows(12, None, "cpu")
    rows.mask = torch.ones(12, 12, dtype=torch.bool).tril()
    for block in ours.model.transformer.blocks:
        hidden = block(hidden, cos, sin, rows)
    logits = ours.head(ours.model.transformer.ln_f(hidden))[..., :512]
    torch.testing.assert_close(logits, theirs(ids).logits, rtol=1e-3, atol=1e-3)
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.mask_token_id == ours.config.mask_token_id >= 512 and tokenizer.chat_template


def test_merging_lora_leaves_no_adapter_and_the_same_logits():
    model = add_lora(tiny.llada(), LORA)
    tiny.stir(model)
    ids = torch.randint(0, 58, (2, 5))
    want = model(ids).logits
    merge_lora(model)
    assert not any("lora" in name for name, _ in model.named_modules())
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)


def test_tokenizer_of_llada(data_dir, tmp_path):
    """LLaDA-8B-Base's may lack the header tokens and the template: added at exactly LLaDA's ids."""
    tokenizer = load_tokenizer(data_dir / "llada_tokenizer")
    assert (
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        len(tokenizer),
    ) == (126336, 126081, 126080, 126349)
    base = tmp_path / "base"
    base.mkdir()
    content = json.loads((data_dir / "llada_tokenizer/tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 126346]
    for token in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"):
        content["model"]["vocab"].pop(token, None)
    (base / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((data_dir / "llada_tokenizer/tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    repaired = load_tokenizer(base)
    turn = [{"role": "user", "content": " What is 2 + 3? "}]
    assert (
        repaired.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
        == tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    )
    assert [
        repaired.convert_tokens_to_ids(token)
        for token in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    ] == [126346, 126347, 126348]


def test_a_base_in_four_bits(tmp_path):
    """--load_in_4bit: frozen matrices are packed, LoRA trains beside them, and a checkpoint holds
    what it holds without.
    """
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from llada_utils import write_checkpoint
    from network.quantization import quantize_base
    from training.estimate import flops_per_token

    base = tiny.write_llada(
        tmp_path / "base", d_model=128, n_heads=2, n_kv_heads=2, mlp_hidden_size=256
    )
    model = new_flexmdm(base, lora=LORA).train()
    ids, t = torch.randint(0, 50, (2, 10)), torch.rand(2)
    flops = flops_per_token(model)
    matrix = model.backbone.model.transformer.blocks[1].ff_out.weight.clone()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    quantize_base(model).to("cpu")
    packed = [parameter for parameter in model.parameters() if parameter.dtype == torch.uint8]
    assert len(packed) == 3 * 7 and flops_per_token(model) == flops
    output = model(ids, t)
    weight = model.backbone.model.transformer.blocks[1].ff_out.weight
    error = (
        bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state) - matrix
    ).norm() / matrix.norm()
    assert 1e-3 < error < 0.15, error  # NF4: 16 values for normal weights
    (output["logits"].square().mean() + output["log_length"].mean()).backward()
    assert names == {
        name for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(model, folder, tiny.tokenizer())
    assert {name for name, _ in load_flexmdm(folder, merge=False).named_parameters()} >= names
