"""The teacher: any Llama, Qwen3 or OLMo2 causal language model, or a small one trained here in the same format.

A small teacher has a byte-level BPE tokenizer in Qwen's manner (its pre-tokenizer pattern: digits one at a time),
with a BOS, and is trained by the same loop as the student, so it is cached and resumed like every run.
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dbyte.distill import objectives
from dbyte.distill.data import mixed_texts, training_corpora, training_rows
from dbyte.distill.feed import Feed
from dbyte.distill.runs import Run, alone, content_hash, damage, model_hash, written_whole
from dbyte.distill.steps import EVERYTHING, Group, Step
from dbyte.distill.trainer import Launch, check_sharding, train
from dbyte.model.packed_attention import PACKED
from dbyte.model.projection import project_everywhere
from dbyte.model.teacher import load_model
from dbyte.paths import RUNS
from dbyte.presets import Scale, TeacherShape
from dbyte.text.spans import TokenBytes

BOS_TOKEN, EOS_TOKEN = "<|begin_of_text|>", "<|end_of_text|>"
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def train_tokenizer(texts: list[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with BOS and EOS on texts; ValueError if the texts are too few for `vocabulary` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BOS_TOKEN, EOS_TOKEN], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(f"the text gave {tokenizer.get_vocab_size()} of {vocabulary} tokens: give more text, or ask "
                         "for a smaller vocabulary")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)


def teacher_step(shape: TeacherShape) -> Step:
    """How a teacher of this shape is trained."""
    return Step("0 teacher", 0, objectives.token, (Group(EVERYTHING, shape.rate, shape.muon_rate),), shape.train_bytes,
                shape.warmup, 0.05, betas=shape.betas)


def teacher_run(scale: Scale, *, seed: int, launch: Launch | None = None) -> Path:
    """Return the folder or hub name of the scale's teacher; one with a `TeacherShape` is trained first if need be.

    Where the scale continues another, it is that one's teacher that trains on, with its tokenizer; ValueError where its
    sizes are others than the scale's.
    """
    if isinstance(scale.teacher, str):
        return Path(scale.teacher)
    shape, launch = scale.teacher, launch or Launch()
    step = teacher_step(shape)
    check_sharding((step,), launch.processes.sharding)
    first = teacher_run(scale.continues, seed=seed, launch=launch) if scale.continues else None
    with launch.processes.first_goes_first():
        tokenizer = AutoTokenizer.from_pretrained(first) if first else _tokenizer(scale, shape, seed=seed)
        rows = training_rows(scale, TokenBytes.from_tokenizer(tokenizer), seed=seed, positions=shape.positions)
    run = Run({"teacher": shape.describe(), "step": step.describe(), "data": rows.hash, "seed": seed,
               "batch_rows": scale.batch_rows, "positions": shape.positions, "precision": scale.precision}
              | ({"first": model_hash(first)} if first else {}))
    if not launch.processes.gathered(launch.processes.is_first and run.is_complete())[0]:
        model = _loaded(first, shape) if first else _new_model(shape, tokenizer, seed=seed)
        train(run, step, Feed(rows, scale.batch_rows, seed), model=model,
              device=launch.processes.device if launch.processes.count > 1 else scale.device,
              precision=scale.precision, launch=launch, save_extra=lambda folder: tokenizer.save_pretrained(folder))
    return run.model_folder


def _loaded(folder: Path, shape: TeacherShape) -> PreTrainedModel:
    model, asked = load_model(folder), teacher_config(shape)
    for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"):
        if (has := getattr(model.config, name)) != getattr(asked, name):
            raise ValueError(f"the teacher in {folder} has {name} {has}, asked to go on with {getattr(asked, name)}: "
                             "give the scale a teacher of the sizes of the one that it continues")
    return model


def _tokenizer(scale: Scale, shape: TeacherShape, *, seed: int) -> PreTrainedTokenizerFast:
    """The teacher's tokenizer, trained once for its corpora and cached."""
    chosen = shape.tokenizer_corpora or tuple(name for name, _ in scale.corpora)
    corpora = [corpus for corpus in training_corpora(scale, seed=seed) if corpus.name in chosen]
    key = content_hash(
        {"corpora": [c.content_hash for c in corpora], "vocabulary": shape.vocabulary, "pattern": PATTERN})
    folder = RUNS / "data" / f"tokenizer-{key[:16]}"
    with alone(folder.with_suffix(".lock")):  # a second writer would take the folder from under the first one's reader
        if not folder.exists() or damage(folder):
            with written_whole(folder) as temporary:
                train_tokenizer(mixed_texts(corpora, seed=seed), vocabulary=shape.vocabulary).save_pretrained(temporary)
    return AutoTokenizer.from_pretrained(folder)


def teacher_config(
    shape: TeacherShape, *, bos_token_id: int | None = None, eos_token_id: int | None = None
) -> PreTrainedConfig:
    """The config of a teacher trained here."""
    return AutoConfig.for_model(
        shape.family, vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
        max_position_embeddings=shape.positions, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads, head_dim=shape.width // shape.heads,
        intermediate_size=shape.ffn_width, tie_word_embeddings=True, initializer_range=shape.initial_std,
        bos_token_id=bos_token_id, eos_token_id=eos_token_id)


def _new_model(shape: TeacherShape, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = teacher_config(shape, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return project_everywhere(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED))
