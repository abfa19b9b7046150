"""Appendix A's tables and figure show every number that was measured, and the paper's next to it."""

import numpy as np
import pandas as pd
import pytest

from dbyte.evaluate import under_noise
from dbyte.report import figures, tables
from dbyte.report.published import published
from dbyte.text.perturb import KINDS

MODELS = ("teacher", "stage1", "stage2")
CHANCE = {"ARC-E": 0.25, "Prose": 0.25, "average": 0.25}


def answers(seed):
    rng = np.random.default_rng(seed)
    return {task: {kind: rng.binomial(1, 0.8, 40).astype(float) for kind in ("clean", *KINDS)}
            for task in ("ARC-E", "Prose")}


FOUND = {model: answers(seed) for seed, model in enumerate(MODELS)}
ACCURACY = pd.DataFrame([row for model in MODELS for row in under_noise.noise_rows(model, FOUND[model], CHANCE)])
SCORES = pd.DataFrame([row for model in MODELS for row in under_noise.score_rows(model, FOUND[model], CHANCE)])


def test_a_row_a_task_and_perturbation_the_average_last():
    table = tables.by_noise(ACCURACY, models=MODELS)
    assert len(table) == 3 * 7 and list(table)[2:5] == list(MODELS) and set(table.task[-7:]) == {"average"}
    cell = ACCURACY[(ACCURACY.model == "stage1") & (ACCURACY.task == "Prose") & (ACCURACY.kind == "drop")].iloc[0]
    shown = table[(table.task == "Prose") & (table.noise == "drop")].iloc[0]
    assert shown["stage1"] == f"{cell.value:.1f} ± {cell.stderr:.1f}"


@pytest.mark.parametrize("name, columns", [
    ("table06_robustness", {"teacher": "llama-3.2-3b/baseline", "stage1": "llama-3.2-3b/stage1"}),
    ("table07_boundary_optimization", {"stage1": "trim data"}),
    ("table08_perturbed_finetuning", {"teacher": "finetuned/token"}),
])
def test_ours_are_next_to_every_metric_that_the_paper_prints(name, columns):
    table, paper = tables.robustness_with_paper(name, columns, ACCURACY, SCORES), published(name).set_index("metric")
    assert set(paper.index) <= set(table.metric)
    for row in table.to_dict("records"):
        for ours, theirs in columns.items():
            printed = paper.at[row["metric"], theirs] if row["metric"] in paper.index else float("nan")
            assert row[f"paper, {ours}"] == pytest.approx(printed, nan_ok=True)
            assert not np.isnan(row[f"ours, {ours}"])


def test_a_score_that_is_not_defined_is_left_empty():
    columns = {"teacher": "qwen3-4b/baseline"}
    table = tables.robustness_with_paper("table06_robustness", columns, ACCURACY, SCORES.iloc[:0])
    assert table.set_index("metric")["ours, teacher"].isna().sum() == 2


def test_every_accuracy_is_drawn_at_its_place_with_its_chance():
    figure = figures.robustness_figure(ACCURACY)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ARC-E", "Prose", "average"]
    for axes in figure.axes:
        for container, model in zip(axes.containers, MODELS, strict=True):
            part = ACCURACY[(ACCURACY.model == model) & (ACCURACY.task == axes.get_title(loc="left"))].set_index("kind")
            assert container.lines[0].get_xdata() == pytest.approx(part["value"][["clean", *KINDS]].to_numpy())
        assert axes.lines[0].get_xdata() == [25.0, 25.0]


def test_a_figure_without_one_of_the_three_is_refused():
    with pytest.raises(ValueError, match="stage2"):
        figures.robustness_figure(ACCURACY[ACCURACY.model != "stage2"])


def test_verdicts_keep_their_order_and_claim():
    rows = under_noise.robustness_claims(*FOUND.values(), within=3)
    table = tables.differences(pd.DataFrame(rows))
    assert len(table) == len(rows) == 5 * 3 and table.claimed[0] == "above -3"
    assert set(table.verdict) <= {"shown", "not shown", "opposite"}
