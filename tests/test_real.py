"""What scale `real` stands on: text without items, real columns, likeness, a frozen core, Table 1's rows."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import TEXTS, make_student
from oracle import Oracle
from test_curriculum import TOY
from transformers import AutoConfig

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.data import training_corpora
from dbyte.distill.sizes import check_sizes
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.harness import ColumnResult
from dbyte.evaluate.likeness import likeness
from dbyte.evaluate.measure import Measurer
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.scale_file import TEXT
from dbyte.text.contamination import WORDS_IN_A_ROW, runs_of_words, texts_in, without_items
from dbyte.text.corpus import load_corpus
from dbyte_paper import real_teacher, under_noise
from dbyte_tasks.paper import BENCHMARKS, data_folder

ITEM = "To open a jar that is stuck, run its lid under hot water for about a minute, then twist."
PIQA = {"goal": "To open a jar that is stuck", "sol1": ITEM, "sol2": "Shout at it."}
LAMBADA = [{"text": "Anna went to the market and bought a pear"}, {"text": "he ate the whole pie"}, {"text": "a b"}]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of items that $DBYTE_DATA names: three of LAMBADA, two of PIQA."""
    folder = tmp_path / "items"
    for file, lines in {"piqa/dev.jsonl": map(json.dumps, [PIQA, PIQA | {"sol1": "Wait."}]),
                        "piqa/dev-labels.lst": ["0", "1"], "lambada/test.jsonl": map(json.dumps, LAMBADA)}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("DBYTE_DATA", str(folder))
    return folder


# -- text without items -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared, dropped", [(WORDS_IN_A_ROW, True), (WORDS_IN_A_ROW - 1, False)])
def test_a_document_that_shares_thirteen_words_in_a_row_is_left_out_however_they_are_set(shared, dropped, capsys):
    words = ITEM.replace(",", "").upper().split()[2 : 2 + shared]
    text = "Before it, other words --\n" + ";\n\t".join(words) + "! And after it."
    found = without_items([text, "Nothing of that."], ["short", ITEM], name="mine")
    assert found == (("Nothing of that.",) if dropped else (text, "Nothing of that."))
    assert f"corpus mine: {int(dropped)} of 2 documents share 13 words" in capsys.readouterr().out


def test_runs_of_words_are_as_many_as_fit():
    words = [str(number) for number in range(WORDS_IN_A_ROW + 2)]
    assert len(set(runs_of_words(" ".join(words)))) == 3
    assert list(runs_of_words(" ".join(words[: WORDS_IN_A_ROW - 1]))) == []
    assert set(runs_of_words(" ".join(words[1:-1]))) < set(runs_of_words(" ".join(words)))


def test_every_string_of_an_item_is_asked():
    row = {"query": "a", "gold": 1, "choices": ["b", {"text": ("c", "d")}], "none": None}
    assert list(texts_in(row)) == ["a", "b", "c", "d"]


def test_the_training_text_of_a_scale_with_benchmarks_lacks_documents_with_their_items(data, tmp_path, capsys):
    (tmp_path / "text.jsonl").write_text("".join(
        json.dumps({"text": text}) + "\n" for text in (f"He said: {ITEM}", *(f"Line {n}, clean." for n in range(200)))))
    scale = replace(TOY, corpora=((f"file:{tmp_path / 'text.jsonl'}", 50_000),))
    (whole,) = training_corpora(scale, seed=0)
    (clean,) = training_corpora(replace(scale, benchmarks=("LMB", "PIQA")), seed=0)
    assert set(whole.documents) - set(clean.documents) == {f"He said: {ITEM}"}
    assert len(clean) == len(whole) - 1 and "1 of" in capsys.readouterr().out


def test_all_items_that_are_not_there_are_told_before_any_text_is_read(data):
    """And not one column at its first use, after minutes of reading."""
    check_sizes(replace(presets.scale("real"), benchmarks=("LMB", "PIQA")))
    with pytest.raises(FileNotFoundError, match=r"(?s)^HellaS: looked in .*ARC-E: looked in .*set .DBYTE_DATA"):
        check_sizes(replace(presets.scale("real"), benchmarks=("LMB", "HellaS", "ARC-E")))


def test_items_that_are_not_there_are_told_with_the_remedy(data, monkeypatch):
    scale = replace(TOY, benchmarks=("HellaS",))
    with pytest.raises(FileNotFoundError, match="HellaS: looked in .*leave the column out of `benchmarks`"):
        training_corpora(scale, seed=0)
    monkeypatch.delenv("DBYTE_DATA")
    with pytest.raises(ConnectionError, match="Hub.*set .DBYTE_DATA to a folder that has their items"):
        training_corpora(scale, seed=0)


# -- where items and text come from -----------------------------------------------------------------------------------


