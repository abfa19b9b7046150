"""Prompts for on-policy distillation, by name: texts that a student and its teacher continue.

    minibench       how the columns of MiniBench ask, on items behind those that a scale measures
    instructions    requests written for this project (dbyte_tasks/instructions.toml)
    file:PATH       a .txt with one prompt a line, a .jsonl with {"prompt": ...} or {"messages": [...]} a line, or a
                    folder of them
    hub:NAME        a dataset of the hub with such records, as in text/corpus.py (the paper: Tulu 3's mixture)

Of messages the first one of a user is the prompt.
"""

import json
from collections.abc import Iterator

from dbyte.presets import OnPolicy, Scale
from dbyte.text.chat import ChatTemplate
from dbyte.text.files import read_utf8, readable_files
from dbyte.text.hub import reading, streamed
from dbyte.text.spans import Aligned, TokenBytes
from dbyte_tasks.prompts import instructions, of_minibench

CHOICES = "minibench, instructions, file:PATH, hub:NAME"


def load_prompts(
    scale: Scale, policy: OnPolicy, token_bytes: TokenBytes, chat: ChatTemplate | None = None
) -> list[Aligned]:
    """The first `policy.most` prompts that fit, aligned without BOS, with `chat` as a user's turn and up to the answer.

    Raises ValueError for an unknown name, damaged records or none that fits; FileNotFoundError and ConnectionError
    where they cannot be read.
    """
    found = []
    left_out = 0
    seen = set()
    for text in _texts(policy, scale):
        if text in seen:
            continue
        seen.add(text)
        fits = token_bytes.can_spell(text) and (chat is None or chat.is_plain(text))
        if fits:
            aligned = chat.encode([{"role": "user", "content": text}], reply=True) if chat else token_bytes.align(text)
            fits = len(aligned.byte_ids) <= policy.prompt_bytes
        found += [aligned] if fits else []
        left_out += not fits
        if len(found) == policy.most:
            break
    if not found:
        raise ValueError(f"none of {left_out} prompts of {policy.prompts!r} has at most {policy.prompt_bytes} bytes "
                         "that the teacher's tokens can spell: raise prompt_bytes, or give other prompts")
    print(f"{len(found)} prompts of {policy.prompts}; {left_out} were left out, longer than {policy.prompt_bytes} "
          "bytes or with bytes or special tokens that no text may have", flush=True)
    return found


def _texts(policy: OnPolicy, scale: Scale) -> Iterator[str]:
    name = policy.prompts
    scheme, _, place = name.partition(":")
    if name == "minibench":
        return of_minibench([corpus for corpus, _ in scale.corpora], measured=scale.items, most=policy.most)
    if name == "instructions":
        return instructions()
    if scheme in ("file", "hub") and place:
        return _of_files(place) if scheme == "file" else _of_hub(place)
    raise ValueError(f"unknown prompts {name!r}: expected one of {CHOICES}")


def _of_files(place: str) -> Iterator[str]:
    for path in readable_files(place):
        for number, line in enumerate(read_utf8(path).split("\n"), start=1):
            line = line.removesuffix("\r")
            if line.strip():
                yield line if path.suffix == ".txt" else _prompt(line, f"{path}, line {number}")


def _of_hub(place: str) -> Iterator[str]:
    records = iter(streamed(place).with_format(None))
    while True:
        with reading(place):
            record = next(records, None)
        if record is None:
            return
        yield _prompt(record, f"a record of dataset {place!r}")


def _prompt(record: str | dict, where: str) -> str:
    """The prompt of a record, JSON or a dict; ValueError that says where it has none."""
    try:
        record = json.loads(record) if isinstance(record, str) else record
        text = record["prompt"] if "prompt" in record else next(
            message["content"] for message in record["messages"] if message["role"] == "user")
        text.encode()
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f'{where}: expected {{"prompt": "..."}} or {{"messages": [{{"role": "user", "content": "..."}}'
                         f"]}}, found {str(record)[:60]!r} ({type(error).__name__}: {error})") from error
    return text
