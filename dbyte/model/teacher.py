"""Loading a teacher: a transformers causal language model of a family whose core reads plain `inputs_embeds`."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dbyte.model.packed_attention import PACKED
from dbyte.presets import FAMILIES, TEACHERS

WEIGHTS = ("*.safetensors",)
TOKENIZER = ("tokenizer.json", "vocab.json")


def load_teacher(
    name: Path | str, *, device: str = "cpu", revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load (model in eval mode, tokenizer) of a teacher folder or hub name.

    revision: of a hub name; None: the one that `presets.TEACHERS` pins, or the newest of any other name.
    Raises:
        FileNotFoundError: if a folder lacks config, weights or tokenizer, or a hub name cannot be fetched.
        ValueError: if the model is of another family, or its weights are damaged or not whole.
    """
    model = load_model(name, device=device, revision=revision)
    return model, read_teacher(name, revision=revision)[1]


def read_teacher(
    name: Path | str, *, revision: str | None = None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Read (config, tokenizer) of a teacher folder or hub name, without its weights.

    revision: of a hub name; None: the one that `presets.TEACHERS` pins, or the newest of any other name.
    Raises:
        FileNotFoundError: if a folder lacks config, weights or tokenizer, or a hub name cannot be fetched.
    """
    local = Path(name).exists()
    if local:
        _require(Path(name), "config.json", ("config.json",))
        _require(Path(name), "weights", WEIGHTS)
        _require(Path(name), "a tokenizer", TOKENIZER)
    revision = revision or TEACHERS.get(str(name))
    try:
        config = AutoConfig.from_pretrained(str(name), revision=revision)
        return config, AutoTokenizer.from_pretrained(str(name), revision=revision)
    except OSError as error:
        raise FileNotFoundError(_unreadable(name, local=local, reason=str(error).splitlines()[0])) from error


def load_model(name: Path | str, *, device: str = "cpu", revision: str | None = None) -> PreTrainedModel:
    """Load a teacher's model alone, in eval mode; raises as `load_teacher`."""
    local = Path(name).exists()
    if local:
        _require(Path(name), "config.json", ("config.json",))
        _require(Path(name), "weights", WEIGHTS)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(name), revision=revision or TEACHERS.get(str(name)), dtype="auto", attn_implementation=PACKED,
            output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights in {name} are damaged ({error}): save or download them again") from error
    except OSError as error:
        raise FileNotFoundError(_unreadable(name, local=local, reason=str(error).splitlines()[0])) from error
    check_family(model)
    if info["missing_keys"]:
        raise ValueError(f"the weights in {name} lack {sorted(info['missing_keys'])[:3]} and maybe more: save or "
                         "download the model again")
    return model.eval().to(device)


def _unreadable(name: Path | str, *, local: bool, reason: str) -> str:
    if local:
        return f"the teacher folder {name} cannot be read ({reason}): save the model there again with save_pretrained"
    return (f"the teacher {str(name)!r} is no local folder and could not be fetched from the hub ({reason}): check the "
            "name, connect and log in if the model is gated, or give a folder with config, weights and tokenizer")


def check_family(model: PreTrainedModel) -> None:
    """Raise ValueError unless the model is a causal language model of one of FAMILIES."""
    if model.config.model_type not in FAMILIES or model.get_output_embeddings() is None:
        raise ValueError(f"{type(model).__name__} ({model.config.model_type}) is no teacher: expected a causal "
                         f"language model with its head, of the families {', '.join(FAMILIES)}")


def has_tokenizer(name: Path | str) -> bool:
    """False for a local folder that holds a model alone."""
    folder = Path(name)
    return not folder.exists() or any(match for pattern in TOKENIZER for match in folder.glob(pattern))


def _require(folder: Path, what: str, patterns: tuple[str, ...]) -> None:
    if not any(match for pattern in patterns for match in folder.glob(pattern)):
        raise FileNotFoundError(f"the teacher folder {folder} has no {what} (looked for {', '.join(patterns)}): save "
                                "the model and its tokenizer there with save_pretrained, or name another folder")
