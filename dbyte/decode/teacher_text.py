"""Text from a token-trained teacher after any bytes: the last token of a prompt is not taken for granted.

A prompt that ends within a word, or with a space, makes a token model write badly, since its last token is not what an
encoding of the whole text has there. Here a covering of the prompt is drawn from all of them (`coverings.py`), the last
token of which may have more bytes than the prompt, and tokens follow it as ever. So the bytes are drawn from the
model's distribution of texts that begin with the prompt, and hardly cost more than tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dbyte.byte_probabilities.coverings import coverings
from dbyte.byte_probabilities.encodings import split_characters
from dbyte.byte_probabilities.teacher_lm import ByteTeacher
from dbyte.decode.sampling import Sampling
from dbyte.text.spans import utf8


@torch.inference_mode()
def generate_from_teacher(
    teacher: ByteTeacher, prompts: Sequence[str | bytes], *, max_new_bytes: int = 256, temperature: float = 0.0,
    top_k: int | None = None, top_p: float = 1.0, seed: int = 0, stop: Sequence[str] = (), as_bytes: bool = False,
) -> list[str] | list[bytes]:
    """Continue each prompt, which may end at any byte, until EOS, a stop string (left out) or max_new_bytes.

    temperature: 1 draws from the model's distribution of texts after the prompt; 0 takes the likeliest covering, then
    the likeliest tokens. top_k, top_p: of the tokens that follow; see `sampling.Sampling`. as_bytes: return raw bytes;
    else text, with U+FFFD for a character that the limit cuts; after a prompt that ends within a character it begins
    with the whole character. Raises ValueError as `decode.generate.generate` does.
    """
    if isinstance(prompts, str | bytes):
        raise ValueError(f"generate expects a list of prompts, found {type(prompts).__name__}: put it into a list")
    if max_new_bytes < 1:
        raise ValueError(f"max_new_bytes must be at least 1, found {max_new_bytes}")
    sampling = Sampling(temperature, top_k, top_p, seed)
    data = [teacher.bytes_of(prompt) for prompt in prompts]
    stops = [utf8(text) for text in stop]
    written = [_continue(teacher, prompt, sampling, max_new_bytes, stops) for prompt in data]
    if as_bytes:
        return written
    return [(split_characters(prompt)[1] + text).decode(errors="replace")
            for prompt, text in zip(data, written, strict=True)]


def _continue(teacher: ByteTeacher, prompt: bytes, sampling: Sampling, limit: int, stops: list[bytes]) -> bytes:
    found = coverings(prompt, teacher.teacher, teacher.vocabulary, teacher.encodings, last=True).last
    log_prob_C = torch.tensor([log_prob for _, log_prob in found], dtype=torch.float64)

    def written(id_M: Tensor) -> tuple[bytes, bool]:
        """What tokens add to the prompt, and whether that is enough."""
        text = teacher.tokens.decode(id_M[1:].tolist())[len(prompt) :][:limit]
        ends = [text.find(each) for each in stops if each in text]
        return text[: min(ends, default=limit)], len(text) == limit or bool(ends)

    draws = sampling.temperature > 0
    with torch.random.fork_rng(enabled=draws):
        torch.manual_seed(sampling.seed)
        chosen = (torch.multinomial((log_prob_C / sampling.temperature).softmax(0), 1) if draws
                  else log_prob_C.argmax())
        id_1M = torch.tensor([found[chosen.item()][0]], device=teacher.model.device)
        if not written(id_1M[0])[1]:
            id_1M = teacher.model.generate(
                id_1M, max_new_tokens=limit, do_sample=draws, temperature=sampling.temperature if draws else None,
                top_k=sampling.top_k or 0 if draws else None, top_p=sampling.top_p if draws else None,
                eos_token_id=teacher.vocabulary.stop_ids(), pad_token_id=teacher.tokens.eos_token_id,
                stopping_criteria=[lambda ids, _: torch.tensor([written(ids[0])[1]], device=ids.device)])
    return written(id_1M[0])[0]
