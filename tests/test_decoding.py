"""The recurrent path is the parallel one, batched is alone, what is written is what was asked for; scores by hand."""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from conftest import VARIANTS, make_student
from oracle import Oracle
from safetensors import safe_open

from dbyte.decode.core_cache import CoreCache
from dbyte.decode.generate import begin, generate, generate_stream
from dbyte.decode.sampling import Sampling
from dbyte.decode.stream import ByteStream
from dbyte.decode.stream_file import save_stream
from dbyte.decode.writer import Writer
from dbyte.evaluate.bits import bits_per_byte, heldout_pieces, student_scores, teacher_nats
from dbyte.evaluate.score import Request, Scorer
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS, EOS
from dbyte_tasks.world.world import world_documents

TEXT = "Where does Mira live? 😀 caf\u00e9"
PROMPTS = [b"", b"x", b"The cat sat", TEXT.encode()]
JBP = {name: sizes for name, sizes in VARIANTS.items() if name != "mbp"}
MBP = {"mbp": VARIANTS["mbp"]} | {f"mbp, {name}": sizes | VARIANTS["mbp"] for name, sizes in JBP.items()
                                  if name not in ("paper", "prior")}
SOME = [(1, "paper"), (2, "paper"), (2, "authors"), (2, "window"), (2, "mbp, split")]
SAMPLED = dict(temperature=0.9, top_k=40, top_p=0.95, seed=5)


def student_of(variant, teacher, tokenizer):
    return make_student(teacher, tokenizer, **(JBP | MBP)[variant])


@pytest.fixture(params=[(1, "paper"), (2, "paper"), (2, "mbp")], ids=["tokens", "jbp", "mbp"])
def decoder(request, teacher, tokenizer):
    """(student, stage) of each of the three decoders."""
    stage, variant = request.param
    return student_of(variant, teacher, tokenizer), stage


def with_last(student, prompt):
    """ids [1, n] and boundaries of a prompt by the parallel forward, its last byte decided as in the stream."""
    ids, n = torch.tensor([[BOS, *prompt]]), len(prompt) + 1
    boundary = student(ids).boundary
    if n > 1:
        out = student(ids[:, : n - 1], boundary[:, :-1])
        if student.second_head is None:
            boundary[0, -1] = out.byte_logits[0, -1, ids[0, -1] + BYTES] >= out.byte_logits[0, -1, ids[0, -1]]
        else:
            boundary[0, -1] = looked_ahead(student, ids, best(out.second_logits[0, -1], BOS))
    return ids, boundary


def looked_ahead(student, ids, guess):
    """Whether the router ends a chunk at the last byte, were `guess` to follow."""
    return student(torch.cat([ids, torch.tensor([[guess]])], 1)).boundary[0, -2]


def best(logits, *refused):
    logits = logits.clone()
    logits[list(refused)] = float("-inf")
    return int(logits.argmax())


# -- the recurrent path is the parallel one ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", JBP | MBP)
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_steps_equal_the_parallel_forward_for_rows_with_their_own_boundaries(teacher, tokenizer, variant, stride):
    """Prompts cut at any byte: joint head or look-ahead decides the flag of a prompt's end; at Stage 1 a token ends."""
    student, text = student_of(variant, teacher, tokenizer), TEXT.encode()
    first = 1 + list(JBP | MBP).index(variant) % stride
    prompts = [text[:cut] for cut in (0, *range(first, len(text) + 1, stride))]
    B, ended = len(prompts), 0
    torch.manual_seed(stride)
    new, ends, guesses = torch.randint(0, 250, (B, 7)), torch.rand(B, 7) < 0.4, torch.randint(0, 250, (B, 7))
    stream, tokens = ByteStream(student, prompts, new_bytes=7), ByteStream(student, prompts, new_bytes=7, stage=1)
    token_logits = student.token_head(tokens.core_BE.clone())
    found, second = [stream.logits_BX], [stream.second_logits_BK]
    for i in range(7):
        if stream.look_ahead is None:
            stream.step(new[:, i], ends[:, i])
        else:
            stream.step(new[:, i], guess_B=guesses[:, i])
            ends[:, i] = stream.ended_B
        found.append(stream.logits_BX)
        second.append(stream.second_logits_BK)
    for row, prompt in enumerate(prompts):
        ids, boundary = with_last(student, prompt)
        n = ids.shape[1]
        ended += int(boundary[0, -1])
        token_end = torch.cat([boundary[:, :-1], torch.tensor([[True]])], 1)
        torch.testing.assert_close(token_logits[row], student(ids, token_end).token_logits[0, -1], rtol=1e-4, atol=1e-4)
        ids = torch.cat([ids, new[row : row + 1]], 1)
        if stream.look_ahead is not None:
            assert ends[row].tolist() == [bool(looked_ahead(student, ids[:, : n + i + 1], int(guesses[row, i])))
                                          for i in range(7)]
        whole = student(ids, torch.cat([boundary, ends[row : row + 1]], 1))
        torch.testing.assert_close(torch.stack(found)[:, row], whole.byte_logits[0, n - 1 :], rtol=1e-4, atol=1e-4)
        if stream.look_ahead is not None:
            torch.testing.assert_close(torch.stack(second)[:, row], whole.second_logits[0, n - 1 :], rtol=1e-4,
                                       atol=1e-4)
    assert 1 < ended < B, "prompts must end inside chunks and at their ends"


