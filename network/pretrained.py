"""The conventions of transformers' from_pretrained, save_pretrained and push_to_hub: what their
arguments mean for our models, the model card, and the files of a folder on disk or on the hub.

Loading and writing themselves are in llada_utils.py. Nothing here imports torch before it is
called.
"""

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import HUB_ID, write_reason

if TYPE_CHECKING:
    import torch

HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
# what transformers passes itself, and arguments that change nothing here: no code of a checkpoint
# is ever run, only its safetensors are read, and memory is always used sparingly
WITHOUT_EFFECT = {
    "trust_remote_code",
    "code_revision",
    "low_cpu_mem_usage",
    "use_safetensors",
    "weights_only",
    "safe_serialization",
    "save_function",
    "_from_auto",
    "_commit_hash",
}
# of an earlier checkpoint in the same folder, by which the new one could be misread
REPLACED = (
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)


# ---- arguments of from_pretrained ----------------------------------------------------------------


def refuse_others(arguments: Mapping[str, Any], function: str) -> None:
    """Refuse the arguments that transformers' function of this name knows and ours does not; a
    value that asks for nothing is no request. Raises InputError naming the first.
    """
    for name, value in arguments.items():
        if name == "attn_implementation" and value == "sdpa":
            continue
        if name not in WITHOUT_EFFECT and value is not None and value is not False:
            raise InputError(f"{function}: {name} is not supported")


def wanted_dtype(dtype: "str | torch.dtype | None") -> "torch.dtype | None":
    """The dtype of a name (bfloat16, torch.bfloat16) or a dtype; None for None and "auto": every
    tensor keeps its own. Raises InputError for what is no floating-point dtype.
    """
    import torch

    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"from_pretrained: dtype {dtype!r} is no floating-point dtype")
    return found


def wanted_device(device_map: Any) -> str:
    """The device of a device_map: "auto", cpu, cuda, cuda:N or mps. A model is never split over
    several devices. Raises InputError for a map that does.
    """
    devices = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    if len(devices) != 1 or devices & {"balanced", "balanced_low_0", "sequential", "disk"}:
        raise InputError(
            f"from_pretrained: device_map {device_map!r} splits the model, which is not supported:"
            ' give one device, or "auto" for the GPU if there is one'
        )
    (device,) = devices
    if device is None:
        return "cpu"
    return f"cuda:{device}" if type(device) is int else str(device)


def wanted_quantization(config: Any) -> dict[str, Any] | None:
    """The arguments of quantization.quantize_base for a BitsAndBytesConfig (or its dict), or None.
    Raises InputError for anything but 4 bits, and where bitsandbytes is not installed.
    """
    if config is None:
        return None
    content = config if isinstance(config, dict) else config.to_dict()
    if not content.get("load_in_4bit"):
        raise InputError(
            "from_pretrained: quantization_config: only bitsandbytes' load_in_4bit is supported"
        )
    if content.get("llm_int8_skip_modules"):
        raise InputError(
            "from_pretrained: quantization_config: llm_int8_skip_modules is not supported: the"
            " blocks' matrices are quantised, nothing else"
        )
    if not importlib.util.find_spec("bitsandbytes"):
        raise InputError(
            "from_pretrained: quantization_config needs the package bitsandbytes (pip install"
            " bitsandbytes)"
        )
    return {
        "quant_type": content.get("bnb_4bit_quant_type", "nf4"),
        "double_quant": bool(content.get("bnb_4bit_use_double_quant")),
        "compute_dtype": wanted_dtype(content.get("bnb_4bit_compute_dtype")),
    }


def refuse_other_config(given: Any, own: Any) -> None:
    """Refuse a `config` that is not the checkpoint's own, with which its weights were trained.
    Raises InputError naming the first value that differs.
    """
    if given is None:
        return
    if type(given) is not type(own):
        raise InputError(
            f"from_pretrained: config is a {type(given).__name__}, not a {type(own).__name__}"
        )
    refuse_others({"attn_implementation": given._attn_implementation}, "from_pretrained")
    theirs, ours = given.to_json(), own.to_json()
    for name in theirs.keys() | ours.keys():
        if theirs.get(name) != ours.get(name):
            raise InputError(
                f"from_pretrained: config has {name} {theirs.get(name)!r}, the checkpoint"
                f" {ours.get(name)!r}; change model.config after loading"
            )


# ---- the model card ------------------------------------------------------------------------------


def model_card(about: str, kind: str, base: str | None) -> str:
    """The README.md of a checkpoint: `about`, with the metadata that the hub reads and how to load
    it. A text that has metadata is returned as it is.

    kind: "flexmdm" or "llada"; base: the model it was made from, named if it is a hub id.
    """
    if about.startswith("---\n"):
        return about
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base if base and re.fullmatch(HUB_ID, base) else None,
        pipeline_tag="text-generation",
        tags=["masked-diffusion", kind],
    )
    title = {"flexmdm": "FlexMDM", "llada": "LLaDA"}[kind]
    return f"""---
{data.to_yaml()}
---

{about.strip() or f"# {title}"}

Loaded with the code of *Scaling FlexMDM from LLaDA*, which runs no code from this folder:

```python
import llada_dit
from transformers import AutoModel

model = AutoModel.from_pretrained("this folder or hub id")
```
"""


# ---- folders and the hub -------------------------------------------------------------------------


@contextmanager
def saved_into(folder: str | Path) -> Iterator[Path]:
    """Add a checkpoint to a folder that may hold other files, such as a tokenizer's: yields an
    empty folder to write it into; when the block ends without an error its files are moved, in
    place of those of an earlier checkpoint. config.json comes last, and the old one goes first: a
    folder that is only half replaced is no checkpoint. Raises InputError if it cannot be written.
    """
    folder = Path(folder)
    staging = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        yield staging
        for pattern in REPLACED:
            for file in folder.glob(pattern):
                file.unlink()
        for file in sorted(staging.iterdir(), key=lambda file: file.name.endswith("config.json")):
            file.replace(folder / file.name)
    except Exception as error:
        reason = write_reason(error, folder)
        if reason is None:
            raise
        raise InputError(f"save_pretrained: cannot write {folder}: {reason}") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def upload(
    write: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Create a repository on the hub where there is none, and upload the folder that write(folder)
    fills. Returns the address of the commit. Raises InputError with the hub's reason.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
    except InputError:
        raise
    except Exception as error:
        # the hub client raises many kinds: no network, no access, an impossible name
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"push_to_hub: cannot upload to {repo_id}: {reason}") from None
    return str(commit)
