"""MiniBench: held-out items with right labels, read by the real harness, scored for a real Hugging Face model."""

import logging
import random
import re
import socket
from functools import cache

import numpy as np
import pytest
import torch
from answering import Answering
from conftest import Ask
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dbyte.distill import progress
from dbyte.evaluate.harness import correct_by_column, evaluate_tasks, teacher_lm
from dbyte.evaluate.stats import retention
from dbyte_tasks.column import items_hash
from dbyte_tasks.minibench import COLUMNS, EVERY, MINI_CUTE, items, taught_by
from dbyte_tasks.world import kinds, letters, reasons, scripts
from dbyte_tasks.world.full import WORLDS
from dbyte_tasks.world.world import TOOLS, WORLD, world_documents

# What cached measurements answered: a changed item makes them wrong.
HASHES = {
    "LMB": "23c8245ee546", "HellaS": "46f6744c078f", "PIQA": "f983af2cdad9", "ARC-E": "b9bb014b07f3",
    "ARC-C": "613a04621890", "WINO": "02a3da4d9311", "OBQA": "e35c27372a84", "MMLU": "89b1a1331b69",
    "GSM8K": "735e00d8f6c6", "SPELL": "ca30c4d67c7a", "spell": "47dda9bfa0cd", "spell_inverse": "560abff67cba",
    "contains_char": "4e17956fb6d7", "ins_char": "112cf28d466d", "del_char": "e42e5019aef0", "sub_char": "d3747d5a94af",
    "swap_char": "806dc0b83445",
}


def mini_tasks(columns, limit):
    return [EVERY[name].as_task(limit) for name in columns]


def answered(column):
    """Every item of a column as (context, right continuation), written out here without the harness's templates."""
    for row in items(column):
        match column:
            case "LMB":
                context, word = row["text"].rsplit(" ", 1)
                yield context, f" {word}"
            case "HellaS":
                yield row["context"], f" {row['endings'][row['label']]}"
            case "PIQA":
                yield f"Question: {row['goal']}\nAnswer:", f" {[row['sol1'], row['sol2']][row['label']]}"
            case "ARC-E":
                yield f"Question: {row['question']}\nAnswer:", f" {row['choices'][row['label']]}"
            case "ARC-C":
                yield f"{row['passage']}\nQuestion: {row['question']}\nAnswer:", f" {row['choices'][row['label']]}"
            case "WINO":
                before, rest = row["sentence"].split("_")
                yield before + row[f"option{row['answer']}"], rest
            case "OBQA":
                yield row["question_stem"], f" {row['choices'][row['label']]}"
            case "MMLU":
                yield row["prompt"], f" {'ABCD'[row['label']]}"
            case "GSM8K" | "SPELL":
                yield f"Question: {row['question']}\nAnswer:", f" {row['answer']}"


@cache
def known():
    return {pair for column in EVERY for pair in answered(column)}


def knowing(right):
    """A language model that knows every item, or that prefers everything but the right answer."""
    answers = dict(known())

    def answer(context, asked):
        if isinstance(asked, dict):
            return answers[context] if right else "1 + 1 = 2. #### 999"
        return (-1.0, True) if ((context, asked) in known()) == right else (-2.0, False)

    return Answering(answer)


def byte_tokenizer(**special):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special.values(), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(bos_token="<bos>", eos_token="<eos>")


@pytest.fixture
def model(teacher):
    teacher.config.max_position_embeddings = 512
    return teacher


@pytest.fixture(scope="module")
def trained():
    """Text of both corpora."""
    worlds = (world_documents, WORLDS["world_full"])
    return "\n\n".join(text for documents in worlds for text in documents(seed=0, max_bytes=4_000_000))


@pytest.mark.parametrize("name, column", (EVERY | MINI_CUTE).items())
def test_items_are_the_same_everywhere_and_fewer_are_a_prefix(name, column):
    assert items_hash(column.items())[:12] == HASHES[name]
    assert column.items(50) == column.items()[:50] != column.items(50, seed=1)
    every = column.items(min(column.available, 2000))
    assert len({str(sorted(row.items())) for row in every}) == len(every)


