"""What a training run shows: its progress, and its last three lines (common/progress.py)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from common.progress import command, ending

if TYPE_CHECKING:
    from training.arguments import RunArguments


class TrainingProgress(TrainerCallback):
    """Steps and the newest loss, in one bar. All values are in train_log.jsonl, so the dictionaries
    that transformers' own callback prints at every log line are left out.
    """

    def __init__(self) -> None:
        self.bar: Any = None  # only in the first process

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it once: show the bar."""
        from tqdm import tqdm

        if state.is_world_process_zero:
            done, steps = state.global_step, state.max_steps
            self.bar = tqdm(
                total=steps, initial=done, desc="training", unit="step", dynamic_ncols=True
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it after every step."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The Trainer calls it with every log line."""
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4g}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer calls it at the end, also after a signal."""
        if self.bar is not None:
            self.bar.close()


def show_progress(trainer: Trainer) -> None:
    """Replace transformers' progress bar by ours; --disable_tqdm keeps its printed log lines."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(TrainingProgress())


def print_ending(args: "RunArguments", what: str) -> None:
    """The last three lines of a finished run. what: how it came about, such as "400 steps"."""
    final, task = f"{args.output_dir}/final", getattr(args, "task", None)
    kind = "FlexMDM" if args.variable_length else "LLaDA"
    following = {
        "math": ("eval_gsm8k.py", "--checkpoint_path", final),
        "code": ("eval_humaneval_infill.py", "--checkpoint_path", final, "--allow_code_execution"),
        None: (
            "instruction_finetuning.py",
            *("--task", "math", "--train_data", "data_cache/gsm8k", "--init_from", final),
            *(["--variable_length"] if args.variable_length else []),
        ),
    }
    made = f"{kind} {'fine-tuned on ' + task if task else 'trained on text'}, {what}"
    ending(made, final, command(*following[task]))
