"""The network: LLaDA's bidirectional transformer, and the LLaDA-DiT that turns it into a FlexMDM.

`LLaDAModelLM` is a native implementation of GSAI-ML's LLaDA, with the tensor names of its
checkpoints (model.transformer.*); no code from the Hub is run. `LLaDADiT` adds what a FlexMDM
needs: a time embedding, AdaLN modulation shared by groups of blocks, one end slot after the text,
and a head that predicts the expected number of missing tokens in every gap. LoRA is injected into
the backbone by peft (network/lora.py), so a frozen base keeps its tensors. What is not the paper's
(configs, loading, how rows are packed, more length heads) is in network/.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput

from flexmdm_interpolant import length_without_trailing
from network.base import NetworkBase
from network.config import FIXED_SETTINGS, FlexMDMConfig, LLaDAConfig
from network.cross_entropy import chunked_cross_entropy
from network.length_heads import length_distribution, missing_tokens, share_out
from network.packed_rows import PackedRows, Places, Rows, select

# for users; the configs live in network/config.py
__all__ = ["FIXED_SETTINGS", "FlexMDMConfig", "LLaDAConfig", "LLaDADiT", "LLaDAModelLM"]

Modulation: TypeAlias = tuple[Tensor, Tensor]  # scale and shift of a block's norms, (B, d) each


# ---- LLaDA ---------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """x / rms(x) in fp32, cast back to the input's dtype, then times weight (the original's
    order).
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d), of its shape and dtype."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        )


