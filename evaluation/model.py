"""A checkpoint ready to answer: network, tokenizer, sampler and its settings, for the evaluation
scripts. Text in, text out.

    model = EvaluatedModel(args, default_steps=256)    # args: the evaluation scripts' flags
    model.answer([model.encode("...")], tasks)         # [(text, {"evaluations", "length"})]
    model.infill(prefixes, suffixes, tasks)            # the same of the middle alone

A task is {"item", "sample"}: random numbers depend on these and the seed. Nothing here imports
torch before a model is made.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import InputError
from sampling.flags import options_from
from sampling.given import refuse_mask_tokens, refuse_padding
from sampling.options import LLaDAOptions, SamplerOptions, SharedOptions
from sampling.unused_flags import refuse_unused_flags

if TYPE_CHECKING:
    from torch import Tensor

    from llada_dit import LLaDADiT, LLaDAModelLM
    from sampling.results import GenerationResult

# rows end at different times and waiting ones take the free places; finished rows are written after
# each call
BATCHES_PER_CALL = 4
Ids = list[int]
Answer = tuple[str, dict[str, Any]]  # text; evaluations, length and rare events


class Given(NamedTuple):
    """A model's input for each item: a prompt alone, or a prefix and a suffix; lengths: LLaDA's
    number of masks for each item (None: --gen_length after the prompt); texts: what each answer
    continues, where that is not its prefix (an infill's, without the marks around it).
    """

    prefixes: list[Ids]
    suffixes: list[Ids] | None = None
    lengths: list[int] | None = None
    texts: list[Ids] | None = None

    def parts(self) -> list[list[Ids]]:
        """[prompt] or [prefix, suffix] of each item."""
        return [list(part) for part in zip(self.prefixes, *filter(None, [self.suffixes]))]


class AnsweringModel:
    """A network, its tokenizer and a sampler's options, which `use` sets. `kind` is "flexmdm" or
    "llada".
    """

    def __init__(self, kind: str, model: "LLaDADiT | LLaDAModelLM", tokenizer: Any) -> None:
        self.kind, self.model, self.tokenizer = kind, model, tokenizer
        config = model.config
        self.ids: dict[str, Any] = {
            "mask_id": config.mask_token_id,
            "pad_id": config.pad_token_id,
            "num_tokens": len(tokenizer),
        }
        self.own_length = getattr(
            config, "max_length" if kind == "flexmdm" else "max_sequence_length"
        )
        self.stop_ids = {
            config.pad_token_id,
            tokenizer.eos_token_id,
            tokenizer.get_vocab().get("<|eot_id|>"),
        } - {None}

    def use(self, options: SharedOptions, seed: int) -> None:
        """Answer with these options from now on."""
        self.arguments, self.seed = options.arguments(), seed
        # whether LLaDA's number of masks is found with the network
        self.finds_lengths = getattr(options, "llada_length", "given") != "given"
        # 1024: the paper's canvas, prompt included
        self.max_length = options.max_length or min(self.own_length, 1024)
        self.arguments["max_length"] = self.max_length

    def encode(self, text: str) -> Ids:
        """Ids of a text, without special tokens."""
        from data.tokenizer import text_ids

        return text_ids(self.tokenizer, text)

    def _seeds(self, tasks: Sequence[dict[str, Any]]) -> "Tensor":
        import torch

        from sampling.row_random import item_seed

        # (B,)
        return torch.tensor(
            [item_seed(self.seed, task["item"], task["sample"]) for task in tasks], device="cpu"
        )

    def check_fits(self, names: Sequence[str], given: Given, flag: str) -> None:
        """Refuse, before anything is generated, a row that is impossible: no room for an answer,
        steps that do not fit the blocks, an end of text or a mask in the input.

        names: what to call each item. Raises InputError naming the flag and the item.
        """
        gen_length, answer_lengths = self.arguments.get("gen_length"), given.lengths
        start_id = self.tokenizer.bos_token_id
        for number, (name, parts) in enumerate(zip(names, given.parts())):
            refuse_padding(parts, self.ids["pad_id"], f"{flag}: {name}", start_id)
            refuse_mask_tokens(parts, self.ids["mask_id"], f"{flag}: {name}")
            length = sum(map(len, parts))
            wanted = answer_lengths[number] if answer_lengths else gen_length or 1
            if length + wanted > self.max_length and (answer_lengths or not gen_length):
                raise InputError(
                    f"{flag}: {name} takes {length} tokens and needs {wanted} more, but"
                    f" --max_length is {self.max_length}"
                )
            if self.kind == "llada":
                from sampling.llada_blocks import unmasking_plan

                masks = (
                    answer_lengths[number]
                    if answer_lengths
                    else gen_length or self.max_length - length
                )
                try:
                    unmasking_plan(masks, self.arguments["steps"], self.arguments["block_length"])
                except ValueError as error:
                    raise InputError(
                        f"--diffusion_steps: {name}: {error}; --gen_length sets one length for all"
                    ) from None

    def respond(self, given: Given, tasks: Sequence[dict[str, Any]]) -> list[Answer]:
        """The answers or middles for the tasks' items, which are indices of `given`."""
        items = [task["item"] for task in tasks]
        taken = lambda rows: rows and [rows[item] for item in items]
        prefixes, suffixes, lengths, texts = map(taken, given)
        if suffixes is None:
            suffixes = [[] for _ in prefixes]
        return self.infill(prefixes, suffixes, tasks, lengths, texts)

    def answer(
        self,
        prompts: Sequence[Ids],
        tasks: Sequence[dict[str, Any]],
        lengths: list[int] | None = None,
        texts: Sequence[Ids] | None = None,
    ) -> list[Answer]:
        """[(text, row fields)]: the text after each prompt (lists of ids). lengths: LLaDA's number
        of masks for each row (None: --gen_length); texts: as Given's.
        """
        return self.infill(prompts, [[] for _ in prompts], tasks, lengths, texts)

    def infill(
        self,
        prefixes: Sequence[Ids],
        suffixes: Sequence[Ids],
        tasks: Sequence[dict[str, Any]],
        middle_lengths: list[int] | None = None,
        texts: Sequence[Ids] | None = None,
    ) -> list[Answer]:
        """[(text, row fields)]: the text between each prefix and suffix (lists of ids).
        middle_lengths: LLaDA's number of masks for each row (None: as --gen_length and
        --llada_length say); texts: as Given's.
        """
        seeds = self._seeds(tasks)
        if self.kind == "flexmdm":
            from sampling.flexmdm import generate_flexmdm_infilling

            result = generate_flexmdm_infilling(
                self.model, prefixes, suffixes, seeds=seeds, **self.ids, **self.arguments
            )
        else:
            import torch

            from sampling.llada import generate_mdm_infilling

            result = generate_mdm_infilling(
                self.model,
                prefixes,
                suffixes,
                seeds=seeds,
                middle_lengths=torch.tensor(middle_lengths, device="cpu")
                if middle_lengths
                else None,
                **self.ids,
                **self.arguments,
            )
        return self.answers_of(
            result, [len(row) for row in prefixes], [len(row) for row in suffixes], texts
        )

    def answers_of(
        self,
        result: "GenerationResult",
        starts: Sequence[int],
        ends: Sequence[int],
        texts: Sequence[Ids] | None = None,
    ) -> list[Answer]:
        """[(text, row fields)]: the text between the given tokens without special tokens; for LLaDA
        up to the first end token. texts: as Given's.
        """
        from data.tokenizer import decode_after

        rows = []
        for number, (start, end) in enumerate(zip(starts, ends)):
            ids = result.sequences[number, start : int(result.lengths[number]) - end].tolist()
            if self.kind == "llada":
                ids = ids[
                    : next(
                        (place for place, token in enumerate(ids) if token in self.stop_ids),
                        len(ids),
                    )
                ]
            before = texts[number] if texts else result.sequences[number, :start].tolist()
            text = decode_after(self.tokenizer, before, ids, skip_special_tokens=True)
            fields = {"evaluations": int(result.evaluations[number]), "length": len(ids)}
            if result.positions is not None:
                fields["positions"] = int(result.positions[number])
            for name in (
                "truncated",
                "dropped_insertions",
                "rate_bound_violations",
            ):  # rare, and telling
                counted = getattr(result, name)
                if counted is not None and counted[number]:
                    fields[name] = counted[number].item()
            rows.append((text, fields))
        return rows


class EvaluatedModel(AnsweringModel):
    """A loaded checkpoint of either kind and its sampler's settings, for the evaluation scripts.

    Loads on construction (torch, transformers). `settings` is everything the text depends on:
    weights by their content, not their path. default_steps: tau-leaping's, if --diffusion_steps is
    not given.
    """

    def __init__(self, args: argparse.Namespace, default_steps: int) -> None:
        from common.files import resolve_folder
        from data.tokenizer import load_tokenizer
        from llada_utils import load_flexmdm, load_llada
        from network.checkpoint_folder import checkpoint_hash, checkpoint_kind, named_base
        from network.devices import pick_device, pick_dtype
        from sampling.length_law import check_network_serves
        from sampling.network_graphs import speed_up_sampling

        kind = checkpoint_kind(args.checkpoint_path)
        if args.variable_length and kind != "flexmdm":
            raise InputError(
                f"--variable_length: {args.checkpoint_path} is a LLaDA, whose length is fixed"
            )
        flexmdm = kind == "flexmdm"
        options = options_from(args, SamplerOptions if flexmdm else LLaDAOptions, default_steps)
        if flexmdm:
            refuse_unused_flags(args, options)
        uneven = flexmdm and (args.sampler == "event_driven" or args.bound_inflation is not None)
        self.rows_per_call = args.batch_size * (BATCHES_PER_CALL if uneven else 1)
        device = pick_device(args.device)
        dtype = pick_dtype(args.dtype, device)
        where: dict[str, Any] = dict(base=args.base_model, dtype=dtype, device=device)
        model: LLaDADiT | LLaDAModelLM
        if flexmdm:
            model = load_flexmdm(args.checkpoint_path, lora_alpha=args.lora_alpha, **where)
        elif args.lora_alpha is not None:
            raise InputError(
                "--lora_alpha: only for FlexMDM checkpoints of the paper's code; a LLaDA adapter"
                " stores its own"
            )
        else:
            model = load_llada(args.checkpoint_path, **where)
        check_network_serves(model, options, args.checkpoint_path)
        speed_up_sampling(model, args.torch_compile)
        super().__init__(kind, model, load_tokenizer(args.checkpoint_path))
        self.use(options, args.seed)
        self.arguments["rows_at_once"] = args.rows_at_once or args.batch_size
        base = args.base_model or named_base(resolve_folder(args.checkpoint_path))
        self.settings = {
            "kind": kind,
            "checkpoint_hash": checkpoint_hash(args.checkpoint_path),
            "base_hash": base and checkpoint_hash(base),
            "lora_alpha": args.lora_alpha,
            "dtype": str(dtype).removeprefix("torch."),
            "seed": args.seed,
            **options.settings(),
            "max_length": self.max_length,
        }