def test_the_rows_of_a_benchmark_are_its_items_in_their_order(data, tmp_path):
    assert BENCHMARKS["LMB"].rows(data) == LAMBADA
    assert [(row["goal"], row["label"]) for row in BENCHMARKS["PIQA"].rows(data)] == [
        (PIQA["goal"], 0), (PIQA["goal"], 1)]
    with pytest.raises(FileNotFoundError, match="hellaswag"):
        BENCHMARKS["HellaS"].rows(data)


def test_the_data_folder_is_what_the_variable_names(data, tmp_path, monkeypatch):
    assert data_folder() == data
    monkeypatch.setenv("DBYTE_DATA", str(data / "piqa" / "dev.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"\$DBYTE_DATA names '.*dev.jsonl', which is no folder.*unset it"):
        data_folder()
    for unset in ("", None):
        monkeypatch.setenv("DBYTE_DATA", unset) if unset is not None else monkeypatch.delenv("DBYTE_DATA")
        assert data_folder() is None


def test_text_of_ones_own_is_read_where_the_variable_names_a_folder_and_left_out_where_not(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text("A paragraph of my own.\n")
    monkeypatch.setenv(TEXT, str(tmp_path))
    assert presets.scale("real").corpora == presets.SCALES["real"].corpora
    found = [text for split in ("train", "heldout")
             for text in load_corpus_or_nothing(presets.scale("real").corpora[0][0], split)]
    assert found == ["A paragraph of my own."]
    monkeypatch.setenv(TEXT, str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"'\$DBYTE_TEXT' = .*gone \(working"):
        load_corpus(presets.scale("real").corpora[0][0])
    monkeypatch.delenv(TEXT)
    assert [name for name, _ in presets.scale("real").corpora] == ["pydocs"]
    (tmp_path / "mine.toml").write_text(f'base = "real"\ncorpora = [["file:${TEXT}", 1000]]\n')
    with pytest.raises(ValueError, match=r"scale mine trains on text of your own: set \$DBYTE_TEXT to a folder"):
        presets.scale(str(tmp_path / "mine.toml"))


def load_corpus_or_nothing(name, split):
    try:
        return load_corpus(name, split=split).documents
    except ValueError as error:
        assert "is empty" in str(error)
        return ()


# -- likeness ---------------------------------------------------------------------------------------------------------


def by_hand(teacher, token_bytes, scale):
    """KL from the teacher to a student with `scale` times its logits, and the tokens, one document at a time."""
    total, count = 0.0, 0
    for text in TEXTS:
        ids = [token_bytes.bos_token_id, *token_bytes.align(text).token_ids.tolist(), token_bytes.eos_token_id]
        with torch.no_grad():
            logits = teacher(torch.tensor([ids])).logits[0, :-1]
        log_p, log_q = logits.log_softmax(-1), (scale * logits).log_softmax(-1)
        total += (log_p.exp() * (log_p - log_q)).sum().item()
        count += len(ids) - 1
    return total / count, count


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_likeness_of_a_student_whose_logits_are_the_teachers_times_a_number(
        scale, any_teacher, tokenizer, token_bytes, rows, monkeypatch):
    student = make_student(any_teacher, tokenizer)
    Oracle(student, any_teacher, token_bytes, monkeypatch)
    student.token_head.weight = torch.nn.Parameter(scale * any_teacher.get_output_embeddings().weight.detach())
    found = likeness(student, any_teacher, rows)
    expected, count = by_hand(any_teacher, token_bytes, scale)
    assert found["n"] == count
    assert found["divergence"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found["agreement"] == 1 and found["agreement_stderr"] == 0 <= found["divergence_stderr"]
    assert (found["divergence"] > 0.01) == (scale != 1)


def test_likeness_of_an_untrained_student_is_low(student, teacher, rows):
    found = likeness(student, teacher, rows)
    assert found["divergence"] > 0.1 and found["agreement"] < 0.5 and found["divergence_stderr"] > 0


# -- a core that stays ------------------------------------------------------------------------------------------------


def test_a_core_at_rate_zero_is_in_no_optimiser_and_does_not_change(student):
    steps = curriculum(replace(TOY, stage1=TOY.stage1 | {"core_rate": 0.0}, stage2=TOY.stage2 | {"core_rate": 0.0}))
    core = {id(weight) for weight in student.core.parameters()}
    for step in steps:
        held = {id(weight) for optimiser in step.optimisers(student) for group in optimiser.param_groups
                for weight in group["params"]}
        assert held and not held & core
    moving = curriculum(TOY)[1].optimisers(student)
    assert core <= {id(weight) for optimiser in moving for group in optimiser.param_groups
                    for weight in group["params"]}


# -- Table 1 ----------------------------------------------------------------------------------------------------------


def test_columns_are_the_scales_benchmarks_on_their_first_items(data):
    scale = replace(TOY, benchmarks=("LMB", "PIQA"))
    teacher = teacher_run(TOY, seed=0)
    measurer = Measurer(scale, 0)
    found = measurer.columns(teacher, "token", items=2)
    assert [(name, result.n, result.chance) for name, result in found.items()] == [("LMB", 2, 0.0), ("PIQA", 2, 0.5)]
    assert measurer.columns(teacher, "token", items=3, only=["LMB"])["LMB"].n == 3
    assert list(under_noise.columns(scale)) == ["HellaS"]
    assert under_noise.chances(scale) == {"HellaS": 0.25, "average": 0.25}


def result(correct, chance):
    accuracy = sum(correct) / len(correct)
    stderr = math.sqrt(accuracy * (1 - accuracy) / (len(correct) - 1))
    return ColumnResult("", "acc", accuracy, stderr, len(correct), chance, tuple(correct), "")


def test_what_is_kept_above_chance_by_hand_and_a_column_near_chance_is_marked_and_left_out():
    right = [1] * 80 + [0] * 20
    found = {"teacher": {"A": result(right, 0.5), "B": result(right, 0.0), "C": result([1, 1, 0, 0] * 25, 0.5)},
             "student": {"A": result([1] * 65 + [0] * 35, 0.5), "B": result([1] * 60 + [0] * 40, 0.0),
                         "C": result([1] * 100, 0.5)}}
    rows = {(row["model"], row["task"]): row for row in real_teacher.kept_rows(found)}
    assert {task: rows["student", task]["near_chance"] for task in "ABC"} == {"A": "", "B": "", "C": "near chance"}
    assert rows["student", "A"]["kept"] == pytest.approx(100 * 65 / 80)
    assert rows["student", "A"]["above_chance"] == pytest.approx(100 * 15 / 30)
    assert rows["student", "B"]["above_chance"] == rows["student", "B"]["kept"] == pytest.approx(75)
    assert math.isnan(rows["student", "C"]["above_chance"]) and math.isnan(rows["student", "C"]["kept"])
    mean = rows["student", "average"]
    assert mean["value"] == pytest.approx(62.5) and mean["chance"] == pytest.approx(25) and mean["n"] == 200
    assert mean["above_chance"] == pytest.approx(100 * (62.5 - 25) / (80 - 25))
    assert mean["above_chance_low"] < mean["above_chance"] < mean["above_chance_high"]
    assert rows["teacher", "average"]["above_chance"] == 100


def test_a_model_that_is_asked_fewer_items_is_compared_on_these():
    found = {"teacher": {"A": result([1, 0] * 50, 0.0)}, "student": {"A": result([1, 0, 0, 0] * 5, 0.0)}}
    rows = {(row["model"], row["task"]): row for row in real_teacher.kept_rows(found)}
    assert rows["student", "A"]["kept"] == pytest.approx(50) and rows["student", "A"]["n"] == 20


def test_students_are_asked_fewer_items_where_nothing_can_be_kept():
    def columns(folder, reading, *, items=None, only=("A", "C")):
        n = items or 100
        return {task: result(([1, 0, 1, 1] if task == "A" else [1, 0]) * (n // len([1, 0])), 0.5) for task in only}

    measurer = SimpleNamespace(scale=SimpleNamespace(dynamics_items=20), columns=columns)
    found = real_teacher.answered(measurer, dict.fromkeys(real_teacher.MODELS, ("", "")))
    assert list(found) == list(real_teacher.MODELS)
    asked = {model: {task: one.n for task, one in of.items()} for model, of in found.items()}
    assert asked["teacher"]["A"] == asked["Stage 2"]["A"] > asked["after 1.1"]["A"]
    assert asked["teacher"]["C"] > asked["Stage 2"]["C"] == asked["after 1.1"]["C"]


def test_the_control_without_alignment_costs_as_many_flops():
    runs = run_steps(TOY, curriculum(TOY)[:2], seed=0)
    step = real_teacher.without_alignment(TOY, runs, teacher_run(TOY, seed=0), seed=0)
    align, distil = curriculum(TOY)[:2]
    assert distil.train_bytes < step.train_bytes < distil.train_bytes + align.train_bytes
    assert step.objective == distil.objective and step.groups == (align.groups[0], *distil.groups[1:])


def test_the_budget_of_the_control_depends_on_no_suffixes(monkeypatch):
    scale = replace(TOY, stage1=TOY.stage1 | {"boundary_loss": True})  # the router runs too
    teacher = teacher_run(TOY, seed=0)
    found = []
    for suffixes in {}, dict(suffix=True, router_suffixes=8):
        config = StudentConfig(core_config=AutoConfig.from_pretrained(teacher), **TOY.student, **suffixes)
        monkeypatch.setattr(ByteStudent, "from_pretrained", lambda _, config=config: SimpleNamespace(config=config))
        run = SimpleNamespace(model_folder="")
        found.append(real_teacher.without_alignment(scale, [run], teacher, seed=0).train_bytes)
    assert found[0] == found[1]