def rope(position: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin (N, head_dim) in fp32, NeoX halves, of positions (N,). Computed for any length:
    there is no fixed table.
    """
    inv_freq = 1 / theta ** (
        torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float32) / head_dim
    )
    angle = position.float()[:, None] * inv_freq  # elementwise: autocast leaves it alone
    angle = torch.cat([angle, angle], -1)  # (N, head_dim)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (..., head_dim), in fp32, cast back. cos, sin: broadcast to x."""
    wide = x.float()
    first, second = wide.chunk(2, -1)
    return (wide * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


class LLaDABlock(GradientCheckpointingLayer):
    """Pre-norm attention and SwiGLU. `scale`, `shift` (B, d) or None modulate the outputs of both
    norms (AdaLN).
    """

    def __init__(self, config: LLaDAConfig):
        super().__init__()
        width, self.n_heads, self.n_kv_heads = config.d_model, config.n_heads, config.n_kv_heads
        self.head_dim = width // self.n_heads
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.n_kv_heads * self.head_dim, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)  # gate
        self.up_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, width, bias=False)
        self.fused: list[Tensor] | None = None  # q, k, v and ff_proj, up_proj, each in one matrix

    def qkv(self, y: Tensor) -> list[Tensor]:
        """Heads of y (..., d): q (..., H, head_dim), k and v (..., H_kv, head_dim)."""
        if self.fused is None:
            parts = [projection(y) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        else:
            kv = self.n_kv_heads * self.head_dim
            parts = F.linear(y, self.fused[0]).split([self.n_heads * self.head_dim, kv, kv], -1)
        return [part.unflatten(-1, (-1, self.head_dim)) for part in parts]

    def attention(
        self, y: Tensor, cos: Tensor, sin: Tensor, rows: Rows, store: Tensor | None = None
    ) -> Tensor:
        """The attention branch of (normed, modulated) y, of y's shape; other arguments as in
        `body`.
        """
        q, k, v = self.qkv(y)
        heads = rows.attend(rotate(q, cos, sin), rotate(k, cos, sin), v, store)
        return self.attn_out(heads.flatten(-2))

    def mlp(self, y: Tensor) -> Tensor:
        """The SwiGLU branch of y, of y's shape."""
        if self.fused is None:
            gate, up = self.ff_proj(y), self.up_proj(y)
        else:
            gate, up = F.linear(y, self.fused[1]).chunk(2, -1)
        return self.ff_out(F.silu(gate) * up)

    def forward(self, *arguments: Any) -> Tensor:
        """`body`, which is what network/fast_blocks.py compiles, inside of checkpointing."""
        return self.body(*arguments)

    def body(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        rows: Rows,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        store: Tensor | None = None,
    ) -> Tensor:
        """x: (B, T, d) with PaddedRows, (N, d) with PackedRows; cos, sin: (T or N, 1, head_dim);
        store: this block's of CachedRows. Returns the next block's x.
        """
        x = x + self.attention(
            modulate(self.attn_norm(x), scale, shift, rows), cos, sin, rows, store
        )
        return x + self.mlp(modulate(self.ff_norm(x), scale, shift, rows))


def modulate(y: Tensor, scale: Tensor | None, shift: Tensor | None, rows: Rows) -> Tensor:
    """(1 + scale) y + shift with a row's own scale and shift, (B, d), or y if both are None."""
    if scale is None:
        return y
    assert shift is not None  # they come in pairs
    return (1 + rows.spread(scale.to(y.dtype))) * y + rows.spread(shift.to(y.dtype))


class LLaDAModelLM(NetworkBase):
    """LLaDA: logits[i] predicts token i itself. Attention is bidirectional; masked keys (padding)
    are not attended to.
    """

    config: LLaDAConfig
    config_class = LLaDAConfig

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )
        self.length_distribution = length_distribution(config.d_model, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, V x d."""
        return self.model.transformer.wte

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LLaDABlock):
            # residual branches start small in deep networks (Mitchell's rule)
            std = self.config.init_std / math.sqrt(2 * self.config.n_layers)
            for projection in (module.attn_out, module.ff_out):
                nn.init.normal_(projection.weight, std=std)

    def hidden(
        self,
        ids: Tensor,
        rows: Rows,
        modulations: Sequence[Modulation] | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """Last hidden state after ln_f: ids (B, T) with PaddedRows or (N,) with PackedRows -> the
        same with (..., d).

        modulations: per block (scale, shift), each (B, d);
        collect: a list that receives the original's hidden states (embedding, input of every later
        block, last after ln_f).
        """
        transformer, config = self.model.transformer, self.config
        x, stores = transformer.wte(ids), getattr(rows, "stores", None)
        cos, sin = (
            table[:, None]
            for table in rope(rows.position, config.d_model // config.n_heads, config.rope_theta)
        )
        for index, block in enumerate(transformer.blocks):
            if collect is not None:
                collect.append(x)
            # passed as arguments: state kept on modules would be stale when a checkpointed block is
            # run again
            scale_shift = modulations[index] if modulations else (None, None)
            x = block(x, cos, sin, rows, *scale_shift, stores and stores[index])
        x = transformer.ln_f(x)
        if collect is not None:
            collect.append(x)
        return x

    def trunk(
        self, ids: Tensor, rows: Rows, collect: list[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """(last hidden states,), for `run_trunk`."""
        return (self.hidden(ids, rows, collect=collect),)

    def head(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of hidden states (..., d) -> (..., V)."""
        return self.model.transformer.ff_out(hidden)

    def token_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p(target) at hidden states (M, d) -> (M,), in fp32 or higher precision, without
        materialising all logits.
        """
        return chunked_cross_entropy(self.head, hidden, targets, self.config.embedding_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        logits_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_hidden_states: bool = False,
        places: Places | None = None,
        missing: bool = False,
    ) -> MaskedLMOutput:
        """input_ids: long (B, L); attention_mask: (B, L), 0 where padding, or None -> .logits (B,
        L, V), or (M, V) at logits_mask. With targets, long (M,): .loss (M,), the cross-entropy at
        logits_mask, and no logits. With missing=True: .logits (M, most + 1) are log p(n tokens
        belong where the mask is), of the length distribution. places: positions of both masks, if
        known.
        """
        collect: list[Tensor] | None = [] if output_hidden_states else None
        key_mask = None if attention_mask is None else attention_mask.bool()
        places = places or self.find_places(key_mask, logits_mask, collect)
        ids, rows = self.lay_out(input_ids, key_mask, places)
        (hidden,) = self.run_trunk(ids, rows=rows, collect=collect)
        wanted = select(hidden, rows, places)
        if targets is not None:
            return MaskedLMOutput(loss=self.token_loss(wanted, targets))
        head = self.length_distribution.log_probs if missing else self.head
        return MaskedLMOutput(
            logits=head(wanted), hidden_states=None if collect is None else tuple(collect)
        )


# ---- what a FlexMDM adds -------------------------------------------------------------------------


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of t (B,) -> (B, width) in fp32: [cos(t f), sin(t f)], f_k = 10000^(-k /
    (width // 2)).
    """
    half = width // 2
    frequency = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angle = t.float()[:, None] * frequency
    embedding = torch.cat([angle.cos(), angle.sin()], -1)
    return F.pad(embedding, (0, width % 2))


