"""Generate text: Stage 1 reads bytes and writes tokens, Stage 2 reads and writes bytes (paper section 4.1.2, JBP).

Rows of different lengths run together, and each row's text is what it would be alone. A Stage-2 step draws the joint
symbol (next byte, ends a chunk). A Stage-1 step draws a token at a chunk's end and feeds its bytes back; the token's
last byte ends the chunk. Whether a prompt's last byte ends a chunk: Stage 2 asks its joint head; Stage 1 takes it that
the prompt ends at a token's end, as a token model does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dbyte.decode.stream import ByteStream, check_text_bytes, pad_bytes
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS, EOS


def generate(
    student: ByteStudent,
    prompts: Sequence[str | bytes],
    *,
    max_new_bytes: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    stage: int | None = None,
    as_bytes: bool = False,
    prompt_ends: list[list[int]] | None = None,
) -> list[str] | list[bytes]:
    """Continue each prompt until EOS, a stop string (left out of the result) or `max_new_bytes`.

    Args:
        prompts: str, or UTF-8 bytes; an empty prompt starts from BOS.
        temperature: 0 takes the likeliest symbol, > 0 samples with `seed`.
        stage: 1 writes tokens, 2 writes bytes; None: the stage that the student was trained to.
        prompt_ends: where the teacher's tokens end in each prompt's bytes, to read it along the tokenizer's boundaries
            (Stage 1 before its router has learned); None: the router cuts.
        as_bytes: return raw bytes; else text, with a cut or invalid character replaced by U+FFFD.
    Raises:
        ValueError: for reserved bytes 0xFE or 0xFF in a prompt, limits below 1, a negative temperature, a stage other
            than 1 or 2, or stop strings that are empty or not in a list.
    """
    if max_new_bytes < 1 or temperature < 0 or isinstance(prompts, str | bytes):
        raise ValueError(f"generate expects a list of prompts, max_new_bytes >= 1 and temperature >= 0; found "
                         f"{type(prompts).__name__}, {max_new_bytes}, {temperature}")
    if stage not in (None, 1, 2) or isinstance(stop, str) or not all(stop):
        raise ValueError(f"generate expects stage 1, 2 or None and a list of stop strings that are not empty; found "
                         f"{stage!r}, {stop!r}")
    encoded = [prompt.encode() if isinstance(prompt, str) else prompt for prompt in prompts]
    for prompt in encoded:
        check_text_bytes(prompt)
    if not encoded:
        return []
    was_training, generator = student.training, torch.Generator(device=student.device).manual_seed(seed)
    write = _write_tokens if (stage or student.config.stage) == 1 else _write_bytes
    try:
        texts = write(student.eval(), encoded, max_new_bytes, temperature, generator, [text.encode() for text in stop],
                      prompt_ends)
    finally:
        student.train(was_training)
    return texts if as_bytes else [text.decode(errors="replace") for text in texts]


def _write_bytes(
    student: ByteStudent, prompts: list[bytes], limit: int, temperature: float, generator: torch.Generator,
    stops: list[bytes], prompt_ends: list[list[int]] | None,
) -> list[bytes]:
    stream = ByteStream(student, prompts, new_bytes=limit, byte_head=True, close_last=False, prompt_ends=prompt_ends)
    texts, open_rows = [bytearray() for _ in prompts], set(range(len(prompts)))
    for _ in range(limit):
        logits_BK2 = stream.joint_logits_BK2.clone()
        logits_BK2[:, [BOS, BOS + BYTES]] = float("-inf")
        symbol_B = draw(logits_BK2, temperature, generator)
        byte_B, ends_B = symbol_B % BYTES, symbol_B >= BYTES
        for row, byte in enumerate(byte_B.tolist()):
            if row in open_rows and _append(texts[row], bytes([byte]), stops, limit):
                open_rows.remove(row)
        if not open_rows:
            break
        stream.step(byte_B, ends_B)
    return [bytes(text) for text in texts]


def _write_tokens(
    student: ByteStudent, prompts: list[bytes], limit: int, temperature: float, generator: torch.Generator,
    stops: list[bytes], prompt_ends: list[list[int]] | None,
) -> list[bytes]:
    stream = ByteStream(student, prompts, new_bytes=limit, byte_head=False, close_last=True, prompt_ends=prompt_ends)
    texts, open_rows = [bytearray() for _ in prompts], set(range(len(prompts)))
    while open_rows:
        token_B = draw(student.token_head(stream.core_BE), temperature, generator)
        written = [_token_or_eos(student, token) for token in token_B.tolist()]
        for row in sorted(open_rows):
            if _append(texts[row], written[row], stops, limit):
                open_rows.remove(row)
        if open_rows:
            _feed(stream, [text if row in open_rows else b"" for row, text in enumerate(written)])
    return [bytes(text) for text in texts]


def _token_or_eos(student: ByteStudent, token: int) -> bytes:
    """A token's bytes; EOS for tokens without text, so that generation ends there."""
    return student.token_text(token) or bytes([EOS])


def _feed(stream: ByteStream, written: list[bytes]) -> None:
    """Step each row through the bytes of its token, closing the chunk at the last one."""
    ids_BL = pad_bytes(written, device=stream.core_BE.device)
    length_B = torch.tensor([len(text) for text in written], device=ids_BL.device)
    for i in range(ids_BL.shape[1]):
        stream.step(ids_BL[:, i], length_B == i + 1, active_B=i < length_B)


def _append(text: bytearray, new: bytes, stops: list[bytes], limit: int) -> bool:
    """Append generated bytes to a row's text; True if the row is finished, with the text cut where it ends."""
    before = len(text)
    text += new[: limit - before]
    places = (text.find(stop, max(before - len(stop) + 1, 0)) for stop in [*stops, bytes([EOS])])
    ends = [place for place in places if place >= 0]
    if ends:
        del text[min(ends):]
    return bool(ends) or len(text) >= limit


def draw(logits_BX: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one symbol per row: the likeliest at temperature 0."""
    if temperature == 0:
        return logits_BX.argmax(-1)
    return torch.multinomial((logits_BX.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]
