"""What the adapters score: any batch and order, contexts that are too long, the beam over flags, folders, lm_eval."""

import itertools
import json
import math
import subprocess
import sys
import unicodedata
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import Ask, make_student, make_teacher
from lm_eval import evaluator
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager

import dbyte
from dbyte.__main__ import main
from dbyte.distill.teacher import train_tokenizer
from dbyte.evaluate import score_beam
from dbyte.evaluate.lm import StudentLM, generation_options, load_lm, truncate
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_beam import beam_scores
from dbyte.text.spans import BOS

ROOT = Path(__file__).resolve().parents[1]
READINGS = [(1, "tokenizer"), (1, "router"), (2, "router"), (2, "own")]
PAIRS = [("The cat sat on", " the mat"), ("naïve café 😀", " 中文"), ("", "x"), ("1 + 2 =", " 3."),
         ("The", " dog slept " * 6), ("Where does Mira live? " * 4, "Mira lives in Oslo."), ("a b c", " d"),
         ("e", "\u0301 tail")]


@pytest.mark.parametrize("stage, boundaries", READINGS)
def test_scores_and_texts_depend_neither_on_batches_nor_on_order(student, token_bytes, stage, boundaries):
    asks = [Ask(*pair) for pair in PAIRS]
    prompts = [Ask(context, {"until": ["\n", "e"], "max_gen_bytes": 12 + 4 * (i % 2)})
               for i, (context, _) in enumerate(PAIRS)]
    order = torch.randperm(len(asks), generator=torch.Generator().manual_seed(0)).tolist()
    seen = []
    for batch_bytes, rows in ((1, 1), (100, 3), (10_000, 64)):
        lm = StudentLM(student, token_bytes, stage=stage, boundaries=boundaries, rows=rows, batch_bytes=batch_bytes)
        for places in (range(len(asks)), order):
            scores = dict(zip(places, lm.loglikelihood([asks[i] for i in places]), strict=True))
            rolling = dict(zip(places, lm.loglikelihood_rolling([Ask("".join(PAIRS[i])) for i in places]), strict=True))
            texts = dict(zip(places, lm.generate_until([prompts[i] for i in places]), strict=True))
            seen.append([(*scores[i], rolling[i], texts[i]) for i in range(len(asks))])
    for found in seen[1:]:
        for (nats, greedy, rolled, text), (nats_0, greedy_0, rolled_0, text_0) in zip(found, seen[0], strict=True):
            assert (nats, rolled) == pytest.approx((nats_0, rolled_0), abs=1e-4)
            assert (greedy, text) == (greedy_0, text_0) and "e" not in text


def test_trailing_spaces_move_to_the_continuation_and_joins_that_merge_tokens_are_scored(student, token_bytes):
    """The scored tokens are those of the text after those of the context, as in the harness's Hugging Face adapter."""
    lm = StudentLM(student, token_bytes, stage=1, boundaries="tokenizer")
    moved, plain = lm.loglikelihood([Ask("The cat ", "sat"), Ask("The cat", " sat")])
    assert moved == pytest.approx(plain, abs=1e-5)
    pairs = [("o", "w"), ("a", "b"), ("", "x"), ("The ca", "t"), ("#", "#")]
    assert all(nats < 0 for nats, _ in lm.loglikelihood([Ask(*pair) for pair in pairs]))
    (request,) = lm._requests([PAIRS[0]])
    whole, before = (token_bytes.align(text).token_ids for text in ("".join(PAIRS[0]), PAIRS[0][0]))
    assert request.text[request.start:] == token_bytes.decode(whole[len(before):])


def test_a_character_that_context_and_continuation_make_together_is_scored_whole(student, token_bytes, monkeypatch):
    """Under NFC "e" + accent is one character of two bytes: the continuation starts before it, not inside."""
    monkeypatch.setattr(type(token_bytes), "normalise", lambda self, text: unicodedata.normalize("NFC", text))
    lm = StudentLM(student, token_bytes, stage=2)
    request = lm._requests([("cafe", "\u0301 ole")])[0]
    assert request.text[request.start:].decode() == "é ole"