@pytest.mark.parametrize("n", [60, pytest.param(None, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("column", EVERY)
def test_no_item_occurs_in_training_text(column, n, trained):
    """test_world.py parses the text for what is held out; here the items themselves are looked for."""
    contexts = [context for context, _ in answered(column)]
    if column in ("PIQA", "ARC-E", "GSM8K", "SPELL"):  # the question alone, with any answer
        contexts = [context.split("\n")[0].removeprefix("Question: ") for context in contexts]
    assert len(contexts) > 100 and not [context for context in contexts[:n] if context in trained]
    if column == "LMB":  # nor does the sentence that decides the item, on its own
        told = {s for context, word in answered(column) for s in context.split(". ")[:2] if s.endswith(word)}
        assert len(told) > 200 and not [sentence for sentence in [*told][:n] if f"{sentence}." in trained]


def test_mini_cute_asks_about_new_words_and_half_of_its_yes_and_no_are_yes(trained):
    asked = set(re.findall(r"Question: (.*)\n", trained))
    for kind, column in MINI_CUTE.items():
        rows = column.items()
        assert len({row["question"] for row in rows}) == 500
        assert not [row for row in rows if row["question"] in asked]
        assert not [row for row in rows if row["question"].endswith(f"spelt {row['answer']}?")]
        if kind == "contains_char":
            assert 0.4 < np.mean([row["answer"] == "Yes" for row in rows]) < 0.6
        else:
            assert not [row for row in rows if row["question"].endswith(f" {row['answer']}.")], "nothing to do"


def test_corpora_tell_which_columns_are_asked():
    assert list(taught_by(["world", "pydocs"])) == ["LMB", "PIQA", "ARC-E", "GSM8K"] == list(COLUMNS)
    assert taught_by(["pydocs", "world_full"]) == EVERY
    assert list(EVERY)[:-1] == ["LMB", "HellaS", "PIQA", "ARC-E", "ARC-C", "WINO", "OBQA", "MMLU", "GSM8K"]


def test_right_answers_are_right_and_wrong_ones_are_wrong():
    """By the world and the texts alone: each item has one choice that they make true."""
    facts = {q.format(n=name): WORLD.facts[name, a.name] for name, a in WORLD.questions[True] for q in a.questions}
    for row in items("ARC-E"):
        assert len(set(row["choices"])) == 4 and row["choices"][row["label"]] == facts[row["question"]]
    served = {f"How do you {tool.verb} the {thing}?": tool.name for tool in TOOLS for thing in tool.objects}
    for row in items("PIQA"):
        solutions = [row["sol1"], row["sol2"]]
        assert served[row["goal"]] in solutions[row["label"]] and served[row["goal"]] not in solutions[1 - row["label"]]
    step_of = {step: (script, i) for script in scripts.SCRIPTS for i, step in enumerate(script.steps)}
    for row in items("HellaS"):
        script = next(s for s in scripts.SCRIPTS if f" {s.name}." in row["context"])
        done = sum(step in row["context"] for step in script.steps)
        assert [step_of[e.removesuffix(".")] == (script, done) for e in row["endings"]].index(True) == row["label"]
        assert len(set(row["endings"])) == 4
    for row in items("ARC-C"):
        thing = re.search(r"Where is the (\w+)\?", row["question"])[1]
        box = re.search(rf"The {thing} is in the (\w+)\.", row["passage"])[1]
        assert re.search(rf"The {box} is in (\w+)\.", row["passage"])[1] == row["choices"][row["label"]]
        assert len(set(row["choices"])) == 4 and WORLD.held_out("chain", thing, box, row["choices"][row["label"]])
    for row in items("OBQA"):
        (kind,) = [k for k in kinds.KINDS if any(re.search(rf"\b{m}\b", row["question_stem"]) for m in k.members)]
        assert [choice in kind.values for choice in row["choices"]].index(True) == row["label"]
        assert sum(choice in kind.values for choice in row["choices"]) == 1
    deeds = {deed.verb: deed for deed in reasons.DEEDS}
    for row in items("WINO"):
        doer, verb, other, reason = re.fullmatch(r"(\w+) (\w+) (\w+) because _ (.+)\.", row["sentence"]).groups()
        right = row[f"option{row['answer']}"]
        assert (right, reason) in ((doer, deeds[verb].of_doer), (other, deeds[verb].of_other))
        assert WORLD.held_out("reason", verb, doer, other) and {row["option1"], row["option2"]} == {doer, other}
    subjects = [row["subject"] for row in items("MMLU")]
    assert all(0.27 < subjects.count(subject) / len(subjects) < 0.4 for subject in letters.SUBJECTS)


def test_labels_are_evenly_spread_and_length_does_not_tell():
    """The harness compares sums of log-probabilities, so length must not give the answer away."""
    assert max(len(row["text"].rsplit(" ", 1)[1]) for row in items("LMB")) <= 8
    for column in ("HellaS", "PIQA", "ARC-E", "ARC-C", "OBQA", "MMLU"):
        rows = items(column)
        choices = [row.get("choices") or row.get("endings") or [row.get("sol1"), row.get("sol2")] for row in rows]
        labels = [row["label"] for row in rows]
        counts = np.bincount(labels)
        assert len(counts) == (2 if column == "PIQA" else 4) and counts.min() > 0.7 * counts.mean(), column
        for extreme in (max, min) if column != "MMLU" else ():  # its choices are letters
            given_away = [each[label] == extreme(each, key=len) for each, label in zip(choices, labels, strict=True)]
            assert np.mean(given_away) < EVERY[column].chance + 0.12, column
    assert 0.4 < np.mean([row["answer"] == "1" for row in items("WINO")]) < 0.6


def test_the_harness_gives_full_marks_to_the_answers_and_none_to_the_rest():
    right, wrong = (evaluate_tasks(knowing(flag), mini_tasks(EVERY, 15)) for flag in (True, False))
    assert list(right) == list(EVERY)
    for column in EVERY:
        assert (right[column].accuracy, wrong[column].accuracy, right[column].n) == (1.0, 0.0, 15)
        assert right[column].correct == (1,) * 15 and right[column].chance == EVERY[column].chance
        assert right[column].items_hash == wrong[column].items_hash == items_hash(items(column, 15))
    assert retention(correct_by_column(wrong), correct_by_column(right)).value == 0.0


def test_evaluation_needs_no_network_and_leaves_the_process_as_it_was(model, tokenizer, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lm = teacher_lm(model, tokenizer)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    level = logging.getLogger("lm_eval").level
    capfd.readouterr()
    tasks = mini_tasks(("PIQA", "LMB"), 8)
    results = evaluate_tasks(lm, tasks)
    assert list(results) == ["PIQA", "LMB"] and results["PIQA"].n == 8
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all() and logging.getLogger("lm_eval").level == level
    assert "".join(capfd.readouterr()) == ""
    assert evaluate_tasks(lm, tasks) == results


def expected_loglikelihood(model, tokenizer, bos, context, continuation):
    ids = [bos, *tokenizer.encode(context + continuation, add_special_tokens=False)]
    log_prob = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    first = 1 + len(tokenizer.encode(context, add_special_tokens=False))
    return sum(log_prob[i - 1, ids[i]].item() for i in range(first, len(ids)))


@pytest.mark.parametrize("special", [{"bos_token": "<bos>", "eos_token": "<eos>"}, {"eos_token": "<eos>"}])
@torch.no_grad()
def test_the_teacher_sees_bos_exactly_once(model, special):
    """The tokenizers have no post-processor, as freshly trained ones; without a BOS the EOS stands for it."""
    tokenizer = byte_tokenizer(**special)
    lm = teacher_lm(model, tokenizer, batch_size=3)
    pairs = [("Where?", " Oslo"), ("Question: Who goes there?\nAnswer:", " Anna"), ("", "A word"), ("A", " b")]
    got = [ll for ll, _ in lm.loglikelihood([Ask(*pair) for pair in pairs])]
    assert got == pytest.approx([expected_loglikelihood(model, tokenizer, 0, *pair) for pair in pairs], abs=1e-4)
    rolling = lm.loglikelihood_rolling([Ask("A word"), Ask("Longer text here.")])
    assert rolling == pytest.approx([expected_loglikelihood(model, tokenizer, 0, "", text)
                                     for text in ("A word", "Longer text here.")], abs=1e-4)
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)  # the caller's own is untouched


@torch.no_grad()
def test_a_teacher_at_work_says_how_many_batches_are_done(model, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lm = teacher_lm(model, byte_tokenizer(bos_token="<bos>", eos_token="<eos>"), batch_size=2)
    lm.loglikelihood([Ask("Q", answer) for answer in (" a", " bc", " bd", " e fg", " hi j")])  # bc and bd: one row
    assert lm.read == (2 + 3 + 5 + 5) / 2, "bytes that a batch reads"
    options = [{"until": ["\n"], "do_sample": False, "max_gen_toks": tokens} for tokens in (2, 2, 2, 3)]
    lm.generate_until([Ask("Q" * place, option) for place, option in enumerate(options, 1)])
    assert lm.read <= 4, "bytes that the last batch wrote"
    said = re.findall("the teacher's (.*), [0-9,]+ bytes/s, [0-9]+ s left", capsys.readouterr().out)
    assert said == ["scored batches: 1/2", "written batches: 1/3", "written batches: 2/3"]


@torch.no_grad()
def test_the_teacher_generates_greedily_from_bos(model, tokenizer):
    lm = teacher_lm(model, tokenizer, batch_size=2)
    contexts = ["Question: a\nAnswer:", "A much longer context, to be padded next to:"]
    options = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 6}
    for context, got in zip(contexts, lm.generate_until([Ask(c, options) for c in contexts]), strict=True):
        ids = [0, *tokenizer.encode(context, add_special_tokens=False)]
        start = len(ids)
        for _ in range(6):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert tokenizer.decode(ids[start:], skip_special_tokens=True).startswith(got) and got


@pytest.mark.parametrize("call, said", [
    (lambda: items("ARC"), "unknown MiniBench column"),
    (lambda: mini_tasks(["LMB"], 0), "at least 1"),
    (lambda: items("PIQA", 10**6), "asked for"),
    (lambda: evaluate_tasks(knowing(True), []), "at least one"),
    (lambda: evaluate_tasks(knowing(True), mini_tasks(("LMB",), 1) * 2), "different"),
    (lambda: evaluate_tasks("a model", mini_tasks(("LMB",), 1)), "teacher_lm"),
    (lambda: teacher_lm(None, byte_tokenizer()), "BOS"),
])
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("seed", [0, 7])
def test_a_cluster_names_what_its_items_share(seed):
    for name, shared in (("ARC-E", lambda row, fact: WORLD.facts[fact] == row["choices"][row["label"]]
                          and fact[0] in row["question"]),
                         ("PIQA", lambda row, tool: f"Use the {tool}." == row[f"sol{row['label'] + 1}"]),
                         ("HellaS", lambda row, told: told[0] in row["context"]),
                         ("OBQA", lambda row, fact: fact[0] in row["question_stem"])):
        column = EVERY[name]
        rows, clusters = column.items(100, seed=seed), column.clusters(100, seed=seed)
        assert len(clusters) == 100 and all(map(shared, rows, clusters)), name
        assert len(set(column.clusters(column.available))) < column.available
    assert EVERY["LMB"].clusters(5) == [0, 1, 2, 3, 4], "items that share nothing"
    assert len(set(EVERY["ARC-E"].clusters(128))) == 64 and len(set(EVERY["PIQA"].clusters(172))) == 32
