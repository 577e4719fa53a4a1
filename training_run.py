"""What every training script shares: the flags, the Trainer that both losses sit in, and starting, resuming, ending a run.

The Trainer is Hugging Face's, so DDP, DeepSpeed (--deepspeed) and the rest come with it. Ours are: data in NoiseStream's order,
the loss divided by one constant over the global batch, optimiser groups for LoRA and new parts, checkpoints that are complete
or invisible, a JSONL log (train_log.jsonl), and a stop that saves first on SIGTERM or SIGUSR1.
"""
import math
import os
import shutil
import signal
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from flexmdm_interpolant import parse_schedule
from llada_dit import LLaDADiT
from llada_utils import checkpoint_kind, end_process_group, read_json, read_tensors, write_checkpoint
from noise_stream import NoiseStream
from records import InputError, RowWriter, write_json


@dataclass
class RunArguments(TrainingArguments):
    """Hugging Face's TrainingArguments with the paper's values as defaults, and the paper's own flags."""
    # what is trained
    model_name_or_path: str = field(default="GSAI-ML/LLaDA-8B-Base", metadata={"help": "LLaDA base: local folder or hub id"})
    variable_length: bool = field(default=False, metadata={"help": "train a FlexMDM; without it a plain LLaDA"})
    init_from: str | None = field(default=None, metadata={"help": "checkpoint to start from (transfer -> IFT); its settings are kept"})
    from_scratch: bool = field(default=False, metadata={"help": "random weights of --model_name_or_path's config.json"})
    all_parameters: bool = field(default=False, metadata={"help": "train every parameter instead of LoRA + new parts"})
    lora_r: int = field(default=128, metadata={"help": "LoRA rank on q, k, v and the head [paper]"})
    lora_alpha: float = field(default=128, metadata={"help": "LoRA scale is lora_alpha / lora_r [paper]"})
    lora_dropout: float = field(default=0.1, metadata={"help": "[paper]"})
    # FlexMDM's choices; all are stored in the checkpoint
    insertion_schedule: str = field(default="linear", metadata={"help": "linear [paper], power:P or geometric:MIN,MAX"})
    unmask_schedule: str = field(default="linear", metadata={"help": "linear [paper], power:P"})
    length_head: str = field(default="log_rate", metadata={"help": "log_rate, or softplus [paper's code]"})
    time_scale: float = field(default=1000.0, metadata={"help": "t is multiplied by this before its embedding; 1 [paper's code]"})
    time_epsilon: float = field(default=1e-3, metadata={"help": "t is drawn from [0, 1 - this): weights stay below 1 / this"})
    mask_ratio_epsilon: float = field(default=1e-3, metadata={"help": "LLaDA: mask ratios are drawn from [this, 1); weights stay below 1 / this"})
    adaln_group_size: int = field(default=8, metadata={"help": "blocks that share one modulation [paper]"})
    attend_to_padding: bool = field(default=False, metadata={"help": "as the paper's code does; every call is then max length long"})
    # data
    train_data: str | None = field(default=None, metadata={"help": "folder written by a preprocessing script"})
    cache_path: str | None = field(default=None, metadata={"help": "same as --train_data, the paper's name for it"})
    sft_max_length: int = field(default=1024, metadata={"help": "longest row, in tokens; LLaDA's instruction rows are filled to it"})
    low_discrepancy: bool = field(default=True, metadata={"help": "stratify t over the global batch [paper]"})
    loss_constant: float = field(default=1024.0, metadata={"help": "the loss is the sum over the global batch / (rows x this) [paper]"})
    sanity_run: bool = field(default=False, metadata={"help": "10 steps on 64 rows: does everything fit and run?"})
    # run
    output_dir: str | None = field(default=None, metadata={"help": "default runs/JOB_NAME"})
    job_name: str | None = field(default=None, metadata={"help": "name of the run"})
    wandb: bool = field(default=False, metadata={"help": "same as --report_to wandb"})
    overwrite: bool = field(default=False, metadata={"help": "delete what an earlier run left in --output_dir"})
    lora_lr: float | None = field(default=None, metadata={"help": "learning rate of LoRA; default --learning_rate"})
    lora_weight_decay: float = field(default=0.0, metadata={"help": "[paper's code]"})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "rows a process and micro-batch [paper]"})
    per_device_eval_batch_size: int = field(default=4)
    learning_rate: float = field(default=1e-4, metadata={"help": "[paper's code]"})
    weight_decay: float = field(default=0.01, metadata={"help": "of new parts and, with --all_parameters, of all matrices [paper's code]"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "cosine to zero; the paper's code: --lr_scheduler_kwargs '{\"num_cycles\": 5}'"})
    warmup_steps: float = field(default=0.05, metadata={"help": "steps, or a share of the run when below 1 [paper's code: 5 %%]"})
    max_grad_norm: float = field(default=1.0)
    seed: int = field(default=42)
    save_steps: float = field(default=10_000)
    save_total_limit: int | None = field(default=3)
    logging_steps: float = field(default=10)
    report_to: str = field(default="none")
    bf16: bool | None = field(default=None, metadata={"help": "default: where the GPU has it"})
    remove_unused_columns: bool = field(default=False)

    def __post_init__(self):
        accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
        self.use_cpu = self.use_cpu or not accelerator      # else torchrun on CPUs trains the same rows in every process
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        self.tf32 = True if torch.cuda.is_available() and self.tf32 is None else self.tf32
        self.train_data = self.train_data or self.cache_path
        if self.wandb:
            self.report_to = "wandb"
        self.run_name = self.run_name or self.job_name
        self.output_dir = self.output_dir or str(Path("runs") / (self.job_name or "unnamed"))
        super().__post_init__()

    def check(self):
        """Refuse what cannot work, by the flag's name, before anything is read or written."""
        if not self.train_data:
            raise InputError("--train_data: name the folder that a preprocessing script wrote")
        for flag in ("insertion_schedule", "unmask_schedule"):
            try:
                parse_schedule(getattr(self, flag))
            except ValueError as error:
                raise InputError(f"--{flag}: {error}") from None
        if parse_schedule(self.unmask_schedule).to_config()["name"] == "geometric":
            raise InputError("--unmask_schedule: geometric never reaches 1, masks would remain; only insertion may use it")
        if self.length_head not in ("log_rate", "softplus"):
            raise InputError(f"--length_head: {self.length_head} is neither log_rate nor softplus")
        if not 0 < self.time_epsilon < 0.5:
            raise InputError(f"--time_epsilon: {self.time_epsilon} is not between 0 and 0.5")
        if not 0 < self.mask_ratio_epsilon < 1:
            raise InputError(f"--mask_ratio_epsilon: {self.mask_ratio_epsilon} is not between 0 and 1")
        world = int(os.environ.get("WORLD_SIZE", 1))
        if self.world_size != world:
            raise InputError(f"the launcher started {world} processes, but the Trainer sees {self.world_size}: every one would train the same rows")

    @property
    def global_batch(self):
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size

    def flexmdm_settings(self):
        """Fields of FlexMDMConfig that the flags choose."""
        lora = None if self.all_parameters else {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
        return {"insertion_schedule": parse_schedule(self.insertion_schedule).to_config(), "lora": lora,
                "unmask_schedule": parse_schedule(self.unmask_schedule).to_config(), "length_head": self.length_head,
                "time_scale": self.time_scale, "time_epsilon": self.time_epsilon, "adaln_group_size": self.adaln_group_size,
                "attend_to_padding": self.attend_to_padding, "max_length": self.sft_max_length}


def parse_arguments(cls, description):
    """The script's arguments. Unknown flags and impossible values are refused in one line."""
    parser = HfArgumentParser(cls, description=description, allow_abbrev=False)
    try:
        arguments, = parser.parse_args_into_dataclasses()
    except ValueError as error:
        raise InputError(str(error)) from None
    arguments.check()
    return arguments


class DiffusionTrainer(Trainer):
    """Trainer whose subclasses say what each row of a batch costs: row_losses(model, batch) -> (B,)."""

    def __init__(self, *, card="", **kwargs):
        super().__init__(**kwargs)
        self.args._n_gpu = min(self.args._n_gpu, 1)         # several GPUs without torchrun: never torch's DataParallel
        self.card = card
        self.sums, self.noted_rows = defaultdict(float), 0
        self.model_accepts_loss_kwargs = False              # so that the Trainer divides by the accumulation steps itself

    def row_losses(self, model, batch):
        raise TypeError(f"{type(self).__name__} does not say what a row costs")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over rows / (rows of the global batch x constant). The Trainer divides by the accumulation steps and DDP averages over
        processes, so the micro-batch's share is multiplied by both first: the result is the same however the batch is dealt."""
        losses = self.row_losses(model, inputs)
        args = self.args
        if model.training:
            scale = args.world_size * args.gradient_accumulation_steps / (args.global_batch * args.loss_constant)
        else:
            scale = 1 / (len(losses) * args.loss_constant)
        loss = losses.sum() * scale
        return (loss, losses) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                return self.compute_loss(model, inputs).detach(), None, None

    def note(self, rows, **values):
        """Keep per-row values (B,) for the next log line, as means over the global batches since the last one."""
        if self.model.training:
            self.noted_rows += rows
            for name, value in values.items():
                self.sums[name] += value.detach().double().sum()

    def log(self, logs, start_time=None):
        if "loss" in logs and self.noted_rows:
            names = sorted(self.sums)
            totals = torch.stack([torch.as_tensor(float(self.noted_rows), device=self.args.device, dtype=torch.float64),
                                  *(self.sums[name].to(self.args.device) for name in names)])
            totals = self.accelerator.reduce(totals, reduction="sum").tolist()
            logs.update({name: total / totals[0] for name, total in zip(names, totals[1:])})
            self.sums.clear()
            self.noted_rows = 0
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)       # NoiseStream itself is the order

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            args, groups = self.args, defaultdict(list)
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups["lora" if ".lora_" in name else "matrix" if parameter.ndim > 1 else "vector"].append(parameter)
            settings = {"lora": {"lr": args.lora_lr or args.learning_rate, "weight_decay": args.lora_weight_decay},
                        "matrix": {"lr": args.learning_rate, "weight_decay": args.weight_decay},
                        "vector": {"lr": args.learning_rate, "weight_decay": 0.0}}
            optimizer_cls, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(args, self.model)
            self.optimizer = optimizer_cls([{"params": groups[name], **settings[name]} for name in settings if groups[name]],
                                           **optimizer_kwargs)
        return self.optimizer

    # checkpoints: written under .saving, renamed when every process has written its part

    def _get_output_dir(self, trial=None):
        return os.path.join(self.args.output_dir, ".saving") if getattr(self, "_staging", False) else self.args.output_dir

    def _save_checkpoint(self, model, trial=None):
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        output_dir, staging = Path(self.args.output_dir), Path(self.args.output_dir) / ".saving"
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            shutil.rmtree(output_dir / name, ignore_errors=True)
            os.replace(staging / name, output_dir / name)
            shutil.rmtree(staging, ignore_errors=True)
            rotate_checkpoints(str(output_dir), self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir=None, state_dict=None):
        if not self.args.should_save:                       # the Trainer calls this in every process
            return
        os.makedirs(output_dir, exist_ok=True)
        write_checkpoint(self.accelerator.unwrap_model(self.model), output_dir, self.processing_class, state_dict, self.card)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))


