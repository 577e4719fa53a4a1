"""The configs of the two networks: config.json of a LLaDA and of a FlexMDM, read and checked.

Allowed types and ranges of single values are in common/config_values.py.
"""

from collections.abc import Mapping
from typing import Any, Self

from transformers.configuration_utils import PreTrainedConfig

from common.config_values import (
    LENGTH_DISTRIBUTION,
    LENGTH_HEADS,
    check_flexmdm,
    check_llada,
    with_saved_weights,
)
from flexmdm_interpolant import schedule_from_config

# Options of the original class that this network does not implement: any other value is refused by
# name.
FIXED_SETTINGS = {
    "rope": True,
    "rope_full_precision": True,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "alibi": False,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "residual_dropout": 0.0,
    "multi_query_attention": None,
}


SIZES = (
    "d_model",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "mlp_hidden_size",
    "vocab_size",
    "embedding_size",
    "max_sequence_length",
    "rope_theta",
    "rms_norm_eps",
    "mask_token_id",
    "pad_token_id",
    "eos_token_id",
)


class NetworkConfig(PreTrainedConfig):
    """What the two configs share: transformers' own functions read and write our config.json."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str = "config.json") -> Self:
        """The config of a config.json (a dict), checked. Raises ValueError or InputError."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        raise NotImplementedError

    def own_fields(self) -> dict[str, Any]:
        """The config's own fields, without what transformers adds."""
        return {key: getattr(self, key) for key in type(self).__annotations__}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """What from_pretrained and AutoConfig call with a config.json: the config (and the unused
        kwargs, where return_unused_kwargs is among them). Raises as from_json does.
        """
        source = f"config.json of {kwargs.get('name_or_path', cls.model_type)}"
        return super().from_dict(cls.from_json(config_dict, source).own_fields(), **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """What save_pretrained writes: to_json."""
        return self.to_json()


class LLaDAConfig(NetworkConfig):
    """config.json of a LLaDA checkpoint (the hub's GSAI-ML/LLaDA-8B-Base, say)."""

    model_type = "llada"
    d_model: int = 4096
    n_heads: int = 32
    n_kv_heads: int = 32
    n_layers: int = 32
    mlp_hidden_size: int = 12288
    vocab_size: int = 126464
    embedding_size: int = 126464
    max_sequence_length: int = 4096
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    mask_token_id: int = 126336
    pad_token_id: int = 126081  # from_json refuses None, which the class above allows
    eos_token_id: int | list[int] | None = 126081
    init_std: float = 0.02  # for training from scratch; the original's key
    length_distribution: int = 0  # ours, as FlexMDMConfig's; written where there is such a head

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str = "config.json") -> "LLaDAConfig":
        """Check a config.json (a dict) and keep the relevant keys. Raises ValueError naming every
        key that is missing or unsupported: a missing key would mean the original class's GPT-2-like
        default, which is never assumed. Raises InputError for an impossible value.
        """
        check_llada(content, source)
        if content.get("model_type") != "llada":
            raise ValueError(f"{source}: model_type is {content.get('model_type')!r}, not 'llada'")
        missing = [key for key in (*SIZES, *FIXED_SETTINGS) if key not in content]
        if missing:
            raise ValueError(f"{source}: missing {', '.join(missing)}")
        wrong = [
            f"{key}={content[key]!r} (only {value!r})"
            for key, value in FIXED_SETTINGS.items()
            if (content[key] or None) != (value or None)
        ]
        if wrong:
            raise ValueError(f"{source}: unsupported {', '.join(wrong)}")
        sizes = {key: content[key] for key in SIZES}
        sizes["n_kv_heads"] = sizes["n_kv_heads"] or sizes["n_heads"]
        sizes["embedding_size"] = sizes["embedding_size"] or sizes["vocab_size"]
        if sizes["d_model"] % sizes["n_heads"] or sizes["n_heads"] % sizes["n_kv_heads"]:
            raise ValueError(
                f"{source}: d_model {sizes['d_model']}, n_heads {sizes['n_heads']}, n_kv_heads"
                f" {sizes['n_kv_heads']} do not divide"
            )
        most = content.get("length_distribution", 0)
        return cls(**sizes, init_std=content.get("init_std", 0.02), length_distribution=most)

    def to_json(self) -> dict[str, Any]:
        """The dict that LLaDA's own class reads, every key written out."""
        return {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            **{key: getattr(self, key) for key in SIZES},
            **FIXED_SETTINGS,
            "init_std": self.init_std,
            **(
                {"length_distribution": self.length_distribution}
                if self.length_distribution
                else {}
            ),
        }


