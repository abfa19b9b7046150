"""Tables 6 to 8 from answers: clean text is no noise, Eq. 5 by hand, and claims that are judged over items."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dbyte.evaluate import stats
from dbyte.presets import scale
from dbyte.text.perturb import KINDS
from dbyte_paper import under_noise
from dbyte_tasks.world import full as full_world


def found(clean, noisy, *, n=200, seed=0, tasks=("A", "B")):
    """Answers right with these probabilities, the noisy ones thirds, as of three places."""
    rng = np.random.default_rng(seed)
    return {task: {"clean": rng.binomial(1, clean, n).astype(float)} | {
        kind: rng.binomial(3, noisy, n) / 3 for kind in KINDS} for task in tasks}


CHANCE = {"A": 0.25, "B": 0.5, "average": 0.375}


def test_columns_have_a_chance_level_and_follow_the_corpora():
    small = under_noise.columns(scale("small"))
    assert list(small) == ["PIQA", "ARC-E", "Prose"] and all(column.chance > 0 for column in small.values())
    full = dataclasses.replace(scale("small"), corpora=((full_world.NAME, 10**6),))
    assert list(under_noise.columns(full))[0] == "HellaS"


def test_rows_are_means_over_items_and_eq_5_by_hand():
    answers = {"A": {"clean": np.array([1.0, 1, 1, 0])} | {kind: np.array([1.0, 0.5, 0.5, 0]) for kind in KINDS}}
    rows = {row["kind"]: row for row in under_noise.noise_rows("m", answers, CHANCE) if row["task"] == "A"}
    assert rows["clean"]["value"] == 75 and rows["drop"]["value"] == rows["noise average"]["value"] == 50
    assert set(rows) == {"clean", *KINDS, "noise average"}
    assert rows["clean"]["stderr"] == pytest.approx(100 * stats.proportion([1, 1, 1, 0]).stderr)
    scores = {row["task"]: row for row in under_noise.score_rows("m", answers, CHANCE | {"average": 0.25})}
    assert scores["A"]["value"] == pytest.approx(50) and scores["A"]["delta"] == pytest.approx(25)
    assert scores["A"]["low"] <= 50 <= scores["A"]["high"]


def test_columns_weigh_alike_in_their_average_and_variances_add_up():
    answers = {"A": {kind: np.ones(10) for kind in ("clean", *KINDS)},
               "B": {kind: np.array([1.0, 0.0] * 50) for kind in ("clean", *KINDS)}}
    rows = {(row["task"], row["kind"]): row for row in under_noise.noise_rows("m", answers, CHANCE)}
    both = rows["average", "clean"]
    assert both["value"] == 75 and both["n"] == 110 and both["chance"] == 37.5
    assert both["stderr"] == pytest.approx(np.hypot(rows["A", "clean"]["stderr"], rows["B", "clean"]["stderr"]) / 2)
    assert rows["A", "clean"]["stderr"] > 0, "ten right answers do not prove that all would be"


def test_a_model_at_chance_has_no_score():
    assert not under_noise.score_rows("m", found(0.1, 0.1), CHANCE)


def test_a_rounding_error_above_chance_is_no_accuracy_above_chance():
    """A third of three columns is not exactly their mean, and Eq. 5 must not divide by the difference."""
    tasks = {name: {kind: np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0]) for kind in ("clean", *KINDS)} for name in "abc"}
    assert not under_noise.score_rows("m", tasks, dict.fromkeys((*"abc", "average"), 0.1 + 0.1))
    tasks["a"]["clean"] = np.ones(10)
    rows = under_noise.score_rows("m", tasks, dict.fromkeys((*"abc", "average"), 0.2))
    assert rows and all(abs(row[end]) < 1e4 for row in rows for end in ("low", "high"))


def test_the_interval_of_eq_5_covers_the_truth():
    hits = 0
    for trial in range(100):
        (row,) = [row for row in under_noise.score_rows("m", found(0.8, 0.5, seed=trial, tasks=("A",)), CHANCE | {
            "average": 0.25}) if row["task"] == "A"]
        hits += row["low"] <= 100 * 0.25 / 0.55 <= row["high"]
    assert 88 <= hits <= 100


def test_claims_are_judged_and_deltas_compared_item_by_item():
    robust, weak = found(0.9, 0.8), found(0.9, 0.5, seed=1)
    rows = under_noise.robustness_claims(robust, robust, weak, within=3)
    verdicts = {(row["what"], row["task"]): row["verdict"] for row in rows}
    assert verdicts["Stage 1 - teacher, noise average", "average"] == "shown"
    assert verdicts["Stage 1 - teacher, antspeak", "average"] == "equal", "the same answers"
    assert verdicts["Stage 2 - Stage 1, noise average", "A"] == verdicts["Stage 2 - Stage 1, Delta", "A"] == "shown"
    (row,) = [row for row in rows if (row["what"], row["task"]) == ("Stage 2 - Stage 1, Delta", "A")]
    cost = [np.mean(one["A"]["clean"]) - np.mean(under_noise.of("noise average", one)["A"]) for one in (weak, robust)]
    assert row["value"] == pytest.approx(100 * (cost[0] - cost[1])) and row["n"] == 200


class Counted:
    """A measurer that knows what it was asked, and answers right where nothing is perturbed."""

    scale, seed = scale("smoke"), 3

    def __init__(self):
        self.asked = []

    def column(self, folder, reading, column, *, items, noise=None):
        self.asked.append((column.name, noise and (noise.kind, noise.place, noise.seed)))
        right = noise is None or noise.place == "prompt"
        return type("Result", (), {"correct": (int(right),) * items})


def test_every_perturbation_is_asked_in_every_place_and_averaged():
    measurer = Counted()
    answers = under_noise.answers(measurer, Path(), "token", items=4)
    assert len(measurer.asked) == len(set(measurer.asked)) == len(answers) * (1 + 5 * 3)
    assert all(noise is None or noise[2] == 3 for _, noise in measurer.asked)
    for kinds in answers.values():
        assert kinds["clean"].tolist() == [1.0] * 4 and kinds["drop"].tolist() == pytest.approx([1 / 3] * 4)
    assert len(under_noise.first(answers, 2)["PIQA"]["drop"]) == 2