def load_trained(model, folder):
    """Put what write_checkpoint wrote back into a model of the same kind, in place."""
    parameters = dict(model.named_parameters())
    adapter = (folder / "adapter_model.safetensors").exists()
    names = {f"base_model.model.{name.replace('.default.', '.')}" if adapter else name: name
             for name, parameter in parameters.items() if parameter.requires_grad or not (adapter or holds_trainable(model))}
    seen = set()
    with torch.no_grad():
        for name, tensor in read_tensors(folder, "adapter_model.safetensors" if adapter else "model.safetensors"):
            if name not in names or parameters[names[name]].shape != tensor.shape:
                raise InputError(f"--resume_from_checkpoint: {folder} holds {name} {tuple(tensor.shape)}, which this run does not train")
            parameters[names[name]].copy_(tensor)
            seen.add(name)
    if set(names) - seen:
        raise InputError(f"--resume_from_checkpoint: {folder} lacks {', '.join(sorted(set(names) - seen)[:4])}")


def holds_trainable(model):
    return isinstance(model, LLaDADiT) and model.config.holds == "trainable"


class JsonlLog(TrainerCallback):
    """Every log line of the Trainer, as a row of train_log.jsonl."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            with RowWriter(Path(args.output_dir) / "train_log.jsonl") as writer:
                writer.append({"step": state.global_step, **{key: float(value) for key, value in logs.items()}})


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGUSR1: finish the step, save, stop. The scheduler's warning before preemption or the time limit."""

    def __init__(self):
        self.received = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.receive)

    def receive(self, number, frame):
        self.received = signal.Signals(number).name
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)       # scripts/launch.sh repeats it; one at the process's very end would kill it

    def on_step_end(self, args, state, control, **kwargs):
        flag = torch.tensor(float(self.received is not None), device=args.device)
        if args.world_size > 1:                         # one process may have been told and the others not yet
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        if flag.item():
            control.should_save = control.should_training_stop = True
            self.received = self.received or "signal"