@pytest.mark.parametrize("options, pair, said", [
    (dict(stage=2), ("The cat ", ""), "continuation of .* is empty"), (dict(stage=2), ("", ""), "continuation of"),
    (dict(stage=1, boundaries="tokenizer"), ("a", " 😀" * 200), "more chunks than the core has positions"),
    (dict(stage=1, beam=2), ("a", "b"), "beam over flags"), (dict(stage=2, beam=-1), ("a", "b"), "beam over flags"),
    (dict(stage=3), ("a", "b"), "expected stage 1"), (dict(stage=1, boundaries="own"), ("a", "b"), "expected .* 'own'"),
    (dict(stage=2, boundaries="tokenizer"), ("a", "b"), "expected stage 1"),
])
def test_what_cannot_be_scored_is_refused(student, token_bytes, options, pair, said):
    with pytest.raises(ValueError, match=said):
        StudentLM(student, token_bytes, **options).loglikelihood([Ask(*pair)])


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, boundaries", READINGS)
def test_a_long_context_is_truncated_from_the_left_and_counted(student, token_bytes, stage, boundaries):
    """256 positions: the score is that of the longest end of the context that fits, begun at a whole character."""
    lm = StudentLM(student, token_bytes, stage=stage, boundaries=boundaries)
    context, continuation = "Zürich 😀 naïve. " * 60, " the end"
    found = lm.loglikelihood([Ask(context, continuation), Ask("short", " one")])
    whole, other = lm._requests([(context, continuation), ("short", " one")])
    kept = truncate(lm.scorer, whole)
    kept.text.decode()  # no character was split
    assert whole.text.endswith(kept.text) and kept.text[kept.start:] == whole.text[whole.start:]
    assert 200 < len(lm.scorer.chunk_ends(kept)) <= 255
    assert [nats for nats, _ in found] == pytest.approx([s.nats for s in lm.scorer.score([kept, other])], abs=1e-4)
    lost = len(whole.text) - len(kept.text)
    assert (lm.truncated.texts, lm.truncated.cut_texts, lm.truncated.cut_bytes) == (2, 1, lost) and lost > 0
    assert f"1 of 2 texts had more chunks than the core has positions: {lost} bytes" in str(lm.truncated)


@pytest.mark.parametrize("size", range(12, 20))
def test_a_truncated_context_leaves_room_for_the_chunks_that_a_beam_adds(student, token_bytes, monkeypatch, size):
    lm = StudentLM(student, token_bytes, stage=2, beam=8)
    with monkeypatch.context() as few:
        few.setattr(student.core.config, "max_position_embeddings", size)
        ((nats, _),) = lm.loglikelihood([Ask("Zürich naïve. " * 6, " end")])
        (whole,) = lm._requests([("Zürich naïve. " * 6, " end")])
        kept = truncate(lm.scorer, whole, room=score_beam.ROUNDS)
    assert len(kept.text) < len(whole.text)
    assert nats == pytest.approx(beam_scores(lm.scorer, [kept], width=8)[0], abs=1e-4)


def test_a_long_prompt_leaves_room_for_the_answer(student, token_bytes):
    lm = StudentLM(student, token_bytes, stage=1, boundaries="tokenizer")
    options = {"until": [], "max_gen_toks": 10}
    text, plain = lm.generate_until([Ask("Zürich 😀 naïve. " * 60, options), Ask("The", options)])
    assert text and lm.truncated.cut_texts == 1 and lm.truncated.texts == 2
    assert plain == lm.generate_until([Ask("The", options)])[0]


@pytest.mark.parametrize("stage, boundaries, beam", [(1, "tokenizer", 0), (1, "router", 0), (2, "router", 0),
                                                     (2, "router", 2)])
def test_a_rolling_text_is_scored_in_pieces_of_as_many_chunks_as_fit(student, token_bytes, stage, boundaries, beam):
    """256 positions: more bytes than that in fewer chunks are one piece, and scored as one text."""
    lm = StudentLM(student, token_bytes, stage=stage, boundaries=boundaries, beam=beam)
    limit = 255 - (score_beam.ROUNDS if beam else 0)
    words = "The cat sat on the mat, and the dog slept in the house. naïve 😀 "

    def chunks_of(text):
        ((raw, ends),) = lm._encoded([text])
        return len(lm.scorer.chunk_ends(Request(raw, 0, ends)))

    times = next(n for n in itertools.count(1) if chunks_of(words * (n + 1)) > limit)
    assert len((words * times).encode()) > 255
    found, = lm.loglikelihood_rolling([Ask(words * times)])
    assert found == pytest.approx(lm.loglikelihood([Ask("", words * times)])[0][0], abs=1e-4)
    pieces = lm._pieces(words * 120)  # more bytes than are read at a time
    counts = [len(lm.scorer.chunk_ends(piece)) for piece in pieces]
    assert b"".join(piece.text for piece in pieces).decode() == words * 120
    assert all(piece.text.decode() for piece in pieces), "no character is split"
    assert len(pieces) > 3 and max(counts) <= limit and min(counts[:-1]) > limit - 4
    total, = lm.loglikelihood_rolling([Ask(words * 120)])
    if not beam:
        assert total == pytest.approx(sum(lm.scorer.score([piece])[0].nats for piece in pieces), rel=1e-5)


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture
def writes(student, token_bytes):
    """What a Stage-2 student writes after a prompt with generation arguments, 24 bytes unless told otherwise."""
    lm = StudentLM(student, token_bytes, stage=2)

    def write(prompt="The cat", /, **options):
        return lm.generate_until([Ask(prompt, {"until": [], "max_gen_bytes": 24} | options)])[0]

    return write


