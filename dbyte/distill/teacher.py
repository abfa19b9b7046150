"""The teacher: any Llama, Qwen3 or OLMo2 causal language model, or a small one trained here in the same format.

A small teacher has a byte-level BPE tokenizer in Qwen's manner (its pre-tokenizer pattern: digits one at a time),
with a BOS, and is trained by the same loop as the student, so it is cached and resumed like every run.
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dbyte.distill import objectives
from dbyte.distill.data import mixed_texts, training_corpora, training_rows
from dbyte.distill.loader import Feed
from dbyte.distill.planned_run import PlannedRun
from dbyte.distill.processes import ALONE, Launch
from dbyte.distill.runs import Run, atomic_dir, content_hash, file_lock, model_hash, noted, verify
from dbyte.distill.steps import EVERYTHING, Group, Step
from dbyte.distill.teacher_source import teacher_folder
from dbyte.distill.trainer import train
from dbyte.model.packed_attention import PACKED
from dbyte.model.teacher import load_model, load_tokenizer
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
                         f"for a smaller vocabulary (--set teacher.vocabulary={tokenizer.get_vocab_size()})")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)


def teacher_step(shape: TeacherShape) -> Step:
    """The step that trains a teacher of this shape."""
    return Step("0 teacher", 0, objectives.token, (Group(EVERYTHING, shape.rate, shape.muon_rate),), shape.train_bytes,
                warmup=shape.warmup, floor=0.05, betas=shape.betas)


def teacher_run(scale: Scale, *, seed: int, launch: Launch = ALONE) -> Path:
    """Return the folder or hub name of the scale's teacher; one with a `TeacherShape` is trained first if need be.

    A scale that continues another trains the other's teacher further, with its tokenizer; ValueError if the two
    teachers differ in size.
    """
    if isinstance(scale.teacher, str):
        return teacher_folder(scale.teacher)
    if scale.continues:
        teacher_run(scale.continues, seed=seed, launch=launch)
    with launch.processes.first_goes_first():
        planned = plan_teacher(scale, seed=seed)[-1]
    if not launch.processes.of_first(planned.run.is_complete):
        tokenizer = _tokenizer(scale, continued=planned.teacher, seed=seed)
        model = _first_model(scale.teacher, tokenizer, continued=planned.teacher, seed=seed)
        train(planned.run, planned.step, planned.feed, model=model, device=scale.device,
              precision=scale.precision, launch=launch, save_extra=tokenizer.save_pretrained)
    return planned.run.model_folder


def plan_teacher(scale: Scale, *, seed: int) -> tuple[PlannedRun, ...]:
    """The runs of the scale's teacher, those that it continues first; none for a folder or hub name.

    Nothing is trained but a tokenizer, and texts that were never packed are packed; both are kept.
    """
    if isinstance(scale.teacher, str):
        return ()
    shape = scale.teacher
    step = teacher_step(shape)
    before = plan_teacher(scale.continues, seed=seed) if scale.continues else ()
    if before and before[-1].status != "complete":
        return (*before, PlannedRun(step, None))
    continued = before[-1].run.model_folder if before else None
    tokenizer = _tokenizer(scale, continued=continued, seed=seed)
    rows = training_rows(scale, TokenBytes.from_tokenizer(tokenizer), seed=seed, positions=shape.positions)
    described = {"teacher": shape.describe(), "step": step.describe(), "data": rows.hash, "seed": seed,
                 "batch_rows": scale.batch_rows, "positions": shape.positions, "precision": scale.precision}
    if continued:
        described["first"] = model_hash(continued)
    run = Run(described, notes=noted(scale.name))
    return (*before, PlannedRun(step, run, Feed(rows, scale.batch_rows, seed), teacher=continued))


def _first_model(
    shape: TeacherShape, tokenizer: PreTrainedTokenizerFast, *, continued: Path | None, seed: int
) -> PreTrainedModel:
    """The model that training starts from: new, or the teacher in a folder that is continued."""
    asked = teacher_config(shape, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    if continued is None:
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(asked, attn_implementation=PACKED)
    model = load_model(continued)
    sizes = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")
    if any(getattr(model.config, name) != getattr(asked, name) for name in sizes):
        raise ValueError(f"the teacher in {continued} has other sizes than {shape}: a scale that continues another "
                         "needs a teacher of its sizes")
    return model


def _tokenizer(scale: Scale, *, continued: Path | None, seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the teacher that is continued; else a new one, trained once for its corpora and cached."""
    if continued:
        return load_tokenizer(continued)
    shape = scale.teacher
    corpora = training_corpora(scale, seed=seed)
    corpora = [corpus for corpus in corpora if corpus.name in shape.tokenizer_corpora] or corpora
    key = content_hash(
        {"corpora": [c.content_hash for c in corpora], "vocabulary": shape.vocabulary, "pattern": PATTERN})
    folder = RUNS / "data" / f"tokenizer-{key[:16]}"
    with file_lock(folder.with_suffix(".lock")):  # a second writer would remove the folder that the first one reads
        if not folder.exists() or verify(folder):
            with atomic_dir(folder) as temporary:
                train_tokenizer(mixed_texts(corpora, seed=seed), vocabulary=shape.vocabulary).save_pretrained(temporary)
    return load_tokenizer(folder)


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