SETTINGS = ("model_name_or_path", "init_from", "variable_length", "from_scratch", "all_parameters", "lora_r", "lora_alpha", "lora_dropout",
            "train_data", "sft_max_length", "low_discrepancy", "loss_constant", "learning_rate", "lora_lr", "weight_decay",
            "lora_weight_decay", "lr_scheduler_type", "warmup_steps", "mask_ratio_epsilon", "max_grad_norm", "seed", "max_steps", "task")


def prepare_output(args, settings):
    """Where this run starts: (checkpoint to resume or None, already finished). Refuses to mix runs in one folder."""
    output_dir = Path(args.output_dir)
    if args.overwrite and not args.resume_from_checkpoint and args.process_index == 0 and (output_dir / "settings.json").exists():
        shutil.rmtree(output_dir)
    args.distributed_state.wait_for_everyone() if args.distributed_state else None
    before = output_dir / "settings.json"
    if before.exists():
        if not args.resume_from_checkpoint and not args.overwrite:
            raise InputError(f"--output_dir: {output_dir} already holds a run; --resume_from_checkpoint auto goes on with it, --overwrite deletes it")
        old = read_json(before)
        changed = [f"{key} (was {old.get(key)!r}, is {settings[key]!r})" for key in settings if old.get(key) != settings[key]]
        if changed and args.resume_from_checkpoint:
            raise InputError(f"--resume_from_checkpoint: {output_dir} was made with other settings: {', '.join(changed)}")
    if args.resume_from_checkpoint == "auto":
        if (output_dir / "final").is_dir():
            return None, True
        steps = [int(folder.name.split("-")[1]) for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if folder.name.split("-")[1].isdigit()]
        return (str(output_dir / f"{PREFIX_CHECKPOINT_DIR}-{max(steps)}") if steps else None), False
    if args.resume_from_checkpoint and not Path(args.resume_from_checkpoint).is_dir():
        raise InputError(f"--resume_from_checkpoint: {args.resume_from_checkpoint} is not a folder")
    return args.resume_from_checkpoint, False