@pytest.mark.parametrize("word", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_all_four_words_for_the_limit_mean_tokens(writes, word):
    texts = [writes(**{"max_gen_bytes": None, word: value}) for value in (2, "2")]
    assert texts == [writes(max_gen_bytes=8)] * 2 != [writes()] * 2
    assert generation_options({word: 2})["max_new_bytes"] == 8
    assert generation_options({"max_gen_toks": 2, word: 2, "max_tokens": None})["max_new_bytes"] == 8


def test_sampling_arguments_and_the_seed_of_the_harness_reach_the_draws(writes, student):
    def written(**options):
        return dbyte.generate(student, ["The cat"], stage=2, max_new_bytes=24, valid_utf8=False, **options)[0]

    torch.manual_seed(1234)  # as lm_eval --seed does
    assert writes(temperature=1.0) == written(temperature=1.0, seed=1234) != writes()
    assert writes(do_sample=True) == writes(temperature="1.0") == writes(temperature=1, seed=1234, num_beams=1)
    torch.manual_seed(5)
    assert writes(temperature=1.0) == written(temperature=1.0, seed=5) != written(temperature=1.0, seed=1234)
    options = dict(temperature=1.5, top_k=60, top_p=0.5, seed=7)
    assert writes(do_sample=True, **options) == written(**options)
    assert len({written(**options), written(**options | {"top_k": None}), written(**options | {"top_p": 1.0})}) == 3
    assert writes(do_sample=True, top_k=1) == writes(do_sample=False, temperature=0.8) == writes() == written()


@pytest.mark.parametrize("options", [{"until": None}, {"until": [""]}, {"until": ""}, {"seed": None, "top_p": None}])
def test_what_says_nothing_changes_nothing(writes, options):
    assert writes(**options) == writes()


@pytest.mark.parametrize("options, said", [
    ({"stop": ["x"]}, "do not know: stop=.*they know until"), ({"num_beams": 10}, "num_beams=10"),
    ({"repetition_penalty": 1.2, "typical_p": 0.5}, "repetition_penalty=1.2, typical_p=0.5"),
    ({"do_sample": "no"}, "do_sample='no'"), ({"until": 5}, "until must be .* found .5."),
    ({"max_gen_toks": "many"}, "cannot be used: .*max_gen_toks='many'"), ({"temperature": "hot"}, "temperature='hot'"),
    ({"max_gen_bytes": 0}, "at least 1"), ({"temperature": 1.0, "top_p": 2}, "top_p must"),
    ({"temperature": -1}, "temperature must"), ({"top_k": 0, "temperature": 1}, "top_k must"),
])
def test_generation_arguments_that_cannot_be_used_are_named(writes, options, said):
    with pytest.raises(ValueError, match=said):
        writes(**options)


@pytest.mark.parametrize("stage, boundaries", [(1, "tokenizer"), (2, "router")])
def test_repeats_are_drawn_apart_whatever_the_batch_and_the_neighbours(student, token_bytes, stage, boundaries):
    options = {"until": [], "max_gen_bytes": 12, "temperature": 1.0, "seed": 3}
    eight = [Ask("The cat", options)] * 8
    others = [Ask(text, options) for text in ("x", "The dog", "1 + 2 =")]
    seen = []
    for rows, asks in ((1, eight), (3, eight), (64, others[:2] + eight + others), (4, eight[:5] + others + eight[5:]),
                       (2, [Ask("The cat", options | {"seed": 4}), *eight])):
        lm = StudentLM(student, token_bytes, stage=stage, boundaries=boundaries, rows=rows)
        seen.append([text for text, ask in zip(lm.generate_until(asks), asks, strict=True) if ask is eight[0]])
    assert all(texts == seen[0] for texts in seen) and len(set(seen[0])) == 8


# -- the beam over flags ----------------------------------------------------------------------------------------------


def probability(student, request, context_flags):
    """log p(continuation | context as the router chunked it), summed over all flags by the plain forward."""
    first, last = max(request.start - 1, 0), len(request.text) - 1
    total = []
    for flags in itertools.product([False, True], repeat=last - first):
        boundary = torch.tensor([[True, *context_flags[:first], *flags, True]])
        log = student(torch.tensor([[BOS, *request.text]]), boundary).byte_logits[0].log_softmax(-1).double()
        nats = 0.0
        for i in range(first, last + 1):
            byte = request.text[i]
            both = log[i, [byte, byte + 256]]
            if i == last:
                nats += both.logsumexp(0).item()
            else:
                nats += both[int(flags[i - first])].item()
                nats -= both.logsumexp(0).item() if i < request.start else 0.0
        total.append(nats)
    return torch.tensor(total).logsumexp(0).item()


@pytest.mark.parametrize("variant", [{}, dict(smoothing=True)])
@pytest.mark.parametrize("request_", [Request(b"The cat", 3), Request("né".encode() + b"!ab", 1), Request(b"abcde", 0),
                                      Request(b"xyz", 2)])
@torch.no_grad()
def test_the_beam_lies_between_the_joint_score_and_the_probability(teacher, tokenizer, variant, request_, monkeypatch):
    scorer = Scorer(make_student(teacher, tokenizer, **variant), stage=2)
    flags = scorer.read([request_]).flags()[0, 1:].tolist()
    exact = probability(scorer.student, request_, flags)
    joint = scorer.score([request_])[0].nats
    bounds = []
    for width, rounds in ((1, 1), (2, 1), (4, 2), (64, 6)):
        monkeypatch.setattr(score_beam, "ROUNDS", rounds)
        bounds += beam_scores(scorer, [request_], width=width)
    assert joint < bounds[0] and bounds == sorted(bounds) and bounds[-1] <= exact + 1e-5
    assert bounds[-1] == pytest.approx(exact, abs=1e-4), "all paths were found"


def test_a_beam_tightens_the_scores_of_the_adapter(student, token_bytes):
    asks = [Ask(*pair) for pair in PAIRS]
    joint = StudentLM(student, token_bytes, stage=2).loglikelihood(asks)
    beam = StudentLM(student, token_bytes, stage=2, beam=3).loglikelihood(asks)
    assert all(b[0] > j[0] and b[1] == j[1] for b, j in zip(beam, joint, strict=True))
    rolled, wider = (StudentLM(student, token_bytes, stage=2, beam=w).loglikelihood_rolling([Ask("The cat sat.")])[0]
                     for w in (0, 3))
    assert wider > rolled


# -- folders, the command and the harness's own command line ----------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A teacher and a student of each stage, as training leaves them."""
    root = tmp_path_factory.mktemp("models")
    teacher = make_teacher()
    teacher.save_pretrained(root / "teacher")
    for name, stage, changes in (("stage1", 1, {}), ("stage2", 2, {}), ("mbp", 2, {"decoding": "mbp"})):
        student = make_student(teacher, tokenizer, **changes)
        student.config.stage = stage
        student.save_pretrained(root / name)
    for folder in root.iterdir():
        tokenizer.save_pretrained(folder)
    student.save_pretrained(root / "alone")
    return root


@pytest.mark.parametrize("name, arguments, error, said", [
    ("stage1", {"stage": 2}, ValueError, "Stage 1, asked for Stage 2"),
    ("stage2", {"stage": 1}, ValueError, "Stage 2, asked for Stage 1"),
    ("stage2", {"boundaries": "tokenizer"}, ValueError, "expected stage 1"),
    ("teacher", {}, ValueError, "holds a llama model, not a byte-level student"),
    ("nowhere", {}, FileNotFoundError, "looked for config.json"), ("alone", {}, FileNotFoundError, "tokenizer.json"),
    ("mbp", {"boundaries": "router"}, ValueError, "decoding='jbp'"),
])
def test_a_folder_that_does_not_fit_is_refused(folders, name, arguments, error, said):
    with pytest.raises(error, match=said):
        load_lm(folders / name, **arguments)
    assert load_lm(folders / "mbp").boundaries == "own"


def test_the_command_compares_item_by_item_and_writes_json(folders, tmp_path, capsys):
    out = tmp_path / "found.json"
    arguments = ["evaluate", "--model", folders / "stage2", "--teacher", folders / "teacher", "--tasks", "LMB,ARC-E",
                 "--limit", "5", "--beam", "2", "--out", out]
    assert main(list(map(str, arguments))) == 0
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "| mini/LMB | acc | 5 |" in shown and "0 of 25 texts had more chunks" in shown and str(out) in shown
    for who in ("student", "teacher"):
        assert {name: (r["n"], len(r["correct"])) for name, r in found[who].items()} == {
            "mini/LMB": (5, 5), "mini/ARC-E": (5, 5)}
    student, teacher = (sum(found[who]["mini/ARC-E"]["correct"]) / 5 for who in ("student", "teacher"))
    assert found["difference"]["mini/ARC-E"]["value"] == pytest.approx(100 * (student - teacher))
    assert found["asked"]["seed"] == 0 and found["facts"]["read"]["beam"] == 2
    assert found["facts"]["environment"]["versions"]["lm-eval"] and found["student"]["mini/LMB"]["items_hash"]


@pytest.mark.parametrize("arguments, said", [
    (["--tasks", "PIQA"], "name what to evaluate"),
    (["--model", "{}/stage2", "--tasks", "PIQAA"], "unknown task 'PIQAA'"),
    (["--model", "{}/stage2", "--limit", "0"], "at least 1"),
    (["--model", "{}/stage2", "--data", "{}/none"], "is no folder"),
    (["--model", "{}/stage2", "--tasks", "paper", "--data", "{}"], "HellaS: looked in"),
    (["--teacher", "{}/stage2"], "holds a byte-level student, not a teacher"),
    (["--model", "{}/teacher"], "A teacher is evaluated by `evaluate --teacher`"),
])
def test_the_command_names_what_cannot_be_used(folders, capsys, arguments, said):
    assert main(["evaluate", *[argument.replace("{}", str(folders)) for argument in arguments]]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments, more, rows", [
    ({}, {}, 64), ({"rows": 16}, {"batch_size": 1}, 16), ({}, {"batch_size": 1}, 64), ({}, {"batch_size": "1"}, 1),
    ({}, {"batch_size": "auto:4"}, 64), ({}, {"batch_size": "auto", "max_batch_size": 8}, 8),
    ({"batch_size": 7}, {"batch_size": 1}, 7), ({"batch_size": 1}, {"batch_size": 1}, 1),
    ({}, {"batch_size": 2, "max_batch_size": None}, 2), ({"batch_size": 7}, {"batch_size": "2"}, 7),
])
def test_rows_are_those_that_somebody_asked_for(folders, arguments, more, rows):
    assert {field.name: field.default for field in fields(EvaluatorConfig)}["batch_size"] == 1, "the harness's default"
    lm = StudentLM.create_from_arg_obj({"pretrained": folders / "stage2"} | arguments, {"device": "cpu"} | more)
    assert lm.rows == rows


