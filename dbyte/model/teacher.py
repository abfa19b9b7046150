"""Loading a teacher: a transformers causal language model of a family whose core reads plain `inputs_embeds`.

A hub name is read at the revision that `presets.TEACHERS` pins, any other name at its newest.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from dbyte.model.packed_attention import PACKED
from dbyte.model.ranks_file import QWEN_FILE, qwen_tokenizer
from dbyte.model.weights import reading_weights
from dbyte.presets import FAMILIES, TEACHERS

CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights", "tokenizer"
FILES = {CONFIG: ("config.json",), WEIGHTS: ("*.safetensors",), TOKENIZER: ("tokenizer.json", "vocab.json", QWEN_FILE)}


def load_teacher(
    name: Path | str, *, device: str = "cpu", dtype: torch.dtype | str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load (model in eval mode, tokenizer) of a teacher folder or hub name.

    dtype: of the weights; None: float32 on a CPU, where half precision is slow and rounds what it adds up, and as they
    are on a GPU; "auto": as they are.

    Raises:
        FileNotFoundError: if a folder lacks config, weights or tokenizer, or a hub name cannot be fetched.
        ValueError: if the model is of another family, or its weights are damaged or not whole.
    """
    model = load_model(name, device=device, dtype=dtype)
    return model, read_teacher(name)[1]


def read_teacher(name: Path | str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Read (config, tokenizer) of a teacher folder or hub name, without its weights.

    Raises:
        FileNotFoundError: if a folder lacks config, weights or tokenizer, or a hub name cannot be fetched.
    """
    revision = TEACHERS.get(str(name))
    with _reading(name, needed=(CONFIG, WEIGHTS, TOKENIZER)):
        # Without a word on it, transformers asks on a terminal whether to run the folder's code.
        config = AutoConfig.from_pretrained(str(name), revision=revision, trust_remote_code=False)
        return config, load_tokenizer(name, revision=revision)


def read_tokenizer(name: Path | str) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder, which may hold nothing else, or of a hub name; raises as `read_teacher`."""
    with _reading(name, needed=(TOKENIZER,), kind="tokenizer"):
        return load_tokenizer(name, revision=TEACHERS.get(str(name)))


def load_tokenizer(name: Path | str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer as its tokenizer.json says, whatever class its config names.

    AutoTokenizer builds some classes anew from vocabulary and merges, by rules of the class: OLMo 2 names GPT-2's, and
    would split numbers as GPT-2 does.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(name), revision=revision)
    except (ValueError, OSError):  # no tokenizer.json
        if (Path(name) / QWEN_FILE).is_file():
            return qwen_tokenizer(Path(name) / QWEN_FILE)
        # AutoTokenizer says what is missing
        return AutoTokenizer.from_pretrained(str(name), revision=revision, trust_remote_code=False)


def load_model(name: Path | str, *, device: str = "cpu", dtype: torch.dtype | str | None = None) -> PreTrainedModel:
    """Load a teacher's model alone, in eval mode; dtype and errors are those of `load_teacher`."""
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
    with _reading(name, needed=(CONFIG, WEIGHTS)), reading_weights(name):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(name), revision=TEACHERS.get(str(name)), dtype=dtype, attn_implementation=PACKED,
            output_loading_info=True, use_safetensors=True, trust_remote_code=False)
    check_family(model)
    if info["missing_keys"]:
        raise ValueError(f"the weights in {name} lack {sorted(info['missing_keys'])[:3]} and maybe more: save or "
                         "download the model again")
    return model.eval().to(device)


@contextmanager
def _without_retries_told() -> Iterator[None]:
    """The hub's client tells each of its many retries; one error at the end is enough."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _reading(name: Path | str, *, needed: tuple[str, ...], kind: str = "teacher") -> Iterator[None]:
    """Refuse a folder without the files that are needed, and say in plain words why transformers cannot read one."""
    local = Path(name).exists()
    for what in needed:
        if not _has(name, what):
            raise FileNotFoundError(f"the {kind} folder {name} has no {what} (looked for {', '.join(FILES[what])}): "
                                    "save the model and its tokenizer there with save_pretrained, or name another "
                                    "folder")
    try:
        if CONFIG in needed and model_kind(name) == "dbyte":
            raise ValueError(f"{name} holds a byte-level student, not a teacher: name a causal language model of the "
                             f"families {', '.join(FAMILIES)} (ByteStudent.from_pretrained reads the student)")
        with nullcontext() if local else _without_retries_told():
            yield
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"the {kind} folder {name} cannot be read ({reason}): save the {kind} there again with save_pretrained"
            if local else
            f"the {kind} {str(name)!r} is no local folder and could not be fetched from the hub ({reason}): check the "
            f"name, connect and log in if the model is gated, or give a folder with {', '.join(needed)}"
        ) from error


def _has(name: Path | str, what: str) -> bool:
    """False for a local folder without any of the files of `what`; a hub name is taken to have them."""
    folder = Path(name)
    return not folder.exists() or any(match for pattern in FILES[what] for match in folder.glob(pattern))


def model_kind(name: Path | str) -> str | None:
    """The `model_type` in the config.json of a folder or hub name, without building anything; None if it says none.

    Raises ValueError if config.json holds no object, or is nested without end.
    """
    try:
        return PreTrainedConfig.get_config_dict(str(name), revision=TEACHERS.get(str(name)))[0].get("model_type")
    except (RecursionError, TypeError, AttributeError) as error:
        raise ValueError(f"the config.json of {name} is no JSON object of settings ({type(error).__name__}): save or "
                         "download it again") from error


def has_tokenizer(name: Path | str) -> bool:
    """False for a local folder that holds a model alone."""
    return _has(name, TOKENIZER)


def check_family(model: PreTrainedModel) -> None:
    """Raise ValueError unless the model is a causal language model of one of FAMILIES, with full attention."""
    if model.config.model_type not in FAMILIES or model.get_output_embeddings() is None:
        raise ValueError(f"{type(model).__name__} ({model.config.model_type}) is no teacher: expected a causal "
                         f"language model with its head, of the families {', '.join(FAMILIES)}")
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise ValueError(f"{type(model).__name__} has layers with a sliding window of {model.config.sliding_window} "
                         "tokens, and the core here attends to everything before: use a teacher with full attention, "
                         "or set use_sliding_window to false if no text is longer than the window")