# -- batched is alone, and both are the plain loop --------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "mbp", "mbp, split"])
def test_bytes_and_boundaries_are_those_of_a_loop_over_the_parallel_forward(teacher, tokenizer, variant):
    student, every = student_of(variant, teacher, tokenizer), []
    for prompt in PROMPTS[:3]:
        ids, boundary = with_last(student, prompt)
        written, ended = [], []
        for _ in range(12):
            out = student(ids, boundary)
            symbol = best(out.byte_logits[0, -1], BOS, *([BOS + BYTES] if student.second_head is None else []))
            if symbol % BYTES == EOS:
                break
            written.append(symbol % BYTES)
            ids = torch.cat([ids, torch.tensor([[symbol % BYTES]])], 1)
            ends = (symbol >= BYTES if student.second_head is None else
                    bool(looked_ahead(student, ids, best(out.second_logits[0, -1], BOS))))
            boundary = torch.cat([boundary, torch.tensor([[ends]])], 1)
            ended.append(ends)
        writer = begin(student, [prompt], max_new_bytes=12, sampling=Sampling(), valid_utf8=False).run()
        assert bytes(writer.written[0]) == bytes(written) and writer.ended[0] == ended[: len(writer.ended[0])]
        assert len(written) - 1 <= len(writer.ended[0])
        every += ended
    assert 0 < sum(every) < len(every)


def test_tokens_are_those_of_a_loop_over_the_parallel_forward(student):
    for prompt in (b"", b"The cat"):
        ids, boundary = with_last(student, prompt)
        boundary[0, -1] = True
        written = b""
        while len(written) < 30:
            text = student.token_texts()[student(ids, boundary).token_logits[0, int(boundary.sum()) - 1].argmax()]
            if not text:
                break
            written += text
            ids = torch.cat([ids, torch.tensor([list(text)])], 1)
            boundary = torch.cat([boundary, torch.tensor([[False] * (len(text) - 1) + [True]])], 1)
        assert generate(student, [prompt], max_new_bytes=30, stage=1, as_bytes=True) == [written[:30]]


# -- text -------------------------------------------------------------------------------------------------------------


def test_text_is_utf8_and_a_lower_limit_gives_its_beginning(decoder):
    student, stage = decoder
    longest = None
    for limit in (40, *range(1, 14, 2)):
        writer = begin(student, PROMPTS, max_new_bytes=limit, sampling=Sampling(2.0), stage=stage)
        texts = [bytes(text).decode() for text in writer.run().written]  # strict
        longest = longest or texts
        for text, long in zip(texts, longest, strict=True):  # no more is lost than a character that the limit cuts
            assert len(text.encode()) >= min(limit - 3, len(long.encode())) and long.startswith(text)
    assert any(not text.isascii() for text in longest)


def test_raw_bytes_are_not_held_to_utf8(decoder):
    student, stage = decoder
    raw = generate(student, PROMPTS, max_new_bytes=60, temperature=2.0, stage=stage, as_bytes=True)
    assert any(text.decode(errors="ignore").encode() != text for text in raw)
    text = generate(student, PROMPTS, max_new_bytes=60, temperature=2.0, stage=stage, valid_utf8=False)
    assert text == [one.decode(errors="replace") for one in raw]
    pieces = (generate_stream(student, prompt, max_new_bytes=60, temperature=2.0, stage=stage, valid_utf8=False)
              for prompt in PROMPTS[2:])
    assert ["".join(one) for one in pieces] == text[2:]
    held = generate(student, PROMPTS, max_new_bytes=60, temperature=2.0, stage=stage, as_bytes=True, valid_utf8=True)
    assert [one.decode() for one in held] == generate(student, PROMPTS, max_new_bytes=60, temperature=2.0, stage=stage)


