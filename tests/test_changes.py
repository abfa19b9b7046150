"""Transformed training text: no white space is left, all six kinds occur, labels are the tokens of what is read."""

import dataclasses
import unicodedata
from collections import Counter

import numpy as np
import pytest
from test_curriculum import TOY

from dbyte.distill import data
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.harness import evaluate_tasks, teacher_lm
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.noisy_lm import MIXED, Noise, NoisyLM
from dbyte.model.teacher import load_teacher
from dbyte.presets import Ablation
from dbyte.text.perturb import KINDS, perturb
from dbyte.text.spans import BOS
from dbyte_paper.variants import (
    boundary_learning,
    perturbed_step,
    perturbed_students,
    run_variant,
    second_dose,
    tuned_teacher,
)
from dbyte_tasks import minibench

TOY = dataclasses.replace(TOY, ablation=Ablation(8_000, 2, 4, 1))
SPACES = [b for b in range(BOS) if chr(b).isspace() and b < 128]


def test_trimmed_text_has_no_white_space_of_any_script():
    assert data.trimmed(" a\tb\u00a0c\u3000d\n", 0) == "abcd"
    assert not any(unicodedata.category(c) == "Zs" for c in data.trimmed("naïve\u2003café ", 0))


def test_perturbed_text_is_drawn_by_seed_and_text_and_every_kind_occurs():
    texts = [f"Anna number {i} lives in a small House by the sea." for i in range(600)]
    kinds = Counter()
    for text in texts:
        found = data.perturbed(text, 0)
        assert found == data.perturbed(text, 0)
        kinds[next(k for k in (None, *KINDS) if found == (text if k is None else perturb(text, k, 0)))] += 1
    assert set(kinds) == {None, *KINDS} and min(kinds.values()) > 60
    one, other = ([data.perturbed(text, seed) for text in texts] for seed in (0, 1))
    assert one != other


def test_an_unknown_transform_and_a_streamed_scale_are_refused():
    with pytest.raises(ValueError, match="trimmed, perturbed"):
        data.transformed_rows(TOY, "shouted", None, seed=0, max_bytes=5)
    with pytest.raises(ValueError, match="streams"):
        data.transformed_rows(dataclasses.replace(TOY, streamed=True), "trimmed", None, seed=0, max_bytes=5)


@pytest.mark.parametrize("transform", data.TRANSFORMS)
def test_rows_align_with_the_teachers_tokens_of_the_transformed_text(transform, token_bytes):
    rows = data.transformed_rows(TOY, transform, token_bytes, seed=0, max_bytes=8_000)
    texts = []
    for r in range(len(rows)):
        real = rows.document[r] >= 0
        for number in range(rows.document[r].max() + 1):
            inside = real & (rows.document[r] == number)
            tokens = rows.token_ids[r][np.flatnonzero(rows.document[r][rows.boundary[r]] == number)]
            text = rows.byte_ids[r][inside & (rows.byte_ids[r] < BOS)].tobytes().decode()
            aligned = token_bytes.align(text)
            assert tokens[1 : 1 + len(aligned.token_ids)].tolist() == aligned.token_ids.tolist()
            texts.append(text)
    assert 8_000 <= sum(len(text.encode()) for text in texts) < 8_000 + len(max(texts, key=len).encode())
    if transform == "trimmed":
        assert not np.isin(rows.byte_ids[(rows.document >= 0)], SPACES).any()


def test_the_variants_of_step_1_3_start_from_the_curriculums_stage_1_and_train_the_router_alone():
    stage1 = curriculum(TOY)[:3]
    standard, *others = boundary_learning(TOY)
    assert standard.steps == stage1 and all(variant.steps[:3] == stage1 for variant in others)
    assert {len(variant.steps) for variant in others} == {4}
    assert len({variant.steps[3].train_bytes for variant in others}) == 1
    shared = run_steps(TOY, stage1, seed=0)
    last = [run_variant(TOY, variant, seed=0)[-1] for variant in others]
    assert {run.parent.hash for run in last} == {shared[-1].hash} and len({run.hash for run in last}) == 3
    assert all({group.parts for group in variant.steps[3].groups} == {("router",)} for variant in others)


def test_all_three_are_fine_tuned_on_equal_bytes_of_the_same_rows_at_rates_of_their_own():
    teacher = tuned_teacher(TOY, perturbed_step(TOY, 0), seed=0)
    runs = [run_variant(TOY, variant, seed=0)[-1] for variant in perturbed_students(TOY)]
    assert len({run.facts()["train_bytes"] for run in (teacher, *runs)}) == 1
    assert len({run.config["data"] for run in (teacher, *runs)}) == 1
    assert {perturbed_step(TOY, stage).train_bytes for stage in range(3)} == {second_dose(TOY)}
    assert perturbed_step(TOY, 2).groups == curriculum(TOY)[4].groups
    assert perturbed_step(TOY, 0).groups[0].rate == TOY.teacher.rate / 3
    load_teacher(teacher.model_folder)
    assert tuned_teacher(TOY, perturbed_step(TOY, 0), seed=0).facts() == teacher.facts()


def test_clean_is_the_plain_score_and_noise_is_kept_apart_by_kind_place_and_seed(monkeypatch, tmp_path):
    """What is remembered under one noise must never be taken for another's or for clean text."""
    monkeypatch.setattr("dbyte.evaluate.measure.RUNS", tmp_path)
    folder, measurer, column = teacher_run(TOY, seed=0), Measurer(TOY, 0), minibench.EVERY["PIQA"]
    clean = measurer.column(folder, "token", column, items=40)
    assert clean == measurer.columns(folder, "token", items=40)["PIQA"]
    noises = [Noise("drop"), Noise("drop", "prompt"), Noise("repeat"), Noise("drop", seed=1), Noise("drop", share=0.5),
              Noise(MIXED)]
    found = [measurer.column(folder, "token", column, items=40, noise=noise) for noise in noises]
    assert len(list((tmp_path / "measured").glob("*.json"))) == len(minibench.COLUMNS) + len(noises)
    assert len({one.correct for one in (clean, *found)}) > 1, "noise reaches the model"
    lm = teacher_lm(*load_teacher(folder))
    for noise, one in zip(noises, found, strict=True):
        assert evaluate_tasks(NoisyLM(lm, noise), [column.as_task(40)])["PIQA"] == one
        assert measurer.column(folder, "token", column, items=40, noise=noise) == one
        assert [int(nats > 0) for nats in one.margins] == list(one.correct), "right where the right one is ahead"
    assert measurer.columns(folder, "token", items=40)["LMB"].margins == ()
    noises = (None, Noise("drop"), Noise("drop", share=0.2))
    texts = [measurer.bits(folder, "token", "world", noise) for noise in noises]
    assert texts[0]["value"] < texts[2]["value"] < texts[1]["value"], "milder noise surprises less"
