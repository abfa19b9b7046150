"""A teacher from a GGUF file: the three families' config, weights (de-quantised) and tokenizer, by the package `gguf`.

A GGUF names the rules by which a text is split before the BPE (`tokenizer.ggml.pre`), but does not hold them: those of
the three families are in PRE_TOKENIZERS, any other is an error, since wrong rules would silently give other tokens.
Llama's queries and keys are stored with their rotary halves interleaved and are put back. Llama 3's frequencies are
stored as divisors; the rule that gives them is found again and checked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from dbyte.model.packed_attention import PACKED
from dbyte.presets import FAMILIES

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
THREE_DIGITS, ONE_DIGIT = WORDS % "{1,3}", WORDS % ""
PRE_TOKENIZERS = {  # name in the file: what splits a text into pieces; None: single digits, then GPT-2's rules
    "llama-bpe": THREE_DIGITS, "llama3": THREE_DIGITS, "llama-v3": THREE_DIGITS, "dbrx": THREE_DIGITS,
    "qwen2": ONE_DIGIT, "smollm": None}
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # types of tokens in a GGUF: special, added but standing for text, made up
CONFIG = {  # field of a transformers config: key in the file, after the family's name
    "max_position_embeddings": "context_length", "num_hidden_layers": "block_count", "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "rms_norm_eps": "attention.layer_norm_rms_epsilon"}
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class GGUF:
    """What a GGUF file of one of FAMILIES holds: its values by key, and its tensors by name (still quantised)."""

    path: Path
    values: dict
    tensors: dict

    @property
    def family(self) -> str:
        return self.values["general.architecture"]

    def value(self, key: str):
        """A value of the model, without the family's name in front; ValueError if the file lacks it."""
        if (full := f"{self.family}.{key}") not in self.values:
            raise ValueError(f"{self.path} has no {full}: it is no complete model; download it again")
        return self.values[full]

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor of the file, de-quantised: float32."""
        import gguf

        tensor = self.tensors[name]
        return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))

    @property
    def quantisation(self) -> str:
        """The kind of numbers that most of its tensors are kept in, such as "Q4_1"."""
        kinds = [tensor.tensor_type.name for tensor in self.tensors.values()]
        return max(set(kinds), key=kinds.count)


def read_gguf(path: Path) -> GGUF:
    """Read the head of a GGUF file; its weights stay on the disk.

    Raises:
        ModuleNotFoundError: without the package `gguf`.
        ValueError: if the file is no GGUF, is not complete, or is of another family than FAMILIES.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it does not begin with the four letters GGUF")
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"a GGUF file ({path}) is read by the package gguf, which is missing: "
                                  "pip install 'dbyte[teachers]' (in a checkout: pip install -e '.[teachers]')",
                                  name="gguf") from error
    try:
        reader = gguf.GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or not whole ({error}): download it again") from error
    family = values.get("general.architecture")
    if family not in FAMILIES:
        raise ValueError(f"{path} holds a model of the family {family!r}: a teacher is of {', '.join(FAMILIES)}")
    return GGUF(path, values, {tensor.name: tensor for tensor in reader.tensors})


