"""Text from a token-trained teacher after any bytes: the last token of a prompt is not taken for granted.

A prompt that ends within a word, or with a space, makes a token model write badly, since its last token is not what an
encoding of the whole text has there. Here a covering of the prompt is drawn from all of them (`coverings.py`), the last
token of which may have more bytes than the prompt, and tokens follow it as ever. So the bytes are drawn from the
model's distribution of texts that begin with the prompt, and hardly cost more than tokens.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from dbyte.byte_probabilities.coverings import coverings
from dbyte.byte_probabilities.encodings import split_characters
from dbyte.byte_probabilities.teacher_lm import ByteTeacher
from dbyte.byte_probabilities.token_model import TreeReader
from dbyte.decode.generate import check_limits
from dbyte.decode.sampling import Sampler, Sampling
from dbyte.model.core import check_positions
from dbyte.text.spans import utf8


@torch.inference_mode()
def generate_from_teacher(
    teacher: ByteTeacher, prompts: Sequence[str | bytes], *, max_new_bytes: int = 256, temperature: float = 0.0,
    top_k: int | None = None, top_p: float = 1.0, seed: int = 0, stop: Sequence[str] = (), as_bytes: bool = False,
) -> list[str] | list[bytes]:
    """Continue each prompt, which may end at any byte, until EOS, a stop string (left out) or max_new_bytes.

    temperature: 1 draws from the model's distribution of texts after the prompt, equal prompts apart; 0 takes the
    likeliest covering, then the likeliest tokens. top_k, top_p: of coverings and of tokens; see `sampling.Sampling`.
    as_bytes: return raw bytes; else text, with U+FFFD for a character that the limit cuts; after a prompt that ends
    within a character it begins with the whole character. Raises ValueError as `decode.generate.generate` does, where
    the text outgrows the model's positions, or for a prompt that is no UTF-8 unless as_bytes is True.
    """
    if isinstance(prompts, str | bytes):
        raise ValueError(f"generate expects a list of prompts, found {type(prompts).__name__}: put it into a list")
    check_limits(max_new_bytes, stop)
    data = [teacher.bytes_of(prompt) for prompt in prompts]
    if not as_bytes:
        for prompt in data:
            _check_utf8(prompt)
    sampler = Sampler(Sampling(temperature, top_k, top_p, seed), data)
    stops = [utf8(text) for text in stop]
    written = [_continue(teacher, prompt, row, sampler, max_new_bytes, stops) for row, prompt in enumerate(data)]
    if as_bytes:
        return written
    return [(split_characters(prompt)[1] + text).decode(errors="replace")
            for prompt, text in zip(data, written, strict=True)]


def _check_utf8(prompt: bytes) -> None:
    """Raise ValueError for a prompt that no text begins with; it may end within a character."""
    _, cut = split_characters(prompt)
    try:
        prompt[: len(prompt) - len(cut)].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a prompt has the byte 0x{prompt[error.start]:02X} at byte {error.start}, which is no UTF-8, "
                         "so no text continues it: ask for bytes, as_bytes=True") from None


def _continue(
    teacher: ByteTeacher, prompt: bytes, row: int, sampler: Sampler, limit: int, stops: list[bytes]
) -> bytes:
    found = coverings(prompt, TreeReader(teacher.model), teacher.encodings)
    log_prob_1C = torch.tensor([[log_prob for _, log_prob in found]], dtype=torch.float64)
    tokens = list(found[sampler.draw(log_prob_1C, [row]).item()][0])
    text_of = teacher.vocabulary.text_of
    written = b"".join(text_of[token] for token in tokens)[len(prompt) :]
    model = teacher.model
    cache = DynamicCache()
    while len(written) < limit and not any(stop in written for stop in stops):
        check_positions(len(tokens), model.config.max_position_embeddings)
        new_1M = torch.tensor([tokens[cache.get_seq_length() :]], device=model.device)
        logits_1V = model(new_1M, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        tokens.append(sampler.draw(logits_1V, [row]).item())
        if not text_of[tokens[-1]]:
            break
        written += text_of[tokens[-1]]
    written = written[:limit]
    return written[: min((written.find(stop) for stop in stops if stop in written), default=limit)]
