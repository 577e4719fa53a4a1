"""What a checkpoint folder says without its tensors being read: its kind, its config, the base that
it needs, and a hash of all that its answers depend on.
"""

from pathlib import Path
from typing import Any, TypeVar

from common.errors import InputError
from common.files import files_hash, read_json, resolve_folder
from network.config import FlexMDMConfig, LLaDAConfig

Config = TypeVar("Config", LLaDAConfig, FlexMDMConfig)
HASHED = (
    "config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def checkpoint_kind(path: str | Path, flag: str = "--checkpoint_path") -> str:
    """ "flexmdm" or "llada". Raises InputError if a folder is neither."""
    folder = resolve_folder(path, flag)
    if (folder / "adapter_config.json").exists():
        return "llada"
    if (folder / "config.json").exists():
        content = read_json(folder / "config.json")
        kind = content.get("model_type") if isinstance(content, dict) else None
        if kind in ("flexmdm", "llada"):
            return kind
    if (folder / "pytorch_model.bin").exists():
        return "flexmdm"
    raise InputError(
        f"{flag}: {path} is no checkpoint: it has neither a config.json of model_type flexmdm or"
        " llada, nor an adapter_config.json, nor a pytorch_model.bin"
    )


def checkpoint_hash(path: str | Path, flag: str = "--checkpoint_path") -> str:
    """12 hex digits over names and contents of all files that a checkpoint's answers depend on:
    weights, configs and tokenizer. Raises InputError if there is no such folder.
    """
    folder = resolve_folder(path, flag)
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    weights = (".safetensors", ".bin")
    return files_hash(
        folder, (file for file in files if file.name.endswith(weights) or file.name in HASHED)
    )


def config_of(kind: type[Config], folder: Path) -> Config:
    """LLaDAConfig or FlexMDMConfig of a folder's config.json. Raises InputError."""
    try:
        return kind.from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    except ValueError as error:
        raise InputError(str(error)) from None


def llada_config(folder: Path) -> LLaDAConfig:
    """LLaDAConfig of a folder's config.json. Raises InputError."""
    return config_of(LLaDAConfig, folder)


def has_flexmdm_config(folder: Path) -> bool:
    """Whether a folder has a FlexMDM's config.json; the paper code's folders have none."""
    content = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    return isinstance(content, dict) and content.get("model_type") == "flexmdm"


def flexmdm_config(folder: Path) -> FlexMDMConfig:
    """FlexMDMConfig of a folder's config.json. Raises InputError."""
    return config_of(FlexMDMConfig, folder)


def named_base(folder: Path) -> str | None:
    """The base that a checkpoint folder names and needs, or None if it holds all weights itself or
    names none. Raises InputError for a config that cannot be read.
    """
    named = None
    if (folder / "adapter_config.json").exists():
        content = read_json(folder / "adapter_config.json")
        named = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    elif has_flexmdm_config(folder):
        config = flexmdm_config(folder)
        named = config.base_model_name_or_path if config.saved_weights == "trainable" else None
    return named if isinstance(named, str) and named else None


def base_of_checkpoint(
    folder: Path, base: str | Path | None, revision: str | None = None, **hub_arguments: Any
) -> Path:
    """The folder of a checkpoint's base: --base_model if given, else the one that the checkpoint
    names. revision: the checkpoint's, which says nothing about the base. Raises InputError that
    says which.
    """
    if base is not None:
        return resolve_folder(base, "--base_model", **hub_arguments)
    named = named_base(folder)
    if named is None:
        raise InputError(f"--base_model: {folder} names no base; give it by this flag")
    return resolve_folder(
        named,
        f"--base_model is not given, and the base that {folder} names was not found",
        **hub_arguments,
    )


def lasting_name(base: str | None) -> str | None:
    """The name of a base in a checkpoint: an absolute path for a local folder, because it may be
    read from another folder; a hub id unchanged.
    """
    return str(Path(base).resolve()) if base and Path(base).is_dir() else base
