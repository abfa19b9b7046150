"""Stage 2 from what the teacher says, against its bytes: equal bytes after one Stage 1, and the goals by hand."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from dbyte.evaluate.harness import ColumnResult
from dbyte.presets import SCALES
from dbyte_paper import stage2_targets as targets
from dbyte_paper.baselines import STAGE1
from dbyte_tasks.column import Marks

SMALL = SCALES["small"]


def test_all_rows_share_stage_1_and_have_equal_bytes_of_stage_2():
    rows = [targets.at_bytes(variant, 1_000_003) for variant in targets.rows(SMALL)]
    assert [row.name for row in rows] == ["labels", "tokens", "dense", "mixed", targets.PRIOR]
    assert len({row.steps[: targets.SINCE] for row in rows}) == 1
    assert rows[0].steps[: targets.SINCE] == targets.rows(SMALL)[0].steps[: targets.SINCE]
    assert {sum(step.train_bytes for step in row.steps[targets.SINCE :]) for row in rows} == {1_000_003}
    assert {row.steps[targets.SINCE].train_bytes for row in rows} == {400_001}  # two of five parts, in all rows
    assert set(targets.JUDGED) < {row.name for row in rows}


def column(*marks):
    return {"A": ColumnResult("A", "acc", sum(marks) / len(marks), 0.0, len(marks), 0.25, Marks(marks), "")}


def test_a_drop_is_less_than_half_where_the_row_is_above_halfway():
    """By hand: of 8 items the teacher has 8, labels 4, so halfway is 6: a row with 7 is 12.5 points above it."""
    teacher = column(*[1.0] * 8)
    measured = {"labels": [column(*[1.0] * 4, *[0.0] * 4)], "dense": [column(*[1.0] * 7, 0.0)], STAGE1: [teacher]}
    (row,) = targets.goal_rows(measured, teacher, 5)
    assert row["what"].startswith("dense") and row["train_bytes"] == 5
    assert (row["value"], row["drop"], row["drop_of_labels"]) == (12.5, 12.5, 50.0)
    assert row["low"] < row["value"] < row["high"] and row["verdict"] in ("shown", "not shown")
    (row,) = targets.goal_rows(measured | {"labels": [teacher]}, teacher, 5)
    assert row["verdict"] == "", "nothing was lost"


def test_excess_bits_are_a_share_of_those_of_the_paper_and_none_where_a_row_has_none():
    """By hand: 0.1 and 0.4 bits above a teacher of 1, labels 0.4 and 0.4: shares 25 and 100, in the mean of logs 50."""
    bits = pd.DataFrame([{"model": model, "corpus": "c", "budget": 7, "by_seed": values} for model, values in (
        ("labels", "1.4 1.4"), ("dense", "1.1 1.4"), ("tokens", "0.9 1.2"), (STAGE1, "1.5 1.5"))])
    (row,) = targets.excess_rows(bits, {"c": 1.0})
    assert row["what"] == "dense" and row["value"] == pytest.approx(50) and row["train_bytes"] == 7
    assert row["low"] < 50 < row["high"] and row["seeds"] == 2 and row["verdict"] == "not shown"
    bits["by_seed"] = bits["by_seed"].str.split().str[0]
    (row,) = targets.excess_rows(bits[bits["model"] != "tokens"], {"c": 1.0})
    assert row["value"] == pytest.approx(25) and math.isnan(row["low"]) and row["verdict"] == "", "one seed"


def test_bytes_for_equal_bits_are_over_the_budgets_of_all_seeds_and_over_all_budgets_by_one():
    """By hand: at 1.5 bits labels need 4 MB and dense 1; by the first seed alone, with one budget more, 16 and 1."""
    bits = pd.DataFrame([{"model": model, "corpus": "c", "train_bytes": size, "budget": size, "by_seed": values}
                         for model, size, values in (
                             ("labels", 1e6, "3 3"), ("labels", 4e6, "1.5 1.5"), ("labels", 16e6, "1.2"),
                             ("dense", 1e6, "1.5 1.5"), ("dense", 4e6, "1.4 1.4"), ("dense", 16e6, "1.2"),
                             ("tokens", 1e6, "9 9"), (STAGE1, 1e6, "9 9"))])
    two, one = targets.ratio_rows(bits)
    assert {row["what"] for row in (two, one)} == {"labels / dense"}
    assert (two["value"], two["seeds"], two["budgets"]) == (pytest.approx(4), 2, 2) and two["verdict"] == "shown"
    assert (one["value"], one["seeds"], one["budgets"]) == (pytest.approx(1), 1, 3)
    assert math.isnan(one["low"]) and one["verdict"] == ""


def test_each_arm_says_its_bytes_and_rate_and_stage_1_has_read_none_of_them():
    arms = targets.arms({"labels": 3.0, "dense": 1.0}, 9)
    assert arms["labels"] == {"train_bytes": 9, "budget": 9, "rate": 3.0, "sweep": "1/3 1 3"}
    assert (arms[STAGE1]["train_bytes"], arms[STAGE1]["budget"]) == (0, 9) and not math.isnan(arms[STAGE1]["rate"])


def test_students_continue_one_stage_1_at_their_rates(monkeypatch):
    """A run for each step; what is trained is asked of `run_variant`, which other tests run."""
    asked = []
    monkeypatch.setattr(targets, "run_variant", lambda scale, variant, *, seed, teacher_seed: asked.append(
        (variant.name, variant.rate, seed, teacher_seed)) or [SimpleNamespace(step=step) for step in variant.steps])
    trained = targets.train(SMALL, {"labels": 3.0, "dense": 1.0}, 1_000_000, seed=4, students=2)
    assert asked == [("labels", 3.0, 4, 4), ("labels", 3.0, 5, 4), ("dense", 1.0, 4, 4), ("dense", 1.0, 5, 4)]
    assert [len(runs) for runs in trained[STAGE1]] == [3, 3] and len(trained["labels"][0]) == 5
