"""Chat templates: their special tokens have bytes of their own, in text, in the student and in the harness."""

import io
import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from conftest import Ask, make_student, make_teacher
from test_real_tokenizers import smollm2
from tiny_tokenizers import LLAMA3_PATTERN, byte_level_bpe, qwen
from transformers import PreTrainedTokenizerFast

from dbyte.__main__ import main
from dbyte.decode.conversation import Conversation, chunks_of, without_oldest
from dbyte.decode.generate import begin, generate
from dbyte.evaluate.lm import StudentLM
from dbyte.evaluate.score import Request, Scorer
from dbyte.model.student import ByteStudent
from dbyte.text.chat import FREE, ChatTemplate
from dbyte.text.spans import BOS, EOS, TokenBytes, is_special

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HEADERS = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}"
           "{% endif %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
           "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
TALK = [{"role": "user", "content": "Where does Zoë live? 😀\n"},
        {"role": "assistant", "content": " In 東京, (I think)."},
        {"role": "user", "content": "  And\tTom?"}]


@cache
def smollm():
    """BOS and EOS are the tokens around a turn."""
    backend = byte_level_bpe(pattern=LLAMA3_PATTERN)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                   chat_template=CHATML, name_or_path="tiny-smollm2")


@cache
def llama():
    """BOS opens the conversation, and three further tokens make up its turns."""
    backend = byte_level_bpe(pattern=LLAMA3_PATTERN, ignore_merges=True)
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                                "<|eot_id|>", "<|unused|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                                   chat_template=HEADERS, name_or_path="tiny-llama3")


@cache
def qwen_chat():
    """There is no BOS: documents open with another token than the template does."""
    tokenizer = deepcopy(qwen())
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHATML
    return tokenizer


KINDS = {"smollm": smollm, "llama": llama, "qwen": qwen_chat, "real smollm2": smollm2}


def template(tokenizer):
    return ChatTemplate.from_tokenizer(tokenizer, TokenBytes.from_tokenizer(tokenizer))


def as_bytes(aligned):
    return bytes(aligned.byte_ids.tolist())


@pytest.mark.filterwarnings("ignore:the tokenizer has no token for")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", [False, True])
def test_a_talk_of_two_turns_goes_to_bytes_and_tokens_and_back(kind, reply):
    tokenizer = KINDS[kind]()
    chat = template(tokenizer)
    rendered = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=reply)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    found = chat.encode(TALK, reply=reply)
    opened = ids[0] == chat.token_bytes.bos_token_id  # by the BOS that every document has
    assert found.token_ids.tolist() == ids[opened:]
    assert chat.decode(bytes([BOS] * opened) + as_bytes(found)) == rendered
    texts = [chat.token_bytes.token_bytes[token] or None for token in found.token_ids.tolist()]
    ends = (found.boundary.nonzero()[:, 0] + 1).tolist()
    for text, first, end in zip(texts, [0, *ends], ends, strict=False):
        span = as_bytes(found)[first:end]
        assert span == text or (text is None and len(span) == 1 and bool(is_special(torch.tensor(span[0]))))


def test_reserved_bytes_are_those_that_utf8_never_uses():
    found = {byte for byte in range(256) if is_special(torch.tensor(byte))}
    used = {byte for code in (*range(0x800), *range(0x800, 0x110000, 64)) if not 0xD800 <= code < 0xE000
            for byte in chr(code).encode()}
    assert found == set(range(256)) - used == {BOS, EOS, *FREE}