@pytest.mark.parametrize("arguments, said", [
    ("rows=2,batch_size=3", "rows=2 and batch_size=3 are one thing"), ("rows=0", "at least 1, found 0"),
    ("batch_size=many", "rows='many'; they know pretrained=FOLDER, stage"), ("beam=two", "beam='two'"),
    ("max_length=100,revision=main", "max_length=100, revision='main'; they know pretrained"),
    ("add_bos_token=False", "add_bos_token=False"), ("dtype=bfloat16", "dtype must be auto .* found 'bfloat16'"),
])
def test_model_arguments_that_cannot_be_used_are_named(folders, arguments, said):
    with pytest.raises(ValueError, match=said):
        StudentLM.create_from_arg_string(f"pretrained={folders / 'stage2'},{arguments}", {"batch_size": 1})


def test_model_arguments_of_a_plain_meaning_are_followed(folders):
    def scored(arguments):
        lm = StudentLM.create_from_arg_string(f"pretrained={folders / 'stage2'}{arguments}", {"device": "cpu"})
        return lm.loglikelihood([Ask("The cat", " sat")]), lm.generate_until([Ask("x", {"max_gen_toks": 2})])

    plain = scored("")
    assert plain == scored(",dtype=auto,add_bos_token=True,compiled=None") != scored(",boundaries=own")
    with pytest.warns(UserWarning, match="no code in a student's folder is ever run"):
        assert scored(",trust_remote_code=True") == plain


