"""The paper's benchmarks and CUTE: real items, the real harness, and a student that must score as its teacher."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from answering import Answering
from conftest import make_student
from lm_eval.api.model import LM
from oracle import Oracle
from transformers import LlamaConfig, LlamaForCausalLM

from dbyte.distill.teacher import train_tokenizer
from dbyte.evaluate.harness import evaluate_tasks, teacher_lm
from dbyte.evaluate.lm import StudentLM
from dbyte.text.spans import TokenBytes
from dbyte_tasks import cute, suite
from dbyte_tasks import paper as benchmarks
from dbyte_tasks.paper import BENCHMARKS

SHARED = Path(os.environ.get("DBYTE_SHARED", Path(__file__).parents[2] / "shared")) / "data/eval"
real = pytest.mark.skipif(not SHARED.is_dir(), reason=(
    f"SKIPPED LOUDLY: no benchmark items in {SHARED}, so student and teacher are not compared on real ones; set "
    "DBYTE_SHARED to a folder with data/eval"))

# Made-up rows in the hub's layout, for benchmarks whose items are not available.
MADE_UP = {
    "hellaswag/validation.jsonl": [
        {"activity_label": "Baking", "ctx_a": "A man [step] bakes.", "ctx_b": "he", "endings": ["sleeps.", "eats  it.",
         "runs [title] off.", "swims."], "label": "1"}] * 2,
    "mmlu/test.jsonl": [{"question": "What is 1 + 1? ", "subject": "abstract_algebra", "choices": ["1", "2", "3", "4"],
                         "answer": 1}],
    "commonsense_qa/validation.jsonl": [{"question": "Where is a fish?", "answerKey": "B", "choices": {
        "label": list("ABCDE"), "text": ["sky", "sea", "bed", "book", "fire"]}}],
    "siqa/validation.jsonl": [{"context": "Ann fell.", "question": "How is she?", "answerA": "hurt", "answerB": "glad",
                               "answerC": "old", "label": "1"}],
}


def paper_tasks(names=BENCHMARKS, limit=None, *, data=None):
    return [BENCHMARKS[name].as_task(limit, data=data) for name in names]


class Recording(LM):
    """Keeps what was asked and answered."""

    def __init__(self, lm):
        super().__init__()
        self.lm, self.seen = lm, []

    def _ask(self, how, requests):
        answers = getattr(self.lm, how)(requests)
        self.seen += [(request.args, answer) for request, answer in zip(requests, answers, strict=True)]
        return answers

    def loglikelihood(self, requests):
        return self._ask("loglikelihood", requests)

    def loglikelihood_rolling(self, requests):
        return self._ask("loglikelihood_rolling", requests)

    def generate_until(self, requests):
        for request in requests:
            request.args[1]["max_gen_toks"] = 12
        return self._ask("generate_until", requests)


def silent(context, asked):
    """Answers that say nothing: the shorter the likelier."""
    return "#### 7" if isinstance(asked, dict) else (-float(len(asked)), False)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for file, rows in MADE_UP.items():
        (folder / file).parent.mkdir()
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pair():
    """A tokenizer of real words and a random teacher with room for five worked examples."""
    words = json.loads("[" + ",".join((SHARED / "gsm8k/test.jsonl").read_text().splitlines()[:60]) + "]")
    tokenizer = train_tokenizer([row["question"] + row["answer"] for row in words] * 2, vocabulary=700)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=700, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=48, max_position_embeddings=4096,
                         initializer_range=0.2, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
    return LlamaForCausalLM(config).eval(), tokenizer


@real
@pytest.mark.parametrize("name", [
    "LMB", "WINO", "GSM8K", "spell",
    *(pytest.param(name, marks=pytest.mark.exhaustive)
      for name in ("PIQA", "ARC-E", "ARC-C", "OBQA", "contains_word"))])
def test_a_student_with_an_oracle_encoder_scores_as_its_teacher(pair, name, monkeypatch):
    teacher, tokenizer = pair
    student, token_bytes = make_student(teacher, tokenizer), TokenBytes.from_tokenizer(tokenizer)
    Oracle(student, teacher, token_bytes, monkeypatch)
    plain = StudentLM(student, token_bytes, stage=1, boundaries="tokenizer", compiled=False)  # an oracle has no C
    ours = Recording(plain)
    theirs = Recording(teacher_lm(teacher, tokenizer, batch_size=4))
    full_name = name if name in cute.CUTE else f"paper/{name}"
    tasks = [suite.tasks([full_name], limit=3, data=SHARED)[0] for _ in "12"]
    found, expected = (evaluate_tasks(lm, [task]) for lm, task in zip((ours, theirs), tasks, strict=True))
    (one,), (other,) = found.values(), expected.values()
    assert found.keys() == expected.keys() and one.n == 3
    assert one.margins == pytest.approx(other.margins, rel=1e-4, abs=1e-4)
    assert replace(one, margins=()) == replace(other, margins=())
    assert len(ours.seen) == len(theirs.seen) > 0
    for (asked, answer), (asked_too, wanted) in zip(ours.seen, theirs.seen, strict=True):
        assert asked == asked_too
        if isinstance(answer, str):  # the limits differ, twelve tokens and four times as many bytes; the text does not
            shorter, longer = sorted((answer.rstrip("\ufffd"), wanted.rstrip("\ufffd")), key=len)
            assert longer.startswith(shorter) and shorter
        else:
            assert answer == (pytest.approx(wanted[0], rel=1e-4), wanted[1])


@real
def test_every_local_benchmark_is_read_completely():
    sizes = {"LMB": 5153, "PIQA": 1838, "ARC-E": 2376, "ARC-C": 1172, "WINO": 1267, "OBQA": 500, "GSM8K": 1319}
    for task in paper_tasks(list(sizes), data=SHARED):
        assert len(task.config["custom_dataset"]()["test"]) == sizes[task.name]
    first, second = (BENCHMARKS["LMB"].read(SHARED, files) for files in BENCHMARKS["LMB"].layouts[:2])
    assert first == second, "both files of LAMBADA say the same"


@real
@pytest.mark.parametrize("name, file", [("ARC-E", "arc/arc_easy"), ("ARC-C", "arc/arc_challenge"),
                                        ("OBQA", "openbookqa/openbook_qa"), ("WINO", "winogrande/winogrande")])
def test_the_right_answer_is_the_one_that_the_file_says(name, file):
    """The texts are put together here from the file; some questions occur twice, hence 98 percent."""
    rows = [json.loads(line) for line in (SHARED / f"{file}.llm-foundry.jsonl").read_text().splitlines()]
    foot = "" if name == "OBQA" else "\nAnswer:"
    right = {f"{row['context_options'][row['gold']]} {row['continuation']}" if name == "WINO" else
             f"{row['query']}{foot} {row['choices'][row['gold']]}" for row in rows}
    knowing = Answering(lambda context, asked: (0.0, True) if context + asked in right else (-1e3, False))
    result = evaluate_tasks(knowing, paper_tasks([name], 100, data=SHARED))[name]
    assert result.accuracy > 0.98 and result.n == 100


@real
def test_a_winogrande_sentence_becomes_the_two_texts_that_the_file_has():
    (file,), _ = BENCHMARKS["WINO"].layouts
    given = [json.loads(line) for line in (SHARED / file).read_text().splitlines()]
    lm = Answering(silent)
    evaluate_tasks(lm, paper_tasks(["WINO"], 40, data=SHARED))
    assert lm.seen == [(context, f" {row['continuation']}") for row in given[:40] for context in row["context_options"]]


def test_prompts_are_the_harness_own(made_up):
    lm = Answering(silent)
    found = evaluate_tasks(lm, paper_tasks(["HellaS", "MMLU", "CSQA", "SIQA"], data=made_up))
    assert lm.seen[:4] == [("Baking: A man bakes. He", f" {end}") for end in ("sleeps.", "eats it.", "runs. off.",
                                                                             "swims.")]
    assert lm.seen[8] == ("The following are multiple choice questions (with answers) about abstract algebra.\n\nWhat "
                          "is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", " A")
    assert lm.seen[12] == ("Question: Where is a fish?\nA. sky\nB. sea\nC. bed\nD. book\nE. fire\nAnswer:", " A")
    assert lm.seen[17] == ("Q: Ann fell. How is she?\nA:", " hurt")
    assert {name: (result.n, result.metric) for name, result in found.items()} == {
        "HellaS": (2, "acc_norm"), "MMLU": (1, "acc"), "CSQA": (1, "acc"), "SIQA": (1, "acc")}


def test_mmlu_names_each_subject_as_the_harness_does():
    import lm_eval.tasks
    from jinja2 import Template

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu/default"
    stock = [benchmarks._stock(f"mmlu/default/{file.name}") for file in sorted(folder.glob("mmlu_*.yaml"))[::6]]
    for config in stock:
        line = Template(benchmarks.SUBJECT, keep_trailing_newline=True).render(subject=config["dataset_name"])
        assert line == config["description"]


def test_the_hub_is_asked_where_no_folder_is_given():
    assert all(task.config["dataset_path"] and "custom_dataset" not in task.config for task in paper_tasks())
    with pytest.raises(ConnectionError, match="--data"):
        evaluate_tasks(Answering(silent), paper_tasks(["PIQA"], 2))


def test_missing_items_are_listed_all_at_once(made_up):
    with pytest.raises(FileNotFoundError, match=r"(?s)PIQA: .*dev-labels.lst.*GSM8K: .*train.jsonl.*--data"):
        suite.tasks(["paper/PIQA", "paper/HellaS", "GSM8K", "paper/GSM8K"], data=made_up)
    with pytest.raises(FileNotFoundError, match="spell.tsv"):
        suite.tasks(["cute"], data=made_up)


@pytest.mark.parametrize("task, files, said", [
    ("paper/LMB", {"lambada/lambada_test.jsonl": '{"text": "a b"}\n{"te'}, "line 2"),
    ("paper/LMB", {"lambada/lambada_test.jsonl": '{"words": "a b"}\n'}, "does not hold the records"),
    ("paper/LMB", {"lambada/lambada_test.jsonl": "\n"}, "no records"),
    ("spell", {"cute/data/spell.tsv": "input1\tlabel\nthe\n"}, "line 2: expected 2 fields, found 1"),
    ("spell", {"cute/data/spell.tsv": "input1\tlabel\n"}, "no items"),
    ("paper/PIQA", {"piqa/dev.jsonl": '{"goal": "a", "sol1": "b", "sol2": "c"}\n', "piqa/dev-labels.lst": "0\n1\n"},
     "1 items but 2 labels"),
    ("paper/PIQA", {"piqa/dev.jsonl": '{"goal": "a", "sol1": "b", "sol2": "c"}\n', "piqa/dev-labels.lst": "maybe\n"},
     "'maybe'.*dev-labels.lst needs one label, 0 or 1"),
])
def test_damaged_items_are_named(tmp_path, task, files, said):
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=said):
        suite.tasks([task], data=tmp_path)


def test_names_stand_for_groups_and_columns():
    assert suite.named(["PIQA", "CSQA", "paper/PIQA", "spell", "PIQA"]) == [
        ("mini", "PIQA"), ("paper", "CSQA"), ("paper", "PIQA"), ("cute", "spell")]
    assert len(suite.named(["cute"])) == 21 and suite.named(["paper"])[0] == ("paper", "LMB")
    assert suite.named(["mini_cute"])[0] == ("mini_cute", "spell") and suite.named(["spell"]) == [("cute", "spell")]
    assert suite.tasks(["mini_cute/del_char"], limit=3)[0].name == "mini_cute/del_char"
    assert set(suite.named(["mini"])) < set(suite.named(["mini_full"])) and suite.named(["WINO"]) == [("mini", "WINO")]
    for wrong in ("PIQUA", "mini/CSQA", "paperback/PIQA", ""):
        with pytest.raises(ValueError, match="unknown task"):
            suite.named([wrong])
    with pytest.raises(ValueError, match="at least one"):
        suite.named([])
    with pytest.raises(ValueError, match="at least 1"):
        suite.tasks(["paper/PIQA"], limit=0)


def test_cutes_worked_examples_are_right():
    """Solved here anew from the question's inputs."""
    edits = {
        "spell": lambda word: " ".join(word), "spell_inverse": lambda spelt: spelt.replace(" ", ""),
        "contains_char": lambda a, word: "Yes" if a in word else "No",
        "contains_word": lambda a, text: "Yes" if a in text.strip(".").split() else "No",
        "ins_char": lambda a, b, word: word.replace(b, b + a), "del_char": lambda a, word: word.replace(a, ""),
        "sub_char": lambda a, b, word: word.replace(a, b), "ins_word": lambda a, b, text: text.replace(b, f"{b} {a}"),
        "swap_char": lambda a, b, word: word.translate({ord(a): b, ord(b): a}),
        "del_word": lambda a, text: text.replace(f" {a}", ""), "sub_word": lambda a, b, text: text.replace(a, b),
        "swap_word": lambda a, b, text: text.replace(a, "\0").replace(b, a).replace("\0", b),
    }
    for name, question in cute.QUESTIONS.items():
        assert len(question.worked) == 4 and len({len(given) for given, _ in question.worked}) == 1
        for given, answer in question.worked:
            if name in edits:
                assert edits[name](*given) == answer, given
            else:
                assert answer in given[1:]


@real
def test_cute_is_read_completely_and_its_answers_do_not_stand_in_the_worked_examples():
    tasks = [column.as_task(data=SHARED) for column in cute.CUTE.values()]
    assert len(tasks) == 21
    for task in tasks:
        rows = task.config["custom_dataset"]()["test"]
        assert len(rows) == 1000 and all(prompt.endswith('Answer: "') for prompt in rows["prompt"])
        assert len(set(rows["prompt"])) >= 998
