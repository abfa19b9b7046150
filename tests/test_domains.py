"""Other text: cells share what they say they share, a tenth is a tenth, and words follow from numbers, both ways."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_curriculum import TOY
from test_report import write

from dbyte import presets
from dbyte.distill.curriculum import plan_steps
from dbyte.distill.data import training_corpora
from dbyte.distill.runs import read_json
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.bits import text_of
from dbyte.evaluate.stats import Estimate
from dbyte.model.blocks import Stack
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_tokenizer
from dbyte.presets import SCALES, Ablation
from dbyte.text.corpus import load_corpus
from dbyte.text.files import file_documents
from dbyte_paper import domains, equal_loss, other_texts, page
from dbyte_paper.domains import CODE, F1, KEPT, LENGTH, MIXED, PLAIN, PROSE, STAGE1
from dbyte_paper.other_texts import as_corpus, pieces, without_docstrings
from dbyte_paper.real_misses import pieces_of
from dbyte_paper.real_teacher import BITS, TEACHER
from dbyte_paper.results import read_if_any
from dbyte_paper.variants import encoder_scaling
from dbyte_paper.which_recipe import by_budget, drawn_on, leaders, which_recipe

TINY = dataclasses.replace(TOY, ablation=Ablation(step_bytes=16_384, batch_rows=2, items=4, seeds=1, doses=(1.0, 4.0)))
SOURCE = '"""Told."""\nimport os\n\n\ndef f(a):\n    """Also told,\n    at length.\n    """\n    return a  # kept\n'


# -- training text ----------------------------------------------------------------------------------------------------


def test_code_has_no_documentation_strings_and_is_cut_at_lines():
    assert without_docstrings(SOURCE) == "import os\n\n\ndef f(a):\n    return a  # kept\n"
    assert without_docstrings("def broken(:\n") == ""
    text = "".join(f"line {number}\n" for number in range(400)) + "x" * 3000
    cut = pieces(text)
    assert "\n".join(cut) == text and max(map(len, cut[:-1])) <= other_texts.PIECE and cut[-1] == "x" * 3000
    assert other_texts.first(["ab", "cd", "ef"], max_bytes=4) == ["ab", "cd"]
    assert other_texts.first(["abc", "d"], max_bytes=1) == ["abc"], "at least one"
    assert other_texts.in_turn([["a", "b"], ["c"], ["d", "e", "f"]]) == ["a", "c", "d", "b", "e", "f"]


def test_the_corpus_of_code_has_what_was_asked_for_twice_the_same():
    name = other_texts.code_corpus(60_000)
    assert name == other_texts.code_corpus.__wrapped__(60_000)
    corpus = load_corpus(name, max_bytes=60_000)
    assert 57_000 <= corpus.text_bytes <= 60_000
    assert sum("def " in text or "import " in text or " = " in text for text in corpus.documents) > 0.8 * len(corpus)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder with a Greek, a Hebrew and an English text, as $DBYTE_SCRIPTS."""
    words = {"greek": "η θάλασσα και ο ουρανός", "hebrew": "הים והשמים", "english": "the sea and the sky"}
    for name, text in words.items():
        lines = "\n".join(f"{number} {text} {number * 7}" for number in range(200))
        (tmp_path / f"{name}.txt").write_text(lines, encoding="utf-8")
    monkeypatch.setenv(other_texts.SCRIPTS, str(tmp_path))


def test_a_tenth_of_the_mixed_text_is_of_other_scripts_and_none_of_it_is_read(scripts):
    found = other_texts.scripts()
    assert other_texts.others(found) == ["greek", "hebrew"] and set(found) == {"greek", "hebrew", "english"}
    for trained, read in found.values():
        assert not {*trained} & {*read} and len("".join(trained)) / len("".join(trained + read)) == pytest.approx(
            2 / 3, abs=0.05)
    plain, mixed = other_texts.mixed_corpora((("world", 300_000),), found)
    sizes = [[corpus.text_bytes for corpus in training_corpora(dataclasses.replace(TINY, corpora=each), seed=0)]
             for each in (plain, mixed)]
    assert sizes[1][-1] / sum(sizes[1]) == pytest.approx(other_texts.TENTH, abs=0.01)
    assert sum(sizes[0]) == pytest.approx(sum(sizes[1]), rel=0.03), "equal text"
    (name, _) = mixed[-1]
    trained = "".join(file_documents(name.removeprefix("file:")))
    assert "sky" not in trained and "θάλασσα" in trained and "הים" in trained
    assert not [piece for _, read in found.values() for piece in read if piece in trained]
    large = (("world", 10**4),)
    assert sum(amount for _, amount in other_texts.mixed_corpora(large, found)[1]) == 10**4, "not more than there is"