def test_a_character_that_the_prompt_broke_off_is_completed_and_comes_back_whole(decoder):
    student, stage = decoder
    prompt = "caf\u00e9 😀".encode()
    for cut in (1, 2, 3):
        broken = prompt[-4:][: 4 - cut]
        for limit in (1, 2, 3, 5):
            options = dict(max_new_bytes=limit, temperature=2.0, stage=stage)
            (text,) = generate(student, [prompt[:-cut]], **options)
            (raw,) = generate(student, [prompt[:-cut]], as_bytes=True, valid_utf8=True, **options)
            assert text.encode() == (broken + raw if raw else b"") and bool(raw) == (limit >= cut)
            assert "".join(generate_stream(student, prompt[:-cut], **options)) == text


def test_pieces_are_whole_and_join_to_what_generate_returns(decoder):
    student, stage = decoder
    options = dict(max_new_bytes=30, stage=stage, temperature=1.5)
    for prompt in PROMPTS[2:]:
        (whole,) = generate(student, [prompt], **options)
        stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
        for stops in ([stop], [whole[-1:] + "never", "zz"]):
            (text,) = generate(student, [prompt], stop=stops, **options)
            assert text == (whole[: whole.index(stop)] if stops == [stop] else whole)
            pieces = list(generate_stream(student, prompt, stop=stops, **options))
            assert "".join(pieces) == text and all(pieces)
            raw = generate_stream(student, prompt, as_bytes=True, valid_utf8=True, stop=stops, **options)
            assert b"".join(raw) == text.encode()


def test_eos_ends_a_text_and_is_no_part_of_it(decoder):
    student, stage = decoder
    options = dict(max_new_bytes=150, temperature=3.0, stage=stage, as_bytes=True)
    texts = generate(student, [b"x"] * 24, **options)
    lengths = [len(text) for text in texts]
    assert min(lengths) < 150 and max(lengths) == 150, "nothing else ends a text here"
    assert not any(EOS in text or BOS in text for text in texts)
    alone = generate(student, [b"x"], **options)
    assert b"".join(generate_stream(student, b"x", **options)) == alone[0] == texts[0]


# -- state ------------------------------------------------------------------------------------------------------------


def test_the_core_runs_for_rows_that_closed_a_chunk_and_finished_rows_cost_nothing(decoder, monkeypatch):
    student, stage = decoder
    writer = begin(student, PROMPTS, max_new_bytes=40, sampling=Sampling(1.0, seed=3), stage=stage,
                   stop=list("et") if stage == 1 else list("eta 3n"), valid_utf8=False)
    stepped, core = [], []
    encoder_step = writer.stream.encoder
    core_step = CoreCache.step

    def counted(hidden, states, *, commit=True):
        stepped.append(len(hidden) * commit)
        return encoder_step(hidden, states, commit=commit)

    writer.stream.encoder = counted
    monkeypatch.setattr(CoreCache, "step", lambda self, inputs, rows: core.append(len(rows)) or core_step(
        self, inputs, rows))
    writer.run()
    lengths = [len(text) for text in writer.written]
    assert len(set(lengths)) > 2, "rows must finish at different times"
    # each row takes in the bytes before its last symbol and no more (tokens: before its last token)
    assert sum(stepped) <= sum(lengths) and max(stepped) == 4 and stepped[-1] < 4
    assert sum(core) == writer.core_rows and max(core) <= 4
    if stage == 2:
        assert sum(core) < sum(stepped)


@pytest.mark.parametrize("stage, variant", SOME)
def test_a_saved_writer_resumes_as_if_it_had_never_stopped(teacher, tokenizer, stage, variant, tmp_path):
    student = student_of(variant, teacher, tokenizer)
    options = dict(sampling=Sampling(0.8, seed=4), limit=30, valid_utf8=False, repeats=range(len(PROMPTS)))
    whole = Writer(ByteStream(student, PROMPTS, new_bytes=30, stage=stage), PROMPTS, **options).run().written
    inside = 0
    for saved_after in (3, 4, 100):  # inside tokens too, and when all is written
        writer = Writer(ByteStream(student, PROMPTS, new_bytes=30, stage=stage), PROMPTS, **options)
        for _ in range(saved_after):
            writer.advance()
        inside += stage == 1 and any(writer.queues)
        writer.save(tmp_path / "stream")
        again = Writer.load(student, tmp_path / "stream")
        del writer
        assert again.run().written == whole
    assert stage == 2 or inside, "some tokens must be saved half-fed"
    for damaged in ((tmp_path / "stream").read_bytes()[:-9], b"", b"text"):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            Writer.load(student, tmp_path / "damaged")
    save_stream(again.stream, tmp_path / "no writer", notes={"before": []})
    with pytest.raises(ValueError, match="no writer, it lacks written, .*Writer.save"):
        Writer.load(student, tmp_path / "no writer")
    other = make_student(teacher, tokenizer, byte_width=24)
    with pytest.raises(ValueError, match="another student"):
        Writer.load(other, tmp_path / "stream")
    with pytest.raises(FileNotFoundError):
        Writer.load(student, tmp_path / "none")