def load_rows(path, flag="--train_data"):
    """{"train": rows, "validation": rows or absent} of a preprocessing script's output."""
    from datasets import DatasetDict, load_from_disk
    if not Path(path).is_dir():
        raise InputError(f"{flag}: {path} is not a folder; a preprocessing script writes it")
    try:
        rows = load_from_disk(str(path))
    except Exception as error:
        raise InputError(f"{flag}: {path} is no data set on disk: {str(error).splitlines()[0]}") from None
    rows = rows if isinstance(rows, DatasetDict) else {"train": rows}
    if "train" not in rows or not len(rows["train"]) or "input_ids" not in rows["train"].column_names:
        raise InputError(f"{flag}: {path} has no train split with rows of input_ids")
    return rows


def check_kind(args):
    """--init_from must be the kind of model that --variable_length asks for."""
    if args.init_from and checkpoint_kind(args.init_from, "--init_from") != ("flexmdm" if args.variable_length else "llada"):
        kind = "a LLaDA: drop --variable_length" if args.variable_length else "a FlexMDM: add --variable_length"
        raise InputError(f"--init_from: {args.init_from} is {kind}")


def train(args, trainer_cls, model, tokenizer, rows, collator, card):
    """Train to the end (or to a signal) and write OUTPUT_DIR/final. rows: {"train": ..., "validation": ... or absent}."""
    train_rows = rows["train"]
    if args.sanity_run:
        train_rows, args.max_steps = train_rows.select(range(min(64, len(train_rows)))), 10
    if args.max_steps <= 0:
        args.max_steps = math.ceil(args.num_train_epochs * len(train_rows) / args.global_batch)
    settings = {key: getattr(args, key) for key in SETTINGS if hasattr(args, key)} | {"global_batch": args.global_batch}
    settings |= {"lr_scheduler_kwargs": args.lr_scheduler_kwargs or {}, "rows": len(train_rows)}
    if isinstance(model, LLaDADiT):
        settings |= {key: getattr(model.config, key) for key in ("insertion_schedule", "unmask_schedule", "length_head", "time_scale",
                                                                 "time_epsilon", "adaln_group_size", "attend_to_padding")}
    checkpoint, finished = prepare_output(args, settings)
    if finished:
        print(f"{args.output_dir}/final exists: this run is finished")
        return
    if args.process_index == 0:
        write_json(Path(args.output_dir) / "settings.json", settings)
    cost = getattr(collator, "expected_cost", None)
    stream = NoiseStream(train_rows, args.global_batch, args.max_steps, args.seed, args.low_discrepancy, expected_cost=cost)
    held_out = rows.get("validation")
    validation = NoiseStream(held_out, len(held_out), 1, args.seed + 1, shuffle=False, expected_cost=cost) if held_out is not None and len(held_out) else None
    stop = StopOnSignal()
    trainer = trainer_cls(card=card, model=model, args=args, train_dataset=stream, eval_dataset=validation, data_collator=collator,
                          processing_class=tokenizer, callbacks=[JsonlLog(), stop])
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < args.max_steps:
        if args.process_index == 0:
            print(f"stopped by {stop.received} at step {trainer.state.global_step} of {args.max_steps}; --resume_from_checkpoint auto goes on")
    else:
        save_final(trainer)
    end_process_group()


def save_final(trainer):
    """OUTPUT_DIR/final, complete or not there. Every process takes part: gathering sharded weights needs them all."""
    final = Path(trainer.args.output_dir) / "final"
    staging = final.with_name(".final")
    trainer.save_model(str(staging), _internal_call=True)
    if trainer.is_world_process_zero():
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        print(f"wrote {final}")
    trainer.accelerator.wait_for_everyone()