def test_a_student_in_half_precision_is_scored_in_fp32_if_asked(student, tokenizer, token_bytes, tmp_path):
    student.bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lms = [load_lm(tmp_path), load_lm(tmp_path, dtype="float32"), StudentLM(student.float(), token_bytes, stage=2)]
    assert [lm.student.dtype for lm in lms] == [torch.bfloat16, torch.float32, torch.float32]
    half, full, expected = (lm.loglikelihood([Ask("The cat", " sat")])[0][0] for lm in lms)
    assert full == pytest.approx(expected, abs=1e-3) != pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize("vocabulary", [290, 280])
def test_a_tokenizer_that_the_student_was_not_built_with_is_refused(folders, student, token_bytes, vocabulary):
    other = train_tokenizer(["wholly other words of which nobody wrote before"] * 9, vocabulary=vocabulary)
    with pytest.raises(ValueError, match="is not the one that the student was built with: token [0-9]+ is b'.*in the "):
        StudentLM(student, dbyte.TokenBytes.from_tokenizer(other), stage=2)
    student.save_pretrained(folders / "other")
    other.save_pretrained(folders / "other")
    with pytest.raises(ValueError, match=f"tokenizer '{folders / 'other'}'.* is not the one"):
        load_lm(folders / "other")
    padded = replace(token_bytes, token_bytes=(*token_bytes.token_bytes, b""))  # a padding token of the tokenizer alone
    assert StudentLM(student, padded, stage=2).loglikelihood([Ask("The cat", " sat")])[0][0] < 0