def test_a_stream_is_refused_to_every_student_but_the_one_that_wrote_it(teacher, tokenizer, tmp_path):
    """Steps 1.2 and 1.3 leave byte embedding and head alone, so these do not tell their students apart."""
    student = make_student(teacher, tokenizer)
    path = tmp_path / "stream"
    Writer(ByteStream(student, PROMPTS, new_bytes=9), PROMPTS, sampling=Sampling(0.0), limit=9).save(path)
    student.save_pretrained(tmp_path / "student")
    Writer.load(ByteStudent.from_pretrained(tmp_path / "student"), path)
    for part in ("encoder", "router", "core", "decoder", "token_head", "null_E"):
        other = make_student(teacher, tokenizer)
        trained = next(weight for name, weight in other.named_parameters() if name.startswith(part))
        with torch.no_grad():
            trained.mul_(1.01)
        with pytest.raises(ValueError, match="another student"):
            Writer.load(other, path)
    with pytest.raises(ValueError, match="another student"):  # the same weights, put together in another way
        Writer.load(make_student(teacher, tokenizer, smoothing=True), path)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    facts["student"] = facts.pop("weights")
    path.write_bytes(safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))
    with pytest.raises(ValueError, match="earlier version, .* read the prompt again"):
        Writer.load(student, path)


def test_rows_that_leave_in_any_order_leave_the_others_alone(student):
    prompts = [TEXT[:n].encode() for n in (3, 9, 14, 5, 11)]
    stream = ByteStream(student, prompts, new_bytes=5)
    order = [3, 1, 4]
    stream.take(order)
    new, ends = torch.tensor([65, 66, 67]), torch.tensor([True, False, True])
    stream.step(new, ends)
    for place, row in enumerate(order):
        alone = ByteStream(student, [prompts[row]], new_bytes=5)
        alone.step(new[place : place + 1], ends[place : place + 1])
        torch.testing.assert_close(stream.logits_BX[place], alone.logits_BX[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage, variant", [(1, "paper"), (2, "paper"), (2, "window"), (2, "mbp")])
def test_half_precision_steps_follow_the_half_precision_forward(teacher, tokenizer, stage, variant):
    student = student_of(variant, teacher, tokenizer).to(torch.bfloat16)
    assert generate(student, PROMPTS, max_new_bytes=8, stage=stage)
    if stage == 2 and variant == "paper":
        stream = ByteStream(student, PROMPTS, new_bytes=8)
        ids, boundary = with_last(student, PROMPTS[2])
        torch.testing.assert_close(stream.logits_BX[2], student(ids, boundary).byte_logits[0, -1], rtol=0.1, atol=0.3)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong, told", [
    (dict(prompts="text"), "a list of prompts"), (dict(prompts=[b"a\xfe"]), "0xFE at offset 1"),
    (dict(prompts=[b"\xff"]), "0xFF"), (dict(prompts=[b"\xe9tude"]), "expected UTF-8"),
    (dict(max_new_bytes=0), "max_new_bytes must"), (dict(max_new_bytes=-5), "max_new_bytes must"),
    (dict(temperature=-1.0), "temperature must"), (dict(top_k=0), "top_k must"), (dict(top_p=0.0), "top_p must"),
    (dict(top_p=1.5), "top_p must"), (dict(stage=3), "stage must"), (dict(stop="text"), "stop must"),
    (dict(stop=[""]), "stop must"), (dict(prompts=["ab " * 300]), "shorten it"),
])
@pytest.mark.parametrize("streamed", [False, True])
def test_wrong_requests_are_refused_with_what_was_found(student, wrong, told, streamed):
    if streamed and told == "a list of prompts":
        return
    options = dict(prompts=["a"]) | wrong
    with pytest.raises(ValueError, match=told):
        if streamed:
            (prompt,) = options.pop("prompts")
            generate_stream(student, prompt, **options)
        else:
            generate(student, options.pop("prompts"), **options)


