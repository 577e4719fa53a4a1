"""The model that a training script trains: from a base, a checkpoint, or from scratch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.arguments import RunArguments


def build_model(args: "RunArguments") -> tuple[Any, Any]:
    """(model to train, its tokenizer) as the flags say: from a base, a checkpoint, or from scratch.
    Raises InputError.
    """
    import torch
    from transformers import set_seed

    from common.errors import InputError
    from common.files import resolve_folder
    from data.tokenizer import load_tokenizer
    from llada_dit import LLaDAModelLM
    from llada_utils import load_flexmdm, load_llada, new_flexmdm
    from network.checkpoint_folder import llada_config
    from network.lora import add_lora
    from network.quantization import quantize_base
    from training.memory import require_room_for_training

    set_seed(args.seed)
    # of the frozen base
    dtype = torch.bfloat16 if args.bf16 and not args.all_parameters else torch.float32
    source = args.init_from or args.model_name_or_path
    folder = resolve_folder(source, "--init_from" if args.init_from else "--model_name_or_path")
    require_room_for_training(args, folder)
    tokenizer = load_tokenizer(source)
    if args.init_from:
        load = load_flexmdm if args.variable_length else load_llada
        model = load(args.init_from, dtype=dtype, merge=False)
        if args.length_distribution and not model.config.length_distribution:
            model.add_length_distribution(args.length_distribution)
        if args.variable_length:
            model.config.length_distribution_at_start = False  # from now on at all times
            # attending to padding, a network is evaluated at the width that it was trained with
            if not (args.evaluate_only and model.config.attend_to_padding):
                model.config.max_length = args.sft_max_length
    elif args.from_scratch:
        if args.variable_length or not args.all_parameters:
            raise InputError(
                "--from_scratch: only a LLaDA with --all_parameters starts from scratch, without"
                " --variable_length"
            )
        model = LLaDAModelLM(llada_config(resolve_folder(args.model_name_or_path)))
    elif args.variable_length:
        model = new_flexmdm(args.model_name_or_path, dtype=dtype, **args.flexmdm_settings())
    else:
        model = load_llada(args.model_name_or_path, dtype=dtype)
    llada = isinstance(model, LLaDAModelLM)
    if llada and not args.all_parameters and not hasattr(model, "peft_config"):
        add_lora(model, args.lora_settings())
    if args.load_in_4bit:
        quantize_base(model)
    return model, tokenizer


def longest_row(args: "RunArguments", model: Any) -> int:
    """The most tokens of a row that a run may train or evaluate build_model's model on."""
    if not args.variable_length:
        return args.sft_max_length
    return min(args.sft_max_length, model.config.max_length)