class FlexMDMConfig(NetworkConfig):
    """Everything that inference must know about a FlexMDM checkpoint; nothing is assumed.

    backbone: config.json of the base (LLaDAConfig.to_json); schedules as
    flexmdm_interpolant.schedule_from_config reads them;
    time_epsilon: the network was trained on t in [0, 1 - time_epsilon]; time_scale: t is multiplied
    by it before its embedding (1000 ours, 1 the paper's code); length_head: "log_rate",
    "softplus" (x 1024, the paper's code) or "total" (ScalarLengthHead); length_distribution: the
    largest number of missing tokens in a gap for the head p(n | xt, t), 0: there is no such head;
    length_distribution_at_start: it was fitted afterwards, at t = 0 only;
    lora: r, lora_alpha, lora_dropout, or None; saved_weights: "trainable" (needs
    base_model_name_or_path) or "full"; `holds` ("trainable" or "everything") in older checkpoints.
    """

    model_type = "flexmdm"
    backbone: dict | None = None
    base_model_name_or_path: str | None = None
    insertion_schedule: dict | None = None
    unmask_schedule: dict | None = None
    time_epsilon: float = 1e-3
    time_scale: float = 1000.0
    length_head: str = "log_rate"
    length_distribution: int = 0
    length_distribution_at_start: bool = False
    attend_to_padding: bool = False
    adaln_group_size: int = 8
    max_length: int = 1024
    mask_token_id: int = 126336
    pad_token_id: int = 126081  # from_json refuses None, which the class above allows
    lora: dict | None = None
    saved_weights: str = "full"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.insertion_schedule = self.insertion_schedule or {"name": "linear"}
        self.unmask_schedule = self.unmask_schedule or {"name": "linear"}
        if self.length_head not in LENGTH_HEADS:
            kinds = ", ".join(LENGTH_HEADS)
            raise ValueError(f"length_head is {self.length_head!r}, not one of {kinds}")
        fits, words = LENGTH_DISTRIBUTION
        if not fits(self.length_distribution):
            most = self.length_distribution
            raise ValueError(f"FlexMDMConfig: length_distribution is {most!r}, not {words}")

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str = "config.json") -> "FlexMDMConfig":
        """Check a config.json (a dict), the base's config in it and the schedules. Raises
        ValueError for keys that this version does not know, InputError for an impossible value.
        """
        content = with_saved_weights(content, source)
        check_flexmdm(content, source)
        content = {key: value for key, value in content.items() if key != "architectures"}
        unknown = set(content) - set(cls.__annotations__) - {"model_type"}
        if content.pop("model_type", None) != "flexmdm" or unknown:
            raise ValueError(
                f"{source}: not a FlexMDM config this version knows"
                f" ({', '.join(unknown) or 'model_type'})"
            )
        LLaDAConfig.from_json(content["backbone"], f"{source}: backbone")
        try:
            for name in ("insertion_schedule", "unmask_schedule"):
                if content.get(name) is not None:
                    schedule_from_config(content[name])
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """The content of config.json, every field written out."""
        return {"architectures": ["LLaDADiT"], "model_type": "flexmdm", **self.own_fields()}