def test_a_text_that_outgrows_the_core_ends_there_with_a_warning(student):
    with pytest.warns(UserWarning, match="room for no more"):
        texts = generate(student, ["ab " * 50] * 3, max_new_bytes=1500, as_bytes=True, temperature=1.0)
    assert 0 < min(map(len, texts)) < 1500


def test_no_prompts_give_no_texts_and_training_mode_stays(student):
    assert generate(student, []) == []
    student.train()
    assert generate(student, [""], max_new_bytes=4, as_bytes=True)[0] is not None and student.training


# -- scores -----------------------------------------------------------------------------------------------------------


def test_stage_1_scores_with_an_oracle_encoder_are_the_teachers(any_teacher, tokenizer, token_bytes, monkeypatch):
    student = make_student(any_teacher, tokenizer)
    pieces = heldout_pieces(["The cat lives in the house of Mira.", "naïve 😀 1 + 2"], token_bytes, row_bytes=200)
    Oracle(student, any_teacher, token_bytes, monkeypatch)
    found = student_scores(Scorer(student, stage=1), pieces, boundaries="tokenizer")
    assert [-score.nats for score in found] == pytest.approx(teacher_nats(any_teacher, pieces), rel=1e-5)


def test_teacher_nats_are_the_models_own(any_teacher, token_bytes):
    pieces = heldout_pieces(["The cat lives in the house.", "x"], token_bytes, row_bytes=200)
    for piece, nats in zip(pieces, teacher_nats(any_teacher, pieces), strict=True):
        ids = torch.tensor(piece.token_ids[None, :-1].astype("int64"))  # without EOS
        loss = any_teacher(ids, labels=ids).loss
        assert nats == pytest.approx(loss.item() * (ids.shape[1] - 1), rel=1e-5)


def test_router_cuts_at_stage_1_become_tokens_that_spell_the_text(student):
    vocabulary = student.token_pieces
    for chunk in (b"The", b"Mira lives", "😀".encode()[:3], b"zq\x00"):
        pieces = vocabulary.split(chunk)
        assert b"".join(pieces) == chunk and all(piece in vocabulary.id_of for piece in pieces)


def test_a_chunk_of_several_tokens_is_split_as_the_tokenizer_splits_it(student, token_bytes):
    vocabulary = student.token_pieces
    words = {word.rstrip() for word in " ".join(world_documents(seed=3, max_bytes=4000)).split()}
    several = 0
    for word in sorted(words):
        aligned = token_bytes.align(word)
        tokens = [token_bytes.token_bytes[token] for token in aligned.token_ids.tolist()]
        several += len(tokens) > 1
        assert vocabulary.split(word.encode()) == tokens
    assert several > 10


def test_log_probabilities_of_tokens_add_up_to_the_score(student, token_bytes):
    scorer = Scorer(student, stage=1)
    texts = {"Mira lives in the house": 4, "The cat": 0}
    given = [Request(text.encode(), start, tuple((token_bytes.align(text).boundary.nonzero()[:, 0] + 1).tolist()))
             for text, start in texts.items()]
    for requests in (given, [replace(request, token_ends=None) for request in given]):
        for request, score, (ends, nats) in zip(requests, scorer.score(requests), scorer.token_nats(requests),
                                                strict=True):
            assert sum(nats) == pytest.approx(score.nats, rel=1e-6)
            assert ends == sorted(ends) and ends[-1] == len(request.text)
            assert len(nats) == sum(end > request.start for end in ends)


def test_bits_per_byte_by_hand(token_bytes):
    pieces = heldout_pieces(["abcd", "ab"], token_bytes, row_bytes=50)
    assert bits_per_byte([8 * math.log(2), 4 * math.log(2)], pieces)["value"] == pytest.approx(2.0)
    assert bits_per_byte([8 * math.log(2), 4 * math.log(2)], pieces)["stderr"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="held-out"):
        heldout_pieces([], token_bytes, row_bytes=50)
    with pytest.raises(ValueError, match="nothing to score"):
        Request(b"ab", 2)


def test_a_prompt_is_read_along_given_boundaries(student):
    prompts, ends = [b"The cat", b"", b"a b"], [[3, 7], [], [1, 3]]
    found = generate(student, prompts, max_new_bytes=12, stage=1, as_bytes=True, prompt_ends=ends)
    for prompt, places, text in zip(prompts, ends, found, strict=True):
        boundary = torch.zeros(1, len(prompt) + 1, dtype=torch.bool)
        boundary[0, [0, *places]] = True
        logits = student(torch.tensor([[BOS, *prompt]]), boundary).token_logits
        assert text.startswith(student.token_texts()[logits[0, len(places)].argmax()][:12])
