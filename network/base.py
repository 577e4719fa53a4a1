"""What the two networks share and the paper does not speak of: transformers' interface, and the way
from a padded batch to the rows that the blocks compute.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from network.config import FlexMDMConfig
from network.length_heads import length_distribution
from network.packed_rows import PackedRows, PaddedRows, Places, Rows
from network.pretrained import refuse_others, saved_into, upload


def flat_places(mask: Tensor | None) -> Tensor | None:
    """Where a bool (B, L) is true: long (M,), ascending, among B * L; None for None."""
    return None if mask is None else mask.flatten().nonzero()[:, 0]


class NetworkBase(PreTrainedModel):
    """What the two networks share: checkpointing by block, the block FSDP wraps, initialisation,
    and transformers' ways to load and save.

    from_pretrained, save_pretrained, generate_text and infill_text call functions of modules that
    import this one: they import them when they are called.
    """

    supports_gradient_checkpointing = True
    _no_split_modules = ["LLaDABlock"]
    _supports_sdpa = True
    # forward(..., logits_mask=(B, L) bool) gives only those positions' logits, (M, V)
    supports_logits_mask = True
    # with targets=(M,) besides: their losses (M,) instead of logits, chunk by chunk
    supports_targets = True
    # forward(..., places=Places) says where the masks are true; nothing then waits for the device
    supports_places = True
    # each network's own: its part of forward, and its LengthDistribution, or None without one
    trunk: Callable[..., tuple[Tensor, ...]]
    length_distribution: Any
    stores: list[Tensor] | None = None  # key_stores' own
    # network_graphs.TrunkGraphs: for sampling on a GPU
    graphs: Callable[..., tuple[Tensor, ...]] | None = None
    card = ""  # the README.md that was loaded with the weights
    tokenizer_folder: Path | None = None  # the folder whose tokenizer belongs to the weights

    @classmethod
    def from_pretrained(  # type: ignore[override]  # refuses what it does not take by name
        cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **arguments: Any
    ) -> Self:
        """The network of a folder or hub id, in eval mode, as AutoModel.from_pretrained loads it:
        llada_utils.load_pretrained, where the arguments are. Raises InputError.
        """
        from llada_utils import load_pretrained

        if model_args:
            raise TypeError("from_pretrained takes the name of a checkpoint and keywords")
        return load_pretrained(cls, pretrained_model_name_or_path, **arguments)

    def save_pretrained(  # type: ignore[override]  # as from_pretrained
        self,
        save_directory: str | Path,
        *,
        tokenizer: Any = None,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        **others: Any,
    ) -> None:
        """Write a folder that from_pretrained, load_llada and load_flexmdm read back equal: config,
        tensors with their own dtypes, model card, tokenizer. Files of an earlier checkpoint there
        are replaced, others stay.

        tokenizer: None: the one beside the weights that were loaded, if there is one; state_dict:
        the full one where the model itself does not hold it; is_main_process: False writes nothing.
        Raises InputError.
        """
        from llada_utils import load_tokenizer, write_checkpoint

        refuse_others(others, "save_pretrained")
        if not is_main_process:
            return
        if tokenizer is None and self.tokenizer_folder is not None:
            tokenizer = load_tokenizer(self.tokenizer_folder)
        with saved_into(save_directory) as staging:
            write_checkpoint(self, staging, tokenizer, state_dict)

    def push_to_hub(  # type: ignore[override]  # as from_pretrained
        self,
        repo_id: str,
        *,
        tokenizer: Any = None,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **others: Any,
    ) -> str:
        """Upload what save_pretrained writes, the model card among it, to a repository of the hub,
        which is created where there is none. Returns the commit's address. Raises InputError, also
        without a network or a token.
        """
        refuse_others(others, "push_to_hub")
        return upload(
            lambda folder: self.save_pretrained(folder, tokenizer=tokenizer),
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )

    def _inference(self) -> ModuleType:
        """The script that samples from a network of this kind."""
        import flexmdm_inference
        import llada_inference

        return flexmdm_inference if isinstance(self.config, FlexMDMConfig) else llada_inference

    def generate_text(self, tokenizer: Any, prompt: str, **options: Any) -> str:
        """What the model writes after a prompt: generate_text of flexmdm_inference or
        llada_inference. options: fields of SamplerOptions or LLaDAOptions, and seed. Raises
        InputError, ValueError.
        """
        return self._inference().generate_text(self, tokenizer, prompt, **options)

    def infill_text(self, tokenizer: Any, prefix: str, suffix: str, **options: Any) -> str:
        """What the model writes between prefix and suffix; the rest as generate_text. A LLaDA with
        middle_length=N: in place, N tokens.
        """
        return self._inference().infill_text(self, tokenizer, prefix, suffix, **options)

    def _init_weights(self, module):
        std = getattr(self.config, "init_std", 0.02)
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def key_stores(self, size: int) -> list[Tensor]:
        """Per block, storage for keys and values of at least `size` tokens, (size, 2, H_kv,
        head_dim), for CachedRows. It is kept across calls, because captured graphs refer to it: two
        caches of one model cannot be in use at once.
        """
        backbone = getattr(self, "backbone", self)
        block = backbone.model.transformer.blocks[0]
        if self.stores is None or len(self.stores[0]) < size:
            self.stores = None
            weight = block.q_proj.weight
            shape = (size, 2, block.n_kv_heads, block.head_dim)
            self.stores = [
                torch.zeros(shape, dtype=weight.dtype, device=weight.device)
                for _ in backbone.model.transformer.blocks
            ]
        return self.stores

    def add_length_distribution(self, most: int) -> None:
        """Add a newly initialised head for p(n missing tokens) if there is none."""
        weight: Any = self.get_input_embeddings().weight
        self.config.length_distribution = most
        with weight.device:
            self.length_distribution = length_distribution(weight.shape[1], self.config)
        if weight.device.type != "meta":
            self.length_distribution.start_low()

    def drop_length_distribution(self) -> None:
        """Remove the head for p(n missing tokens)."""
        self.config.length_distribution, self.length_distribution = 0, None

    def run_trunk(
        self, *arguments: Tensor, rows: Rows, collect: list[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Everything before the vocabulary head (`trunk`), from a captured graph if there is one.
        arguments: ids, and the trunk's other arguments.
        """
        if self.graphs is not None and isinstance(rows, PackedRows) and not self.training:
            return self.graphs(arguments[0], rows, *arguments[1:])
        return self.trunk(arguments[0], rows, *arguments[1:], collect=collect)

    def find_places(
        self, key_mask: Tensor | None, logits_mask: Tensor | None, collect: list[Tensor] | None
    ) -> Places:
        """The `Places` of two masks. Rows are packed in training and on a GPU; otherwise they stay
        padded.
        """
        pack = key_mask is not None and collect is None and (self.training or key_mask.is_cuda)
        return Places(flat_places(key_mask if pack else None), flat_places(logits_mask))

    @staticmethod
    def lay_out(ids: Tensor, key_mask: Tensor | None, places: Places) -> tuple[Tensor, Rows]:
        """ids (B, T) in the network's layout, and their rows: packed if the positions of the real
        tokens are known.
        """
        if places.cached is not None:
            assert places.tokens is not None  # only a part of them is computed
            return ids.flatten().index_select(0, places.tokens), places.cached
        if places.tokens is None:
            return ids, PaddedRows(ids.shape[1], key_mask, ids.device)
        return ids.flatten().index_select(0, places.tokens), PackedRows.from_places(
            places.tokens, (ids.shape[0], ids.shape[1])
        )
