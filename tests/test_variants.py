"""Ablations as data: what rows share is trained once, a documented line is a row, errors of seeds and items add up."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from test_curriculum import TOY

from dbyte.distill.steps import CORE, ENCODER
from dbyte.evaluate.measure import Measurer
from dbyte.model.student import ByteStudent
from dbyte.paths import ROOT
from dbyte.presets import SCALES, Ablation, Teachers
from dbyte_paper import ablation_runs, variants
from dbyte_paper.variants import Variant, alignments, byte_sft, run_variant, sequence, teachers, with_snapshots

TINY = dataclasses.replace(
    TOY, ablation=Ablation(step_bytes=6_000, batch_rows=1, items=4, seeds=2),
    teachers=Teachers(TOY.teacher, dataclasses.replace(TOY.teacher, width=48, layers=2),
                      dataclasses.replace(TOY.teacher, family="qwen3", kv_heads=1, vocabulary=340)))


@pytest.fixture(scope="module")
def trained():
    return ablation_runs.train(TINY, alignments(TINY)[:2], seed=0)


@pytest.mark.parametrize("table", [
    variants.encoders, alignments, variants.orders, teachers, byte_sft])
def test_every_row_has_a_name_of_its_own_and_equal_bytes(table):
    for scale in SCALES.values():
        if table is teachers and not scale.teachers:
            continue  # `real` names no others, which Table 10 needs
        rows = table(scale)
        assert len({row.name for row in rows}) == len(rows)
        assert len({sum(step.train_bytes for step in row.steps) for row in rows}) == 1


def test_every_order_takes_the_same_steps_and_no_router_is_older_than_its_encoder():
    for scale in SCALES.values():
        rows = variants.orders(scale)
        first, *orders = (sorted(step.name for step in row.steps) for row in rows[:3])
        assert all(order == first for order in orders)
        assert {row.steps[-1].name for row in rows} == {"1.3 refresh"}
        assert all(row.steps[-1].train_bytes < row.steps[0].train_bytes for row in rows)


@pytest.mark.parametrize("name", ["paper", "hub"])
def test_at_the_papers_sizes_both_rows_of_table_3_have_section_6_1s_rates(name):
    """1e-3 for the encoder and 2e-5 for the core."""
    for row in alignments(SCALES[name])[:2]:
        rates = {group.parts: group.rate for group in row.steps[-1].groups}
        assert rates == {ENCODER: 1e-3, CORE: 2e-5}, row.name
    assert {step.groups[0].rate for step in alignments(SCALES[name])[0].steps} == {1e-3}


def test_seeds_change_the_student_and_not_its_teacher(trained):
    for by_seed in trained.values():
        first, second = (runs[-1].config for runs in by_seed)
        assert first["teacher"] == second["teacher"] and first["data"] == second["data"]
        assert first["seed"] != second["seed"]
        assert by_seed[0][-1].hash != by_seed[1][-1].hash


def test_the_line_that_the_documentation_shows_is_a_row_and_shares_its_first_step(trained):
    shown = re.search(r"```python\n(Variant\(.*\)),\n```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    row = eval(shown[1], vars(variants), {"scale": TINY})
    runs = ablation_runs.train(TINY, [row], seed=0)[row.name][0]
    assert runs[0].hash == trained["align, then distil"][0][0].hash
    assert runs[1].hash != trained["align, then distil"][0][1].hash


def test_rows_of_stage_2_share_stage_1_and_differ_as_their_names_say():
    runs = {variant.name: run_variant(TINY, variant, seed=0) for variant in byte_sft(TINY)}
    plain, routed = runs["plain"], runs["boundary loss in 2.2"]
    for name, (*stage1, head, full) in runs.items():
        assert [run.hash for run in stage1] == [run.hash for run in plain[:3]], name
        assert not ByteStudent.from_pretrained(stage1[-1].model_folder).config.smoothing
        wanted = (any(word in name for word in ("smoothing", "all three")),
                  any(word in name for word in ("confidence", "all three")))
        for run in (head, full):
            config = ByteStudent.from_pretrained(run.model_folder).config
            assert (config.smoothing, config.confidence, config.stage) == (*wanted, 2), name
    assert routed[3].hash == plain[3].hash and len({steps[4].hash for steps in runs.values()}) == len(runs)
    before, after = (ByteStudent.from_pretrained(run.model_folder).router.state_dict() for run in plain[3:])
    assert all(torch.equal(weight, after[name]) for name, weight in before.items()), "without its loss no router moves"
    moved = ByteStudent.from_pretrained(routed[4].model_folder).router.state_dict()
    assert not all(torch.equal(weight, moved[name]) for name, weight in before.items())


def test_on_policy_and_its_controls_continue_one_stage_1_at_equal_updates():
    policy = dataclasses.replace(TINY.on_policy, rows=2, updates=3, new_bytes=8, most=9)
    tiny = dataclasses.replace(TINY, on_policy=policy, ablation=dataclasses.replace(TINY.ablation, seeds=1))
    trained = ablation_runs.train(tiny, variants.on_policy(tiny), seed=0)
    runs = {name: by_seed[0] for name, by_seed in trained.items()}
    assert len({run.hash for steps in runs.values() for run in steps[:3]}) == 3
    last = [steps[-1] for name, steps in runs.items() if name != "Stage 1"]
    assert len({run.hash for run in last}) == 3 and {run.facts()["updates"] for run in last} == {3}
    assert len({run.facts()["train_bytes"] for run in last}) == 1
    for run in last:
        config = ByteStudent.from_pretrained(run.model_folder).config
        assert config.stage == 1 and all(line["coverage"] == 1 for line in run.metrics())
    rows = ablation_runs.watched_rows({name: trained[name] for name in list(trained)[1:]}, ["divergence", "length"])
    assert {(row["model"], row["quantity"]) for row in rows} == {
        *((name, "divergence") for name in list(trained)[1:]), ("+ on-policy", "length")}
    shares = {row["model"]: row["value"] for row in ablation_runs.sampling_rows(dict(list(trained.items())[1:]))}
    assert 0 < shares["+ on-policy"] < 100 and shares["+ step 1.2 on the corpus"] < shares["+ on-policy"]
    with pytest.raises(ValueError, match=r"scale toy has no table \[on_policy\]"):
        variants.on_policy(dataclasses.replace(tiny, on_policy=None))
    with pytest.raises(ValueError, match="prompt_bytes and new_bytes may make 5010 chunks.*built for 1024 positions"):
        long = dataclasses.replace(tiny, on_policy=dataclasses.replace(policy, prompt_bytes=5000))
        run_variant(long, variants.on_policy(long)[1], seed=0)


@pytest.fixture(scope="module")
def by_teacher():
    return ablation_runs.train(TINY, teachers(TINY), seed=0)


def test_a_larger_teacher_changes_what_step_1_2_predicts_and_nothing_else(by_teacher):
    own, larger = (by_teacher[name][0] for name in ("own size", "larger"))
    assert own[0].hash == larger[0].hash and own[1].hash != larger[1].hash
    changed = {key for key in larger[1].config if larger[1].config[key] != own[1].config.get(key)}
    assert changed == {"predictions"} and "predictions" not in larger[2].config
    first, second = (ByteStudent.from_pretrained(runs[1].model_folder) for runs in (own, larger))
    assert first.config.core_config.hidden_size == second.config.core_config.hidden_size == TINY.teacher.width
    assert torch.equal(first.token_head.weight, second.token_head.weight)
    assert not torch.equal(first.core.layers[0].mlp.up_proj.weight, second.core.layers[0].mlp.up_proj.weight)
    assert own[1].metrics()[0]["loss"] != larger[1].metrics()[0]["loss"]


def test_a_teacher_of_another_family_gives_its_core_and_its_tokens(by_teacher):
    student = ByteStudent.from_pretrained(by_teacher["other family"][0][-1].model_folder)
    core = student.config.core_config
    assert (core.model_type, core.vocab_size, core.num_key_value_heads) == ("qwen3", 340, 1)
    assert by_teacher["other family"][0][0].config["data"] != by_teacher["own size"][0][0].config["data"]


def test_predictions_of_other_tokens_are_refused():
    other = Variant("impossible", sequence(TINY)[:2], predictions=TINY.teachers.other)
    with pytest.raises(ValueError, match="other tokens than the student's teacher"):
        run_variant(TINY, other, seed=0)


def test_bits_over_seeds_keep_the_error_of_the_text(by_teacher):
    pair, measurer = {"own size": by_teacher["own size"]}, Measurer(TINY, 0)
    (row,) = ablation_runs.bits_rows(measurer, pair, "stage1/router")
    found = [measurer.bits(runs[-1].model_folder, "stage1/router", "world") for runs in pair["own size"]]
    assert row["value"] == pytest.approx(np.mean([one["value"] for one in found]))
    assert row["stderr"] > np.mean([one["stderr"] for one in found]) and (row["n"], row["seeds"]) == (found[0]["n"], 2)


def test_a_table_holds_every_row_and_its_average(trained):
    measured = ablation_runs.measure(Measurer(TINY, 0), trained, "stage1/tokenizer")
    rows = ablation_runs.accuracy_rows(measured)
    for name, by_seed in measured.items():
        mine = {row["task"]: row for row in rows if row["model"] == name}
        tasks = [task for task in mine if task != "average"]
        assert mine["average"]["value"] == pytest.approx(np.mean([mine[task]["value"] for task in tasks]))
        assert mine["average"]["seeds"] == 2 == len(by_seed)
    differences = ablation_runs.variant_difference_rows(measured, "distil only")
    of_average = next(row for row in differences if row["task"] == "average")
    levels = [row["value"] for row in rows if row["task"] == "average"]
    assert of_average["value"] == pytest.approx(levels[1] - levels[0])
    assert of_average["what"] == "distil only - align, then distil"


def test_accuracy_on_the_way_ends_where_the_table_stands(trained):
    kept = ablation_runs.train(TINY, with_snapshots(alignments(TINY)[:2]), seed=0)
    measurer = Measurer(TINY, 0)
    rows = ablation_runs.dynamics_rows(measurer, kept, "stage1/tokenizer")
    table = ablation_runs.accuracy_rows(ablation_runs.measure(measurer, trained, "stage1/tokenizer"))
    for name, by_seed in trained.items():
        assert kept[name][0][-1].hash != by_seed[0][-1].hash
        one, other = (ByteStudent.from_pretrained(runs[0][-1].model_folder).state_dict()
                      for runs in (by_seed, kept[name]))
        assert all(torch.equal(weight, other[key]) for key, weight in one.items()), "keeping models changes no weight"
        places = sorted({row["train_bytes"] for row in rows if row["model"] == name})
        assert len(places) == 4 * len(by_seed[0])
        assert places[-1] == sum(run.facts()["train_bytes"] for run in by_seed[0])
        last = [{key: value for key, value in row.items() if key != "train_bytes"} for row in rows
                if row["model"] == name and row["train_bytes"] == places[-1]]
        assert last == [row for row in table if row["model"] == name]