def test_without_the_folder_there_are_no_scripts_and_with_ascii_alone_an_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv(other_texts.SCRIPTS, raising=False)
    assert other_texts.scripts() == {}
    (tmp_path / "english.txt").write_text("the sea\n" * 400)
    monkeypatch.setenv(other_texts.SCRIPTS, str(tmp_path))
    with pytest.raises(ValueError, match=r"\$DBYTE_SCRIPTS must name a folder.*found \['english'\]"):
        domains.script_students(TINY, seed=0, seeds=[0])


def test_kinds_of_text_are_prose_code_tables_mail_and_other_languages_where_they_are(scripts, tmp_path, monkeypatch):
    assert list(other_texts.kinds(TINY, seed=0)) == ["prose", "code", "tables", "mail", "other languages"]
    monkeypatch.delenv(other_texts.SCRIPTS)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine.txt").write_text("x = 1\n\n\ny = 2\n")
    monkeypatch.setenv(other_texts.OF_CODE, str(folder))
    found = other_texts.kinds(TINY, seed=0)
    assert list(found) == ["prose", "code", "tables", "mail"] and "".join(found["code"]).startswith("x = 1")
    assert all(sum(len(text.encode()) for text in each[:-1]) <= TINY.heldout_bytes // 4 for each in found.values())
    assert any("|" in text for text in found["tables"]) and any("Subject:" in text for text in found["mail"])


# -- four students ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora():
    texts = [f"def f_{number}(a):\n    return a * {number} + {number % 7}\n" for number in range(400)]
    return {PROSE: (("world", 12_000),), CODE: ((as_corpus("code", texts), 12_000),)}


@pytest.fixture(scope="module")
def known(corpora):
    return domains.taught(TINY, tuple(one for each in corpora.values() for one in each), seed=0)


@pytest.fixture(scope="module")
def cells(known, corpora):
    return domains.crossed(known, corpora, domains.short_steps(TINY), seed=0, teacher_seed=0)


def test_the_teacher_is_the_scales_own_taught_further_with_its_tokenizer(known):
    taught = read_json(Path(known.teacher).parent / "config.json")
    assert "first" in taught and taught["step"]["train_bytes"] == domains.largest_dose(TINY) == 65_536
    first = teacher_run(TINY, seed=0)
    assert load_tokenizer(first).get_vocab() == load_tokenizer(Path(known.teacher)).get_vocab()
    assert first != Path(known.teacher)


def test_off_the_diagonal_a_student_continues_the_stage_1_of_its_domain_on_the_rows_of_the_other(cells, known, corpora):
    assert set(cells) == {(PROSE, PROSE), (PROSE, CODE), (CODE, PROSE), (CODE, CODE)}
    for (first, second), runs in cells.items():
        assert [run.hash for run in runs[:3]] == [run.hash for run in cells[first, first][:3]]
        assert runs[3].parent.hash == runs[2].hash and runs[4].parent.hash == runs[3].hash
        assert {run.config["data"] for run in runs[3:]} == {cells[second, second][0].config["data"]}
        assert [run.facts()["next_row"] for run in runs] == [run.facts()["next_row"] for run in cells[PROSE, PROSE]]
        assert ByteStudent.from_pretrained(runs[4].model_folder).config.stage == 2
    assert len({runs[4].hash for runs in cells.values()}) == 4
    diagonal = plan_steps(domains.of_domain(known, corpora[CODE]), domains.short_steps(TINY), seed=0)
    assert [one.run.hash for one in diagonal] == [run.hash for run in cells[CODE, CODE]], "the address of any student"


def test_all_cells_read_equal_bytes_and_stage_2_moves_them_apart(cells):
    sizes = [[run.facts()["train_bytes"] for run in runs] for runs in cells.values()]
    assert all(one == sizes[0] for one in sizes) and sizes[0][0] == 2 * sizes[0][1] == 8192
    one, other = (ByteStudent.from_pretrained(cells[PROSE, second][4].model_folder).state_dict()
                  for second in (PROSE, CODE))
    assert not torch.equal(one["byte_head.weight"], other["byte_head.weight"])


def test_readings_become_rows_of_every_student_text_and_measure(cells, known, corpora):
    texts = {name: texts[:6] for name, texts in domains.domain_texts(TINY, corpora, seed=0).items()}
    models = domains.students([cells])
    read = domains.read_all(known, models, texts)
    rows = pd.DataFrame(domains.read_rows(known, read, texts))
    assert not rows.duplicated(["model", "corpus", "measure"]).any() and rows["value"].notna().all()
    assert set(rows.model) == {TEACHER, "prose, then code", "code, then prose", "prose, then prose", "code, then code",
                               f"prose, {STAGE1}", f"code, {STAGE1}"}
    assert len(rows) == 6 * 2 * 3 + 2 * 2 and set(rows.measure) == {BITS, F1, LENGTH}
    moved = pd.DataFrame(domains.transfer_rows(read))
    keys = list(zip(moved.corpus, moved.instead, moved.after, moved.measure, strict=True))
    assert len(set(keys)) == len(keys) == 8 and not (moved.corpus == moved.instead).any()
    ours, theirs = (read[first, STAGE1, CODE][0][BITS]["value"] for first in (PROSE, CODE))
    row = moved[(moved.corpus == CODE) & (moved.after == STAGE1) & (moved.measure == BITS)].iloc[0]
    assert row.value == pytest.approx(100 * (ours / theirs - 1)) and row.low < row.value < row.high
    kept = domains.kept_rows(known, corpora[PROSE], dict(list(models.items())[:1]), seed=0)
    assert [(row["model"], row["corpus"], row["measure"]) for row in kept] == [(f"prose, {STAGE1}", PROSE, KEPT)]
    assert kept[0]["low"] <= kept[0]["value"] <= kept[0]["high"]


# -- numbers by hand --------------------------------------------------------------------------------------------------


def reading(nats, f1):
    return [{BITS: {"nats_P": list(nats)}, F1: Estimate(f1, 1.0, 50)}]


def test_the_cost_of_other_scripts_is_over_all_their_pieces_and_the_spread_of_scripts():
    read = {(PLAIN, STAGE1, "a"): reading([30, 33], 60), (PLAIN, STAGE1, "b"): reading([63], 80),
            (MIXED, STAGE1, "a"): reading([20, 20], 80), (MIXED, STAGE1, "b"): reading([44], 90)}
    bits, points = domains.script_transfer_rows(read, ["a", "b"])
    assert bits["value"] == pytest.approx(100 * (126 / 84 - 1)) and bits["n"] == 3 and bits["verdict"] == "shown"
    assert points["value"] == pytest.approx(15) and points["stderr"] == pytest.approx(np.std([20, 10], ddof=1) / 2**0.5)
    assert (bits["measure"], points["measure"]) == (BITS, F1) and bits["seeds"] == 1


def test_errors_are_over_pieces_with_one_seed_and_over_both_with_several():
    one = domains.compared([Estimate(5.0, 1.0, 9)])
    assert (one["low"], one["high"]) == pytest.approx((5 - 1.96, 5 + 1.96)) and one["verdict"] == "shown"
    several = domains.compared([Estimate(3.0, 1.0, 9), Estimate(7.0, 1.0, 9)])
    assert several["value"] == 5 and several["high"] - 5 > 12.7 * 2, "Student's t of two seeds"
    assert several["verdict"] == "not shown"
    assert domains.compared([Estimate(5.0, math.nan, 1)])["verdict"] == ""
    assert domains.over_seeds([Estimate(3.0, 1.0, 9)])["stderr"] == 1.0


def test_the_bytes_for_a_loss_are_read_off_by_hand():
    curve = [(4e6, 1.0), (1e6, 4.0)]  # a straight line between logarithms: twice the bytes, half the loss
    assert equal_loss.bytes_at(curve, 2.0) == (pytest.approx(2e6), "")
    assert equal_loss.bytes_at(curve, 4.0) == (1e6, "") and equal_loss.bytes_at(curve, 5.0) == (1e6, equal_loss.BELOW)
    assert equal_loss.bytes_at(curve, 1.0) == (pytest.approx(4e6), "")
    assert equal_loss.bytes_at(curve, 0.5) == (4e6, equal_loss.ABOVE)
    assert equal_loss.bytes_at([(1.0, 4.0), (2.0, 5.0), (4.0, 1.25)], 2.5)[0] == pytest.approx(2 * 2**0.5)
    with pytest.raises(ValueError, match="positive losses"):
        equal_loss.bytes_at(curve, 0.0)


def test_equal_loss_is_the_least_that_all_reach():
    budgets = pd.DataFrame([{"model": name, "train_bytes": size, "value": value} for name, values in
                            {"fast": (2.0, 1.0, 0.5), "slow": (8.0, 4.0, 2.0), "best": (1.0, 0.5, 0.2)}.items()
                            for size, value in zip((1e6, 2e6, 4e6), values, strict=True)])
    rows = {row["model"]: row for row in equal_loss.equal_loss_rows(budgets)}
    assert {row["loss"] for row in rows.values()} == {2.0}
    assert [(rows[name]["value"], rows[name]["side"]) for name in ("slow", "fast", "best")] == [
        (pytest.approx(4e6), ""), (1e6, ""), (1e6, equal_loss.BELOW)]
    accuracy = pd.DataFrame([{"model": "slow", "train_bytes": size, "value": value} for size, value in
                             ((1e6, 20.0), (4e6, 40.0))])
    there = equal_loss.with_accuracy([rows["slow"], rows["slow"] | {"value": 2e6}], accuracy)
    assert [row["accuracy"] for row in there] == pytest.approx([40, 30]), "half way, by logarithms"


def test_curves_are_losses_of_the_last_tenth_by_seed_and_budget():
    class Log:
        def __init__(self, last):
            self.losses = [9.0] * 18 + [last, last + 2]

        def metrics(self):
            return [{"loss": loss} for loss in self.losses]

    by_budget = {100: {"a": [[Log(9), Log(3)], [Log(4)]]}, 400: {"a": [[Log(1)], [Log(0)]]}}
    assert equal_loss.curves(by_budget, "a") == [[(100, 4.0), (400, 2.0)], [(100, 5.0), (400, 1.0)]]


@pytest.mark.parametrize("name", ["smoke", "small"])
def test_encoders_of_one_depth_are_as_large_and_read_three_budgets(name):
    scale = SCALES[name]
    rows = encoder_scaling(scale)
    assert len({row.name for row in rows}) == len(rows) == 18
    by_name = {row.name: row for row in rows}
    assert {row.steps[0].objective.name for row in rows} == {"align"} and all(len(row.steps) == 1 for row in rows)
    most = max(domains.largest_dose(scale), scale.stage1["align_bytes"])
    assert sorted({row.steps[0].train_bytes for row in rows}) == [round(most / part) for part in (24, 12, 6)]
    assert len({row.steps[0].updates(scale.batch_rows * scale.row_bytes) for row in rows}) == 3
    for layers in (1, 2, 4):
        shapes = [StudentConfig(**{**scale.student, **row.student}).encoder_shape() for row in by_name.values()
                  if row.student["encoder_layers"] == layers]
        with torch.device("meta"):
            sizes = [sum(weight.numel() for weight in Stack(shape).parameters()) for shape in shapes]
        assert max(sizes) / min(sizes) < 1.01


# -- words ------------------------------------------------------------------------------------------------------------


def transfer(**verdicts):
    """Rows of transfer: Stage 1 alone and after Stage 2 for each text; values that belong to the verdicts."""
    ends = {"shown": (4.0, 8.0), "opposite": (-8.0, -4.0), "equal": (-1.0, 1.0), "not shown": (-5.0, 9.0)}
    rows = []
    for corpus, (alone, later) in verdicts.items():
        for after, verdict in ((STAGE1, alone), ("Stage 2", later)):
            low, high = ends[verdict]
            row = {"corpus": corpus, "instead": CODE if corpus == PROSE else PROSE, "after": after,
                   "value": (low + high) / 2, "low": low, "high": high, "verdict": verdict}
            rows += [row | {"measure": BITS}, row | {"measure": F1, "verdict": "opposite"}]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("prose, code, begins, ends", [
    (("shown", "shown"), ("shown", "shown"), "Alignment is bound to its text: of 2 changes of the text of Stage 1 2",
     "So Stage 2 does not make up for it on prose and code."),
    (("shown", "equal"), ("shown", "opposite"), "Alignment is bound to its text:", "makes up for it, as far as"),
    (("equal", "equal"), ("opposite", "equal"), "Alignment is not bound to its text: of 2 changes of the text of "
     "Stage 1 0 cost bits.", "the same change costs next to nothing (+0.0 %, 95 %: -1.0 to +1.0)."),
    (("equal", "equal"), ("not shown", "equal"), "Whether alignment is bound to its text cannot be told", ""),
    (("equal", "equal"), ("shown", "shown"), "Alignment is bound to its text in part, on code:",
     "So Stage 2 does not make up for it on code."),
])
def test_the_paragraph_says_what_the_numbers_say(prose, code, begins, ends):
    said = domains.is_alignment_bound(transfer(prose=prose, code=code))
    assert said.startswith(begins) and ends in said
    if prose[0] == "shown":
        assert "Stage 1 on code text instead, read on prose, costs 6.0 % of bits per byte (+6.0 %, 95 %: +4.0" in said
    if code[0] == "opposite":
        assert "read on code, saves 6.0 %" in said


def test_rows_of_scripts_are_a_change_of_text_too():
    frame = transfer(prose=("equal", "equal"), code=("equal", "equal"))
    more = frame.iloc[:1].assign(corpus="other scripts", instead=PLAIN, value=50.0, low=40.0, high=60.0,
                                 verdict="shown")
    said = domains.is_alignment_bound(pd.concat([frame, more]))
    assert said.startswith("Alignment is bound to its text in part, on other scripts: of 3 changes")
    assert "Stage 1 on plain text instead, read on other scripts, costs 50.0 %" in said and "So Stage 2" not in said


def test_the_worst_pieces_are_those_with_most_beyond_the_teacher():
    texts = [b"abcd", b"a\tb\n", b"xy", "é".encode()[:1] + b"b"]
    teacher = {"nats_P": [4.0, 4.0, 2.0, 2.0]}
    ours = {"nats_P": [5.0, 12.0, 8.0, 2.0]}
    rows = list(domains.worst_rows(ours, teacher, texts))
    assert [(row["place"], row["text"]) for row in rows] == [(1, "xy"), (2, "a\\tb\\n"), (3, "abcd")]
    assert rows[0]["value"] == pytest.approx(3 / math.log(2)) and rows[0]["n"] == 2
    assert rows[0]["student"] - rows[0]["teacher"] == pytest.approx(rows[0]["value"])


def test_a_student_is_read_on_every_kind_beside_its_teacher(student, teacher, tokenizer, tmp_path):
    for name, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    models = {TEACHER: (tmp_path / "teacher", "token"), "Stage 1": (tmp_path / "student", "stage1/tokenizer"),
              "Stage 2": (tmp_path / "student", "stage2/router")}
    kinds = {"tables": ["| a | 1 |\n| b | 2 |" * 20], "mail": ["Dear Mira,\nthe cat sat.\n" * 12]}
    rows, worst = domains.broken_rows(models, kinds)
    frame = pd.DataFrame(rows).set_index(["kind", "model"])
    assert len(frame) == 6 and (frame.xs(TEACHER, level="model")["more"] == 0).all()
    for kind, model in frame.index:
        share = 100 * (frame.at[(kind, model), "value"] / frame.at[(kind, TEACHER), "value"] - 1)
        assert frame.at[(kind, model), "more"] == pytest.approx(share)
    assert all(len(text_of(piece)) <= domains.EXAMPLE for piece in pieces_of(tmp_path / "teacher", kinds["mail"],
                                                                            row_bytes=domains.EXAMPLE))
    assert {(row["kind"], row["model"]) for row in worst} == {(kind, model) for kind in kinds
                                                              for model in ("Stage 1", "Stage 2")}
    said = domains.where_it_breaks(pd.DataFrame(rows))
    most = frame.xs("Stage 2", level="model")["more"].idxmax()
    assert f"Stage 2: most beyond the teacher on {most}" in said and TEACHER + ":" not in said


# -- which recipe -----------------------------------------------------------------------------------------------------

FEW, MANY = 10**6, 4 * 10**6
CURVES = {"swift": {FEW: 2.0, MANY: 1.9}, "steady": {FEW: 2.4, MANY: 1.92}, "slow": {FEW: 3.0, MANY: 2.5}}


def bits_rows(curves=CURVES, *, stderr=0.02):
    rows = [{"model": name, "budget": size, "corpus": corpus, "value": value + more, "stderr": stderr, "n": 40,
             "train_bytes": size} for name, points in curves.items() for size, value in points.items()
            for corpus, more in (("world", -0.1), ("pydocs", 0.1))]
    on_the_way = [row | {"model": "Stage 1", "value": 0.1, "train_bytes": row["budget"] // 2} for row in rows[:2]]
    return rows + on_the_way


def accuracy_rows():
    return [{"model": name, "budget": size, "task": task, "value": value, "stderr": 1.0, "n": 100, "train_bytes": size}
            for name, value in (("swift", 40.0), ("steady", 60.0), ("slow", 20.0))
            for size in (FEW, MANY) for task in ("LMB", "PIQA")]


def told(tmp_path, bits=None, scores=None, real=None):
    for name, rows, key, scale in (("recipes_bits", bits, "corpus", "small"), ("recipes_dose", scores, "task", "small"),
                                   ("recipes_bits", real, "corpus", "real")):
        if rows:
            write(tmp_path, rows, name=name, scale=scale, keys=["model", "budget", key])
    read, of_real = (partial(read_if_any, scale=scale, folder=tmp_path) for scale in ("small", "real"))
    return list(which_recipe(read, of_real))


def test_before_notebook_11_has_run_the_page_says_so_in_a_sentence(tmp_path):
    heading, said = told(tmp_path)
    assert heading == "## Which recipe should I use?" and said.startswith("Not measured yet: notebook 11")


def test_each_of_three_readers_gets_the_recipe_of_its_bytes(tmp_path):
    _, _, table, none, one, eight = told(tmp_path, bits_rows(), accuracy_rows())
    assert "| no GPU | 1 MB | swift (2.000 ± 0.014) | steady (60.0 ± 0.7) |" in table
    assert "| one GPU | 4 MB | swift (1.900 ± 0.014), steady (1.920 ± 0.014) | steady (60.0 ± 0.7) |" in table
    assert none.startswith("**No GPU.** Take `swift`, of 3 recipes.")
    assert "not tell it apart from steady" in one and "scale `real`) the recipes were not compared yet" in one
    assert "`steady` is ahead" in eight and "It is ahead at the largest budget too." in eight and "a guess" in eight
    assert "Stage 1" not in table, "it writes tokens, on fewer bytes"


def test_opposite_numbers_give_opposite_advice(tmp_path):
    turned = {"swift": CURVES["slow"], "steady": CURVES["steady"], "slow": CURVES["swift"]}
    real = bits_rows({"steady": {MANY: 1.0}, "slow": {MANY: 1.5}})
    _, _, table, none, one, _ = told(tmp_path, bits_rows(turned, stderr=0.001), real=real)
    assert "Take `slow`, of 3 recipes." in none and "not measured" in table
    assert "Take `slow`, of 3 recipes." in one and "at 4 MB: Take `steady`, of 2 recipes." in one


def test_curves_are_drawn_on_between_logarithms_and_one_budget_is_no_curve(tmp_path):
    means = by_budget(pd.DataFrame(bits_rows({"a": {10: 4.0, 100: 2.0}, "b": {10: 2.0, 100: 1.9}})), "corpus")
    assert drawn_on(means, [10, 100]) == {"a": pytest.approx(1.0), "b": pytest.approx(1.9 * 0.95)}
    *_, eight = told(tmp_path, bits_rows({"a": {10: 4.0}, "b": {10: 2.0}}))
    assert "no curve can be drawn on" in eight


def test_a_mean_is_of_all_corpora_or_not_taken_and_leaders_are_within_two_errors():
    rows = bits_rows({"a": {10: 2.0}, "b": {10: 1.0}})
    assert set(by_budget(pd.DataFrame(rows[:3]), "corpus")[10]) == {"a"}
    means = {"a": Estimate(1.0, 0.1, 5), "b": Estimate(1.25, 0.1, 5), "c": Estimate(1.3, 0.1, 5)}
    assert leaders(means, lowest=True) == ["a", "b"] and leaders(means, lowest=False) == ["c", "b"]


def test_the_report_has_the_page(tmp_path):
    keys = ["model", "budget", "corpus"]
    write(tmp_path / "results", bits_rows(), name="recipes_bits", scale="small", keys=keys)
    folders = dict(results=tmp_path / "results", figures=tmp_path / "figures")
    assert page.report(presets.scale("small"), write=True, **folders)
    text = (tmp_path / "results" / "REPORT.md").read_text()
    assert text.index("## What is kept") < text.index("## Which recipe should I use?") < text.index("## Cost")
    assert "**Eight GPUs.**" in text