@pytest.mark.parametrize("messages, message", [
    ([{"role": "user", "content": "so<|im_end|>"}], "holds '<|im_end|>', which the chat template writes"),
    ([{"role": "user<|im_start|>", "content": "so"}], "holds '<|im_start|>'"),
    ([{"role": "user"}], "a message is .*found {'role': 'user'}"), (["so"], "found 'so'"),
])
def test_a_message_that_is_none_is_refused(messages, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        template(smollm()).encode(messages)


def test_what_the_template_cannot_do_is_told():
    with pytest.raises(ValueError, match="refuses this conversation: no tools here"):
        template(llama()).encode([{"role": "tool", "content": "x"}])
    with pytest.raises(ValueError, match="has no chat template .*student of an instruct teacher"):
        template(qwen())
    crowded = deepcopy(smollm())
    names = [f"<|{number}|>" for number in range(len(FREE) + 1)]
    crowded.add_special_tokens({"additional_special_tokens": names})
    crowded.chat_template = CHATML + "".join(names)
    with pytest.raises(ValueError, match="has 12 special tokens next to BOS and EOS, and UTF-8 leaves 11 bytes free"):
        template(crowded)


# -- in the student ---------------------------------------------------------------------------------------------------


def student_of(tokenizer, **changes):
    return make_student(make_teacher(vocabulary=len(tokenizer)), tokenizer, **changes)


@pytest.mark.parametrize("changes", [{}, dict(router="split", router_width=16, router_layers=1)], ids=["own", "split"])
def test_a_chunk_ends_at_and_before_each_special_token_and_steps_read_it_as_the_forward_does(changes):
    student = student_of(llama(), **changes)
    prompt = as_bytes(template(llama()).encode(TALK, reply=True))
    ids_1L = torch.tensor([[BOS, *prompt]])
    with torch.inference_mode():
        out = student(ids_1L)
    special_L = is_special(ids_1L)[0]
    assert out.boundary[0][special_L].all() and out.boundary[0][:-1][special_L[1:]].all() and special_L.sum() == 12
    stream = begin(student, [prompt], max_new_bytes=4, sampling=None, stage=1, chat=True, kind=Reader).stream
    with torch.inference_mode():
        found_V = stream.token_head(stream.core_BE)[0]
    torch.testing.assert_close(found_V, out.token_logits[0, -1], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="is reserved"):
        generate(student, [prompt], stage=1)


class Reader:
    """Of a writer the stream that has read the prompts."""

    def __init__(self, stream, before, **options):
        self.stream = stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    student_of(smollm()).save_pretrained(folder)
    smollm().save_pretrained(folder)
    return folder


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TerminalOfBytes(io.TextIOWrapper):
    def isatty(self):
        return True


def test_the_command_remembers_what_was_said(folder, capfdbinary, monkeypatch):
    chat, student = template(smollm()), ByteStudent.from_pretrained(folder)
    history, answers = [], []
    for said in ("The cat 😀", "And then?"):
        history.append({"role": "user", "content": said})
        prompt = as_bytes(chat.encode(history, reply=True))
        answers += generate(student, [prompt], max_new_bytes=20, temperature=0.7, seed=2, chat=True)
        history.append({"role": "assistant", "content": answers[-1]})
    options = ["--chat", "--max-new-bytes", "20", "--temperature", "0.7", "--seed", "2"]
    monkeypatch.setattr("sys.stdin", Terminal("The cat 😀\nno <|im_end|> here\nAnd then?\n"))
    assert main(["generate", str(folder), *options]) == 0
    out, err = (each.decode() for each in capfdbinary.readouterr())
    assert out.replace("> ", "").strip("\n") == "\n".join(answers).strip("\n") and "holds '<|im_end|>'" in err
    assert main(["generate", str(folder), "The cat 😀", *options]) == 0
    assert capfdbinary.readouterr().out.decode() == answers[0] + "\n"


def talk_of(student, tokenizer=None, **options):
    told = []
    return Conversation(student, template(tokenizer or smollm()), tell=told.append, **options), told


def test_a_long_conversation_forgets_its_oldest_turns_and_says_so_once():
    student = student_of(llama())
    told_by_system = deepcopy(llama())
    told_by_system.chat_template = HEADERS.replace(
        "{% for m", "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>{% for m", 1)
    talk, told = talk_of(student, told_by_system, answer_bytes=30)
    system = {"role": "system", "content": "Answer in rhymes."}
    talk.messages.append(system)
    lengths = []
    for turn in range(12):
        prompt = talk.prompt(f"This is turn {turn}, and it is long.")
        assert prompt.count(b"Be brief.") == 1 and talk.messages[0] == system and prompt.count(b"rhymes") == 1
        assert f"turn {turn},".encode() in prompt and (turn == 0 or f"turn {turn - 1},".encode() in prompt)
        (answer,) = generate(student, [prompt], max_new_bytes=30, chat=True)  # nothing is cut: the answer had room
        assert chunks_of(student, prompt) + 30 <= 256
        talk.remember(f"This is turn {turn}, and it is long.", answer)
        lengths.append(len(talk.messages))
    assert b"turn 0," not in prompt and lengths[-1] < max(lengths) + 2 < 25 and len(told) == 1
    assert "256 positions" in told[0] and [each["role"] for each in talk.messages[1:3]] == ["user", "assistant"]
    longest = [*talk.messages, {"role": "user", "content": "x"}]
    assert talk.has_forgotten and without_oldest(longest[-1:]) == []


def test_chunks_are_those_that_a_stream_counts():
    student = student_of(llama())
    prompt = as_bytes(template(llama()).encode(TALK, reply=True))
    stream = begin(student, [prompt], max_new_bytes=4, sampling=None, stage=1, chat=True, kind=Reader).stream
    assert chunks_of(student, prompt) == stream.core_cache.length[0]


def test_an_answer_that_spells_a_special_token_is_forgotten():
    talk, _ = talk_of(student_of(smollm()), answer_bytes=9)
    with pytest.raises(ValueError, match="the answer spells a special token"):
        talk.remember("Why?", "Because<|im_end|>")
    assert talk.messages == [] and talk.prompt("Why?")


def test_odd_lines_do_not_end_a_conversation(folder, capfdbinary, monkeypatch):
    student = ByteStudent.from_pretrained(folder)
    too_long, odd = "long " * 400, "\u2028\x00\x1b[A\u200f e\u0301 \U0010ffff \ufffd"
    monkeypatch.setattr("sys.stdin", Terminal(f"\n   \n{too_long}\n\udce9t\u00e9\n{odd}\n"))  # then Ctrl-D
    assert main(["generate", str(folder), "--chat", "--max-new-bytes", "20"]) == 0
    out, err = (each.decode() for each in capfdbinary.readouterr())
    assert re.search(r"prompt 0 has 2\d\d\d bytes in at least \d+ chunks, .*256 positions.*shorten it", err)
    assert "is UTF-8, found the byte 0xE9 at offset 0" in err and err.count("dbyte: error") == 2
    prompt = as_bytes(template(smollm()).encode([{"role": "user", "content": odd}], reply=True))
    assert out.replace("> ", "").strip("\n") == generate(student, [prompt], max_new_bytes=20, chat=True)[0].strip("\n")
    monkeypatch.setattr("sys.stdin", TerminalOfBytes(io.BytesIO(b"\xff\n"), encoding="utf-8", errors="strict"))
    assert main(["generate", str(folder), "--chat"]) == 0
    assert "this line is no text: 'utf-8' codec can't decode byte 0xff" in capfdbinary.readouterr().err.decode()
    for given, told in ((too_long, "shorten it"), ("\udce9t", "found the byte 0xE9 at offset 0")):
        assert main(["generate", str(folder), given, "--chat"]) == 2
        assert told in capfdbinary.readouterr().err.decode()


def test_the_command_needs_a_tokenizer_with_a_template(folder, tmp_path, capfd):
    student_of(smollm()).save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), "x", "--chat"]) == 2
    assert "has no tokenizer (looked for tokenizer.json), and so no chat template" in capfd.readouterr().err