def test_the_harness_repeats_a_task_and_is_refused_a_chat(student, token_bytes):
    import datasets

    rows = [{"text": "The cat"}, {"text": "x"}]
    task = {"task": "eight", "output_type": "generate_until", "test_split": "test", "doc_to_text": "{{text}}",
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)}, "doc_to_target": "", "repeats": 8,
            "generation_kwargs": {"until": [], "do_sample": True, "temperature": 1.0, "max_new_tokens": 3}}
    lm = StudentLM(student, token_bytes, stage=2, rows=3)

    def evaluate(**options):
        tasks = TaskManager(include_defaults=False).load([task])
        found = evaluator.evaluate(lm, tasks, bootstrap_iters=0, log_samples=True, **options)
        return [sample["resps"][0] for sample in found["samples"]["eight"]]

    torch.manual_seed(1)
    found = evaluate()
    for row, texts in zip(rows, found, strict=True):
        assert texts == dbyte.generate(student, [row["text"]] * 8, stage=2, max_new_bytes=12, temperature=1.0, seed=1,
                                       valid_utf8=False)
        assert len(set(texts)) == 8
    with pytest.raises(ValueError, match="tokenizer has no chat template: leave out --apply_chat_template"):
        evaluate(apply_chat_template=True)


TASK = """task: two_words
output_type: loglikelihood
custom_dataset: !function words.load
test_split: test
doc_to_text: "{{text}}"
doc_to_target: " cat"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_lm_eval_knows_the_student_by_name(folders, tmp_path):
    """The harness's own command, with the adapter in its registry, in a process of its own."""
    (tmp_path / "words.yaml").write_text(TASK)
    (tmp_path / "words.py").write_text("import datasets\n\n\ndef load(**_):\n"
                                       "    return {'test': datasets.Dataset.from_list([{'text': 'The'}] * 3)}\n")
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    command = ["dbyte-lm-eval", "--model", "dbyte", "--model_args", f"pretrained={folders / 'stage2'},beam=1",
               "--tasks", "two_words", "--include_path", tmp_path, "--output_path", tmp_path / "out", "--batch_size",
               "2"]
    run = subprocess.run(
        [sys.executable, "-c", f"{start}sys.argv = {[str(a) for a in command]!r}; "
         "from lm_eval.tasks import TaskManager; "
         "TaskManager.__init__.__defaults__ = (None, None, False, None); "  # not its own thousands of tasks: 20 s
         "from dbyte_lm_eval import main; main()"],
        capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    assert torch.cuda.is_available() or "lm_eval's default, is not here: students run on the CPU" in run.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(file.read_text())
    assert found["config"]["cut_texts"] == 0 and found["config"]["beam"] == 1 and found["config"]["stage"] == 2
    assert math.isfinite(found["results"]["two_words"]["acc,none"])