class ScalarLengthHead(nn.Module):
    """Expected number of missing tokens from a hidden state, of each gap by itself (log_rate,
    softplus) or, of kind "total", of the whole row at its end slot, with a weight of each gap:
    `share_out` makes log numbers of them.
    """

    SOFTPLUS_SCALE = 1024  # the paper's code; an untrained head predicts about 700 tokens per gap
    LOG_RATE_LIMIT = 15

    def __init__(self, width: int, kind: str):
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.proj1 = nn.Linear(width, width)
        self.proj2 = nn.Linear(width, 2 if kind == "total" else 1)

    def start_low(self) -> None:
        """Start at exp(-1) missing tokens nearly everywhere: per gap, of kind "total" per row."""
        nn.init.normal_(self.proj2.weight, std=1e-3)
        nn.init.constant_(self.proj2.bias, -1.0)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d) -> log of the expected number (...,), of kind "total" what share_out takes,
        (..., 2); in fp32.
        """
        z = self.proj2(F.gelu(self.proj1(self.norm(hidden.to(self.norm.weight.dtype))))).float()
        if self.kind == "softplus":
            return torch.log(F.softplus(z) * self.SOFTPLUS_SCALE).squeeze(-1)
        z = z.clamp(-self.LOG_RATE_LIMIT, self.LOG_RATE_LIMIT)
        return z if self.kind == "total" else z.squeeze(-1)


class LLaDADiT(NetworkBase):
    """FlexMDM: LLaDA with time, grouped AdaLN and the insertion head (the network contract of the
    samplers and losses).
    """

    config: FlexMDMConfig
    config_class = FlexMDMConfig
    # torch's containers do not say what they hold: Linear, SiLU, Linear; and Linears
    time_mlp: Any
    temb_mods: Any

    def __init__(self, config: FlexMDMConfig):
        super().__init__(config)
        assert config.backbone is not None  # only a config without a network has none
        backbone = LLaDAConfig.from_json(config.backbone, "backbone of the FlexMDM config")
        width, groups = backbone.d_model, math.ceil(backbone.n_layers / config.adaln_group_size)
        self.backbone = LLaDAModelLM(backbone)
        self.time_mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.temb_mods = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(groups))
        self.scalar_length_head = ScalarLengthHead(width, config.length_head)
        self.length_distribution = length_distribution(width, config)
        self.post_init()
        self.init_new_parts()

    def get_input_embeddings(self) -> nn.Embedding:
        """The backbone's token embedding, V x d."""
        return self.backbone.get_input_embeddings()

    def new_parts(self) -> list[nn.Module]:
        """The newly initialised modules, which a LLaDA does not have."""
        parts = [self.time_mlp, self.temb_mods, self.scalar_length_head]
        return parts if self.length_distribution is None else [*parts, self.length_distribution]

    def init_new_parts(self) -> None:
        """Initialise them: modulation is zero, so that the initial FlexMDM is LLaDA itself."""
        for part in self.new_parts():
            for module in part.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
        for modulation in self.temb_mods:
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
        if self.config.length_head != "softplus":
            self.scalar_length_head.start_low()
        if self.length_distribution is not None:
            self.length_distribution.start_low()

    def modulations(self, timesteps: Tensor) -> list[Modulation]:
        """(scale, shift) of every block at times (B,), each (B, d); one pair serves a group of
        blocks and both their norms.
        """
        embedding = timestep_embedding(
            timesteps.float() * self.config.time_scale, self.time_mlp[0].in_features
        )
        temb = self.time_mlp(embedding.to(self.time_mlp[0].weight.dtype))  # (B, d)
        groups = [modulation(temb).chunk(2, -1) for modulation in self.temb_mods]
        n_layers, size = self.backbone.config.n_layers, self.config.adaln_group_size
        return [groups[index // size] for index in range(n_layers)]

    def trunk(
        self, ids: Tensor, rows: Rows, timesteps: Tensor, collect: list[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """(last hidden states, the insertion head's output for them), of all tokens."""
        hidden = self.backbone.hidden(ids, rows, self.modulations(timesteps), collect)
        return hidden, self.scalar_length_head(hidden)

    def forward(
        self,
        input_ids: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        logits_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_hidden_states: bool = False,
        places: Places | None = None,
        missing: Tensor | None = None,
        missing_at: Tensor | None = None,
    ) -> dict[str, Any]:
        """The network contract.

        input_ids: long (B, L), right-padded; timesteps: (B,), t of the FlexMDM clock (1 = clean);
        attention_mask: (B, L), 1 on the text, or None: then all but trailing padding;
        logits_mask: bool (B, L) or None;
        places: positions where both are true, if known. Returns {"logits": (B, L, V), or (M, V) at
        logits_mask; "length": (B, L+1) expected missing tokens before position j, "log_length": its
        log}, both in fp32 and meaningful for j <= length of the row only. With targets, long (M,),
        it has "token_loss" (M,), the cross-entropy at logits_mask, instead of logits.

        If there is a length distribution: with missing, long (B, L+1), the true numbers of missing
        tokens, "missing_loss" (B, L+1) is -log p of them; with missing_at, long (m,), positions
        among B * (L+1), "missing_log_probs" (m, most + 1) is log p(n) of the gaps there. In fp32.
        """
        config, (batch, length) = self.config, input_ids.shape
        end_slot = input_ids.new_full((batch, 1), config.pad_token_id)
        ids = torch.cat([input_ids, end_slot], 1)  # (B, L+1)
        collect: list[Tensor] | None = [] if output_hidden_states else None
        lengths = (
            length_without_trailing(input_ids, config.pad_token_id)
            if attention_mask is None
            else attention_mask.sum(1)
        )
        key_mask = None
        if not config.attend_to_padding:
            position = torch.arange(length + 1, device=ids.device)
            key_mask = position <= lengths[:, None]  # the text and its one end slot
            ids = torch.where(position < lengths[:, None], ids, config.pad_token_id)
        places = places or self.find_places(key_mask, logits_mask, collect)
        ids, rows = self.lay_out(ids, key_mask, places)
        # (B, L+1, d), (B, L+1), or (N, d), (N,); two numbers for each token of a "total" head
        hidden, log_length = self.run_trunk(ids, timesteps, rows=rows, collect=collect)
        # (B, L+1)
        log_length = rows.pad(log_length) if isinstance(rows, PackedRows) else log_length
        if config.length_head == "total":
            log_length = share_out(log_length, lengths)
        wanted = select(hidden, rows, places, end_slots=1)
        output: dict[str, Any] = {"length": log_length.exp(), "log_length": log_length}
        if missing is not None or missing_at is not None:
            head = self.length_distribution
            output |= missing_tokens(head, hidden, rows, places, missing, missing_at)
        if targets is not None:
            output["token_loss"] = self.backbone.token_loss(wanted, targets)
        else:
            output["logits"] = self.backbone.head(wanted)
        if collect is not None:
            output["hidden_states"] = tuple(collect)
        return output


# ---- transformers' Auto classes ------------------------------------------------------------------

# exist_ok: a version of transformers, or another package, may have a model of this name
AutoConfig.register("llada", LLaDAConfig, exist_ok=True)
AutoConfig.register("flexmdm", FlexMDMConfig, exist_ok=True)
AutoModel.register(LLaDAConfig, LLaDAModelLM, exist_ok=True)
AutoModel.register(FlexMDMConfig, LLaDADiT, exist_ok=True)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAModelLM, exist_ok=True)
# the original's config.json has LLaDA under this name as well; it is no causal model. A FlexMDM is
# neither: its forward needs the time
AutoModelForCausalLM.register(LLaDAConfig, LLaDAModelLM, exist_ok=True)
