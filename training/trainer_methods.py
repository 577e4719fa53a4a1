"""Methods of transformers' Trainer that ours replaces or calls, private ones too: the parameters
they rely on, and why. Check these first when transformers is upgraded: test_trainer_methods.py.
"""

TRAINER_METHODS = {
    # replaced in trainer.py
    "compute_loss": ("model inputs return_outputs num_items_in_batch", "our loss and its constant"),
    "training_step": (
        "model inputs num_items_in_batch",
        "micro-batches of a token budget; a loss that is not finite logs as 0",
    ),
    "floating_point_ops": ("inputs", "over the micro-batches of a token budget"),
    "_track_num_input_tokens": ("inputs", "over the micro-batches of a token budget"),
    "_get_grad_norm": ("model grad_norm", "skip and count steps that are not finite"),
    "_defer_fsdp_gradient_reduction": ("", "accumulation under fully_shard"),
    "prediction_step": (
        "model inputs prediction_loss_only ignore_keys",
        "cost of held-out rows, for the NLL bound",
    ),
    "evaluate": (
        "eval_dataset ignore_keys metric_key_prefix",
        "its time is no training time; averaged parameters",
    ),
    "log": ("logs start_time", "means over rows, speed and balance besides"),
    "get_train_dataloader": ("", "lists of micro-batches of a token budget"),
    "_get_train_sampler": ("train_dataset", "NoiseStream is the order"),
    "create_optimizer": ("model", "groups: LoRA, matrices, vectors"),
    # replaced in checkpoint_trainer.py
    "_get_output_dir": ("trial", "a checkpoint is written under .saving"),
    "_save_checkpoint": ("model trial", "and renamed when it is complete"),
    "save_model": ("output_dir _internal_call", "our folders; shards are gathered"),
    "_save_optimizer_and_scheduler": ("output_dir", "its shards, by torch or DeepSpeed"),
    "_load_from_checkpoint": ("resume_from_checkpoint model", "the trained weights, strictly"),
    "_prepare_for_training": (
        "max_steps train_dataloader resume_from_checkpoint",
        "DeepSpeed's weights without the frozen base; the clock starts",
    ),
    "_load_optimizer_and_scheduler": ("checkpoint", "its shards; one line where they are damaged"),
    # called
    "_prepare_inputs": ("inputs", "a batch onto the device"),
    "compute_loss_context_manager": ("", "autocast of held-out rows"),
    "get_optimizer_cls_and_kwargs": ("args model", "--optim"),
}
