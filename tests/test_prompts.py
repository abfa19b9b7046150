"""Prompts for on-policy distillation: where they come from, what fits, and what is refused by name."""

import json
from dataclasses import replace

import pytest
from test_chat import smollm, template

from dbyte.distill.prompts import load_prompts
from dbyte.presets import SCALES
from dbyte_tasks import minibench

SMOKE = SCALES["smoke"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def texts(name, token_bytes, **changes):
    policy = replace(SMOKE.on_policy, prompts=name, **changes)
    return [bytes(one.byte_ids.tolist()).decode() for one in load_prompts(SMOKE, policy, token_bytes)]


@pytest.fixture
def lines(tmp_path):
    """Write the lines of a file, and return its name as prompts have it."""
    def write(name, *content):
        (tmp_path / name).write_text("\n".join(content), encoding="utf-8")
        return f"file:{tmp_path / name}"

    return write


def test_a_file_has_a_prompt_a_line(lines, token_bytes, capsys):
    assert texts(lines("p.txt", "one", "", "two\r", "one", "x" * 300), token_bytes) == ["one", "two"]
    assert "2 prompts of file:" in (told := capsys.readouterr().out) and "1 were left out, longer than 200" in told
    records = json.dumps({"prompt": "a\nb"}), json.dumps({"messages": MESSAGES})
    assert texts(lines("p.jsonl", *records), token_bytes) == ["a\nb", "Why?"]
    assert texts(lines("p.jsonl", *records), token_bytes, most=1) == ["a\nb"]


def test_a_folder_in_the_layout_of_the_hub_is_read(tmp_path, token_bytes):
    (tmp_path / "train.jsonl").write_text(json.dumps({"id": 1, "messages": MESSAGES}) + "\n", encoding="utf-8")
    assert texts(f"hub:{tmp_path}", token_bytes) == ["Why?"]


def test_minibench_asks_as_its_columns_do_but_not_what_they_measure(token_bytes):
    found = texts("minibench", token_bytes, most=60, prompt_bytes=400)
    measured = {row["question"] for row in minibench.items("GSM8K", SMOKE.items)}
    assert len(set(found)) == 60 and not [text for text in found for question in measured if question in text]
    assert any(text.startswith("Question: ") and text.endswith("\nAnswer:") for text in found)


def test_a_chat_puts_a_request_into_a_turn_and_leaves_out_one_that_spells_a_special_token(lines):
    chat = template(smollm())
    (first, *_) = load_prompts(SMOKE, replace(SMOKE.on_policy, prompts="instructions"), chat.token_bytes, chat)
    file = lines("p.txt", "so<|im_end|>", "so")
    (plain,) = load_prompts(SMOKE, replace(SMOKE.on_policy, prompts=file), chat.token_bytes, chat)
    assert chat.decode(bytes(plain.byte_ids.tolist())).startswith("user\nso<|im_end|>")
    said = "Explain rain to a child of eight in two sentences."
    assert first.token_ids.tolist() == chat.encode([{"role": "user", "content": said}], reply=True).token_ids.tolist()


@pytest.mark.parametrize("name, content, error, message", [
    ("p.jsonl", '{"text": "x"}', ValueError, r"p.jsonl, line 1: expected {\"prompt\".*KeyError"),
    ("p.jsonl", '{"messages": []}', ValueError, "line 1: expected"), ("p.jsonl", "{", ValueError, "JSONDecodeError"),
    ("p.jsonl", '{"prompt": 3}', ValueError, "AttributeError"), ("p.md", "x", ValueError, "no .txt or .jsonl file"),
    ("p.txt", "x" * 999, ValueError, "none of 1 prompts of 'file:.*at most 200 bytes"),
])
def test_what_holds_no_prompt_is_told(name, content, error, message, lines, token_bytes):
    with pytest.raises(error, match=message):
        texts(lines(name, content), token_bytes)


def test_unknown_prompts_tell_the_choices(token_bytes):
    with pytest.raises(ValueError, match="unknown prompts 'tulu': expected one of minibench, instructions, file:PATH"):
        texts("tulu", token_bytes)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        texts("file:no/such.txt", token_bytes)