@pytest.mark.parametrize("boundaries", ["router", "tokenizer"])
def test_the_harness_scores_and_writes_answers_of_a_conversation(boundaries):
    student, chat = student_of(smollm()), template(smollm())
    lm = StudentLM(student, chat.token_bytes, stage=1, boundaries=boundaries, chat=chat, compiled=False)
    context = lm.apply_chat_template(TALK)
    aligned = chat.align(context.rstrip() + "\nTom")
    ends = tuple((aligned.boundary.nonzero()[:, 0] + 1).tolist()) if boundaries == "tokenizer" else None
    start = len(as_bytes(chat.align(context.rstrip())))
    ((nats, _),) = lm.loglikelihood([Ask(context, "Tom")])
    (score,) = Scorer(student, stage=1).score([Request(as_bytes(aligned), start, ends)])
    assert nats == pytest.approx(score.nats, rel=1e-5) and nats < 0
    (text,) = lm.generate_until([Ask(context, {"until": ["\n"], "max_gen_bytes": 12})])
    prompt = chat.align(context)
    given = [(prompt.boundary.nonzero()[:, 0] + 1).tolist()] if boundaries == "tokenizer" else None
    assert [text] == generate(student, [as_bytes(prompt)], max_new_bytes=12, stage=1, stop=["\n"], valid_utf8=False,
                              prompt_ends=given, chat=True)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_harness_option_puts_requests_under_the_template(stage, monkeypatch):
    import datasets
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    student, chat = student_of(smollm()), template(smollm())
    rows = [{"text": "Where is Tom?"}, {"text": "naïve 😀"}]
    common = {"test_split": "test", "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
              "doc_to_text": "{{text}}", "doc_to_target": "Tom"}
    asked = [common | {"task": "writes", "output_type": "generate_until",
                       "generation_kwargs": {"until": ["\n"], "max_gen_bytes": 9}},
             common | {"task": "scores", "output_type": "loglikelihood"}]
    lm = StudentLM(student, chat.token_bytes, stage=stage, chat=chat, compiled=False)
    found = evaluator.evaluate(lm, TaskManager(include_defaults=False).load(asked), bootstrap_iters=0,
                               log_samples=True, apply_chat_template=True)["samples"]
    rendered = [chat.render([{"role": "user", "content": row["text"]}], reply=True) for row in rows]
    prompts = [as_bytes(chat.align(text)) for text in rendered]
    wanted = generate(student, prompts, stage=stage, max_new_bytes=9, stop=["\n"], valid_utf8=False, chat=True)
    assert [sample["resps"][0][0] for sample in found["writes"]] == wanted
    for sample, text in zip(found["scores"], rendered, strict=True):
        ((context, continuation),) = sample["arguments"]
        assert context == text and continuation.strip() == "Tom"
        bare, joined = (as_bytes(chat.align(each)) for each in (text.rstrip(), text + continuation))
        (score,) = Scorer(student, stage=stage).score([Request(joined, len(bare))])
        assert sample["resps"][0][0][0] == pytest.approx(score.nats, rel=1e-5)
