"""MiniBench: held-out items with right labels, read by the real harness, scored for a real Hugging Face model."""

import logging
import random
import socket

import numpy as np
import pytest
import torch
from lm_eval.api.model import LM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dbyte.evaluate.harness import correct_by_column, evaluate, teacher_lm
from dbyte.evaluate.stats import retention
from dbyte.tasks import minibench
from dbyte.tasks.column import items_hash
from dbyte.tasks.minibench import COLUMNS, items
from dbyte.tasks.world.world import TOOLS, WORLD, world_documents


def answered(column):
    """Every item of a column as (context, right continuation), written out here without the harness's templates."""
    for row in items(column):
        if column == "LMB":
            context, word = row["text"].rsplit(" ", 1)
            yield context, f" {word}"
        else:
            choices = {"ARC-E": row.get("choices"), "PIQA": [row.get("sol1"), row.get("sol2")]}.get(column)
            right = row["answer"] if choices is None else choices[row["label"]]
            yield f"Question: {row.get('question', row.get('goal'))}\nAnswer:", f" {right}"


class Knowing(LM):
    """A language model that knows every item, or that prefers everything but the right answer."""

    def __init__(self, right=True):
        super().__init__()
        self.right, self.known = right, {pair for column in COLUMNS for pair in answered(column)}

    def loglikelihood(self, requests):
        return [(-1.0, True) if (r.args in self.known) == self.right else (-2.0, False) for r in requests]

    def generate_until(self, requests):
        answers = dict(self.known)
        return [answers[r.args[0]] if self.right else "1 + 1 = 2. #### 999" for r in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


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


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=1, initializer_range=0.5,
    )).eval()


@pytest.mark.parametrize("column", COLUMNS)
def test_items_depend_on_the_seed_alone_and_fewer_are_a_prefix(column):
    every = items(column, COLUMNS[column].available)
    assert every[:50] == items(column, 50) and items_hash(every[:50]) == items_hash(items(column, 50))
    assert items_hash(every[:50]) != items_hash(items(column, 50, seed=1))
    assert len({str(sorted(row.items())) for row in every}) == len(every)


@pytest.mark.parametrize("column", COLUMNS)
def test_no_item_occurs_in_training_text(column):
    text = "\n\n".join(text for seed in (0, 1) for text in world_documents(seed=seed, max_bytes=6_000_000))
    leaked = [context for context, _ in answered(column) if context in text]
    assert not leaked
    if column == "LMB":  # nor does the sentence that decides the item, on its own
        told = {s for context, word in answered(column) for s in context.split(". ")[:2] if s.endswith(word)}
        assert len(told) > 200 and not [sentence for sentence in told if f"{sentence}." in text]


def test_labels_are_right_and_evenly_spread():
    facts = {q.format(n=name): WORLD.facts[name, a.name] for name, a in WORLD.questions[True] for q in a.questions}
    for row in items("ARC-E"):
        assert len(set(row["choices"])) == 4 and row["choices"][row["label"]] == facts[row["question"]]
    served = {f"How do you {tool.verb} the {thing}?": tool.name for tool in TOOLS for thing in tool.objects}
    for row in items("PIQA"):
        solutions = [row["sol1"], row["sol2"]]
        assert served[row["goal"]] in solutions[row["label"]] and served[row["goal"]] not in solutions[1 - row["label"]]
    for column, choices in (("ARC-E", 4), ("PIQA", 2)):
        counts = np.bincount([row["label"] for row in items(column)], minlength=choices)
        assert counts.min() > 0.7 * counts.mean(), column


@pytest.mark.parametrize("column", ["LMB", "ARC-E", "PIQA"])
def test_answers_are_of_similar_length(column):
    """The harness compares sums of log-probabilities, so length must not give the answer away."""
    rows = items(column)
    if column == "LMB":
        assert max(len(row["text"].rsplit(" ", 1)[1]) for row in rows) <= 8
        return
    longest = [max((row.get("choices") or [row["sol1"], row["sol2"]]), key=len) for row in rows]
    right = [(row.get("choices") or [row["sol1"], row["sol2"]])[row["label"]] for row in rows]
    shortest = [min((row.get("choices") or [row["sol1"], row["sol2"]]), key=len) for row in rows]
    share = [np.mean([a == b for a, b in zip(right, other, strict=True)]) for other in (longest, shortest)]
    assert max(share) < COLUMNS[column].chance + 0.12, share


def test_the_harness_gives_full_marks_to_the_answers_and_none_to_the_rest():
    right, wrong = evaluate(Knowing(), limit=60), evaluate(Knowing(right=False), limit=60)
    assert list(right) == list(COLUMNS)
    for column in COLUMNS:
        assert (right[column].accuracy, wrong[column].accuracy, right[column].n) == (1.0, 0.0, 60)
        assert right[column].correct == (1,) * 60 and right[column].chance == minibench.CHANCE[column]
        assert right[column].items_hash == wrong[column].items_hash == items_hash(items(column, 60))
    assert retention(correct_by_column(wrong), correct_by_column(right)).value == 0.0


def test_evaluation_needs_no_network_and_leaves_the_process_as_it_was(model, tokenizer, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lm = teacher_lm(model, tokenizer)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    level = logging.getLogger("lm_eval").level
    capfd.readouterr()
    results = evaluate(lm, columns=("PIQA", "LMB"), limit=8)
    assert list(results) == ["PIQA", "LMB"] and results["PIQA"].n == 8
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all() and logging.getLogger("lm_eval").level == level
    assert "".join(capfd.readouterr()) == ""
    assert evaluate(lm, columns=("PIQA", "LMB"), limit=8) == results


class Request:
    def __init__(self, *args):
        self.args = args


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
    got = [ll for ll, _ in lm.loglikelihood([Request(*pair) for pair in pairs])]
    assert got == pytest.approx([expected_loglikelihood(model, tokenizer, 0, *pair) for pair in pairs], abs=1e-4)
    rolling = lm.loglikelihood_rolling([Request("A word"), Request("Longer text here.")])
    assert rolling == pytest.approx([expected_loglikelihood(model, tokenizer, 0, "", text)
                                     for text in ("A word", "Longer text here.")], abs=1e-4)
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)  # the caller's own is untouched


@torch.no_grad()
def test_the_teacher_generates_greedily_from_bos(model, tokenizer):
    lm = teacher_lm(model, tokenizer, batch_size=2)
    contexts = ["Question: a\nAnswer:", "A much longer context, to be padded beside:"]
    options = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 6}
    for context, got in zip(contexts, lm.generate_until([Request(c, options) for c in contexts]), strict=True):
        ids = [0, *tokenizer.encode(context, add_special_tokens=False)]
        start = len(ids)
        for _ in range(6):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert tokenizer.decode(ids[start:], skip_special_tokens=True).startswith(got) and got


@pytest.mark.parametrize("call, said", [
    (lambda: minibench.mini_tasks(["ARC"]), "unknown MiniBench column"),
    (lambda: minibench.mini_tasks(["LMB"], 0), "at least 1"),
    (lambda: items("PIQA", 10**6), "asked for"),
    (lambda: evaluate(Knowing(), columns=()), "at least one"),
    (lambda: evaluate(Knowing(), columns=("LMB", "LMB")), "different"),
    (lambda: evaluate("a model"), "teacher_lm"),
    (lambda: teacher_lm(None, byte_tokenizer()), "BOS"),
])
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