@contextmanager
def _whole(file: GGUF) -> Iterator[None]:
    """Raise ValueError in place of what a damaged head gives: a missing key, no heads, sizes that no memory holds."""
    try:
        yield
    except (LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{file.path} is damaged or not whole ({type(error).__name__}: "
                         f"{str(error).splitlines()[0]}): download it again") from error


def gguf_config(file: GGUF) -> PreTrainedConfig:
    """The transformers config of the model in a GGUF file; ValueError for rotary frequencies of an unknown rule."""
    fields = {field: file.value(key) for field, key in CONFIG.items()}
    heads = fields["num_attention_heads"]
    head_width = file.values.get(f"{file.family}.attention.key_length", fields["hidden_size"] // heads)
    rope = {"rope_type": "default", "rope_theta": float(file.value("rope.freq_base"))}
    if (kind := file.values.get(f"{file.family}.rope.scaling.type", "none")) != "none":
        raise ValueError(f"{file.path} scales its rotary frequencies by {kind!r}, which is not read from a GGUF file: "
                         "give the model's folder in Hugging Face format instead")
    if "rope_freqs.weight" in file.tensors:
        rope |= {"rope_type": "llama3", "factor": float(file.tensor("rope_freqs.weight").max()), **LLAMA3_ROPE}
    return AutoConfig.for_model(
        file.family, **fields, head_dim=head_width, rope_parameters=rope,
        vocab_size=len(file.values["tokenizer.ggml.tokens"]), tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=file.values.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.values.get("tokenizer.ggml.eos_token_id"))


def gguf_model(file: GGUF) -> PreTrainedModel:
    """The model of a GGUF file, de-quantised: float32, eval mode, on the CPU.

    Raises:
        ValueError: if the file lacks a tensor of the model, or holds one of another shape.
    """
    with _whole(file):
        config = gguf_config(file)
        stored = _stored(file, config)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weight = file.tensor(stored[name])
            if file.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = halves(weight, head_width=model.config.head_dim)
            parameter.copy_(weight)
    _check_frequencies(file, model)
    return model.eval()


def _stored(file: GGUF, config: PreTrainedConfig) -> dict[str, str]:
    """The name in the file of each parameter of the model; ValueError if one is not there or has another shape.

    The model is built without memory, since a flipped bit of the head can name sizes that no memory holds.
    """
    import gguf

    if config.num_hidden_layers > len(file.tensors):
        raise ValueError(f"{file.path} is damaged or not whole (it names {config.num_hidden_layers} layers, and there "
                         f"are {len(file.tensors)} tensors): download it again")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[file.family.upper()], config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        stored = found[name] = f"{names.get_name(stem)}.{suffix}"
        if stored not in file.tensors:
            raise ValueError(f"{file.path} has no tensor for {name} ({stored}): it is no complete model of the "
                             f"family {file.family}; download it again")
        shape = tuple(map(int, reversed(file.tensors[stored].shape)))  # GGUF names the innermost size first
        if shape != parameter.shape:
            raise ValueError(f"{file.path}: {stored} has the shape {shape}, the model needs {tuple(parameter.shape)}: "
                             "download the file again")
    return found


def halves(weight_OI: torch.Tensor, *, head_width: int) -> torch.Tensor:
    """Put the rows of each head from llama.cpp's order (in pairs) into transformers' (first halves first)."""
    pairs_HPTI = weight_OI.view(-1, head_width // 2, 2, weight_OI.shape[-1])
    return pairs_HPTI.transpose(1, 2).reshape(weight_OI.shape)


def _check_frequencies(file: GGUF, model: PreTrainedModel) -> None:
    """Raise ValueError unless the divisors in the file are those of Llama 3's rule with the factor that was found."""
    if "rope_freqs.weight" not in file.tensors:
        return
    width = model.config.head_dim
    plain = model.config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    divided = plain / file.tensor("rope_freqs.weight")
    if not torch.allclose(model.model.rotary_emb.inv_freq, divided, rtol=1e-3):
        raise ValueError(f"{file.path} scales its rotary frequencies by another rule than Llama 3's: give the model's "
                         "folder in Hugging Face format instead")


def gguf_tokenizer(file: GGUF) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, with its chat template; ValueError unless it is a byte-level BPE of known rules."""
    with _whole(file):
        return _tokenizer(file)


def _tokenizer(file: GGUF) -> PreTrainedTokenizerFast:
    values = file.values
    kind = values.get("tokenizer.ggml.model")
    rules = values.get("tokenizer.ggml.pre")
    if kind != "gpt2" or rules not in PRE_TOKENIZERS:
        raise ValueError(f"{file.path} has a tokenizer of the kind {kind!r} with the rules {rules!r}: known is a "
                         f"byte-level BPE ('gpt2') with the rules {', '.join(PRE_TOKENIZERS)}. Give the model's folder "
                         "in Hugging Face format instead")
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    # Rows of the embeddings that no token has are filled with names such as [PAD151669], which stand for no text.
    vocabulary = {token: token_id for token_id, token in enumerate(tokens) if types[token_id] != UNUSED}
    pattern = PRE_TOKENIZERS[rules]
    try:
        backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pattern == THREE_DIGITS))
    except Exception as error:  # tokenizers has no class of its own for a merge of tokens that are not there
        raise ValueError(f"{file.path} is damaged or not whole ({error}): download it again") from error
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated") if pattern else pre_tokenizers.Digits(True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    if rules == "qwen2":
        backend.normalizer = normalizers.NFC()
    for token, kind_of_token in zip(tokens, types, strict=True):
        if kind_of_token in (CONTROL, USER_DEFINED):
            backend.add_tokens([AddedToken(token, special=kind_of_token == CONTROL, normalized=False)])
    if values.get("tokenizer.ggml.add_bos_token"):
        bos_id = values["tokenizer.ggml.bos_token_id"]
        backend.post_processor = processors.TemplateProcessing(single=f"{tokens[bos_id]} $A",
                                                               special_tokens=[(tokens[bos_id], bos_id)])
    named = {f"{role}_token": tokens[values[f"tokenizer.ggml.{key}_token_id"]]
             for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
             if f"tokenizer.ggml.{key}_token_id" in values}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=values.get("tokenizer.chat_template"),
                                   **named)
