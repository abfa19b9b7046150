"""Options that the paper has not: vocabulary rows, noisy rows, adapters. Each is off unless asked for."""

import dataclasses
import string

import numpy as np
import pytest
import torch
from test_curriculum import TOY

from dbyte.distill import steps
from dbyte.distill.curriculum import curriculum, plan_steps, run_steps
from dbyte.distill.loader import Feed
from dbyte.distill.mixed_rows import NOISE, mixed_feed, with_noise
from dbyte.distill.teacher import teacher_run
from dbyte.model.adapters import merged_state
from dbyte.model.student import ByteStudent
from dbyte.plan.counting import count_step, one_document
from dbyte.text.packing import document, pack

BYTES = dict(align_bytes=32_000, distill_bytes=1, boundary_bytes=1)
LETTERS = np.frombuffer(string.ascii_letters.encode(), np.uint8)


def with_options(stage1=(), stage2=()):
    """The toy scale with more settings of its steps."""
    return dataclasses.replace(TOY, stage1=TOY.stage1 | dict(stage1), stage2=TOY.stage2 | dict(stage2))


@pytest.fixture(scope="module")
def many_rows(token_bytes):
    """Sixty rows of 160 bytes, all different."""
    texts = [f"Number {n} is not {n + 1}, and a cat named Mira sat on mat {n}. " * 2 for n in range(60)]
    return pack([document(each, token_bytes) for each in token_bytes.align_batch(texts)], row_bytes=160)


def documents(rows):
    """(bytes, token ids) of every document of packed rows."""
    for row in range(len(rows)):
        ids = iter(rows.token_ids[row])
        for number in range(rows.document[row].max() + 1):
            mine = rows.document[row] == number
            yield bytes(rows.byte_ids[row][mine]), [next(ids) for _ in range(rows.boundary[row][mine].sum())]


# -- vocabulary rows --------------------------------------------------------------------------------------------------


def test_every_token_has_a_document_of_its_own_and_text_keeps_its_order(many_rows, token_bytes):
    feed = Feed(many_rows, 2, seed=3)
    step = steps.stage1(**BYTES | dict(align_bytes=160 * 50), vocabulary=0.4)[0]
    mixed = mixed_feed(feed, step, token_bytes, first_row=4)
    assert len(mixed.rows) == 50 and not step.grouped
    alone = [(text[1:-1], ids[1]) for text, ids in documents(mixed.rows)
             if len(ids) == 3 and len(text) - 2 == token_bytes.lengths[ids[1]]]
    wanted = {(text, number) for number, text in enumerate(token_bytes.token_bytes) if text and max(text) < 254}
    assert wanted <= {*alone}, "each token at least once"
    plain = [bytes(many_rows.byte_ids[number]) for update in range(2, 27) for number in feed.row_numbers(update)]
    assert [bytes(row) for row in mixed.rows.byte_ids[:30]] == plain[20:]


def test_options_of_step_11_are_in_its_address_alone_and_off_by_default():
    plain, mixed = (plan_steps(scale, curriculum(scale)[:1], seed=0)[0]
                    for scale in (TOY, with_options(dict(vocabulary=0.5))) if teacher_run(scale, seed=0))
    assert not {"vocabulary", "noisy"} & plain.step.describe().keys()
    assert "lora" not in plain.step.describe()["groups"][0]
    assert mixed.step.describe()["vocabulary"] == 0.5 and mixed.address != plain.address


@pytest.mark.parametrize("wrong", [dict(vocabulary=1.0), dict(noisy=-0.1), dict(core_lora=-1)])
def test_a_share_of_all_rows_or_less_than_none_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\)"):
        steps.stage1(**BYTES, **wrong)


def test_a_scale_that_streams_has_no_such_rows():
    scale = dataclasses.replace(with_options(dict(noisy=0.5)), streamed=True)
    teacher_run(TOY, seed=0)
    with pytest.raises(ValueError, match="1.1 align.*set streamed = false"):
        plan_steps(scale, curriculum(scale), seed=0)


# -- rows of an update ------------------------------------------------------------------------------------------------


def test_a_step_has_rows_of_its_own_an_update_and_goes_on_where_the_one_before_stopped():
    scale = with_options(stage2=dict(batch_rows=1))
    teacher_run(TOY, seed=0)
    plain, own = (plan_steps(one, curriculum(one), seed=0) for one in (TOY, scale))
    assert [one.address for one in own[:3]] == [one.address for one in plain[:3]]
    assert [one.run.config["batch_rows"] for one in own] == [*[TOY.batch_rows] * 3, 1, 1]
    runs = run_steps(scale, curriculum(scale), seed=0)
    read = [run.facts()["next_row"] for run in runs]
    updates = [run.facts()["updates"] for run in runs]
    assert updates[3] == round(scale.stage2["head_bytes"] / scale.row_bytes)
    assert read[:3] == [TOY.batch_rows * sum(updates[:k + 1]) for k in range(3)]
    assert read[3:] == [read[2] + updates[3], read[3] + updates[4]]


def test_a_scale_that_streams_has_one_number_of_rows():
    scale = dataclasses.replace(with_options(stage2=dict(batch_rows=1)), streamed=True)
    teacher_run(TOY, seed=0)
    with pytest.raises(ValueError, match="2.1 head.*one batch_rows"):
        plan_steps(scale, curriculum(scale), seed=0)


# -- noisy rows -------------------------------------------------------------------------------------------------------


def test_noise_changes_a_tenth_of_the_letters_and_nothing_else(many_rows):
    noisy = with_noise(many_rows, 40, seed=0)
    for name in ("boundary", "document", "token_ids"):
        assert np.array_equal(getattr(noisy, name), getattr(many_rows, name))
    changed = noisy.byte_ids != many_rows.byte_ids
    assert not changed[40:].any()
    letters = np.isin(many_rows.byte_ids, LETTERS)
    assert not (changed & ~letters).any() and np.isin(noisy.byte_ids[changed], LETTERS).all()
    assert changed[:40].sum() / letters[:40].sum() == pytest.approx(NOISE, rel=0.15)
    assert np.array_equal(with_noise(many_rows, 40, seed=0).byte_ids, noisy.byte_ids)


def test_noise_and_vocabulary_share_the_rows_of_a_step(many_rows, token_bytes):
    feed = Feed(many_rows, 2, seed=3)
    step = steps.stage1(**BYTES | dict(align_bytes=160 * 40), vocabulary=0.25, noisy=0.5)[0]
    mixed = mixed_feed(feed, step, token_bytes)
    plain = np.concatenate([feed.row_numbers(update) for update in range(20)])[10:]
    same = (mixed.rows.byte_ids[:30] == many_rows.byte_ids[plain]).all(1)
    assert len(mixed.rows) == 40 and not same[:15].any() and same[15:].all()


# -- adapters ---------------------------------------------------------------------------------------------------------


def adapted(student):
    """Step 1.2 with adapters of rank 2, its parameters on the student."""
    step = steps.stage1(**BYTES, core_lora=2)[1]
    return step, [weight for group in step.thaw(student) for weight in group.items()]


def test_adapters_train_in_place_of_the_core_and_add_nothing_at_first(student, batch):
    pytest.importorskip("peft", reason="adapters are unchecked without it: pip install 'dbyte[lora]'")
    args = batch.byte_ids_BL, batch.boundary_BL, batch.document_BL, batch.mask_BL
    with torch.no_grad():
        before = student(*args).token_logits
        _, trained = adapted(student)
        torch.testing.assert_close(student(*args).token_logits, before)
    of_core = [name for name, _ in trained if name.startswith("core.")]
    assert len(of_core) == 2 * 7 * student.config.core_config.num_hidden_layers
    assert all(".lora_" in name for name in of_core)
    assert len(adapted(student)[1]) == len(trained), "a second call adds none"


def test_what_is_saved_is_a_plain_student_with_the_adapters_in_its_maps(student, batch, tmp_path):
    pytest.importorskip("peft", reason="adapters are unchecked without it: pip install 'dbyte[lora]'")
    args = batch.byte_ids_BL, batch.boundary_BL, batch.document_BL, batch.mask_BL
    assert merged_state(student) is None
    plain = {name: weight.clone() for name, weight in student.state_dict().items()}
    _, trained = adapted(student)
    with torch.no_grad():
        for name, weight in trained:
            if ".lora_B" in name:
                weight.normal_()
        wanted = student(*args).token_logits
    state = merged_state(student)
    assert state.keys() == plain.keys()
    student.save_pretrained(tmp_path, state_dict=dict(state))  # which it empties
    with torch.no_grad():
        found = ByteStudent.from_pretrained(tmp_path)(*args).token_logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    name = "core.layers.0.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank(state[name] - plain[name], rtol=1e-4) == 2


def test_a_run_with_adapters_leaves_a_student_that_the_next_step_continues():
    pytest.importorskip("peft", reason="adapters are unchecked without it: pip install 'dbyte[lora]'")
    scale = with_options(dict(core_lora=2, core_rate=0.01))
    runs = run_steps(scale, curriculum(scale)[:3], seed=0)
    align, distil, boundary = (ByteStudent.from_pretrained(run.model_folder).state_dict() for run in runs)
    changed = {name for name in align if name.startswith("core.") and not torch.equal(align[name], distil[name])}
    assert changed == {name for name in align if "_proj.weight" in name and name.startswith("core.")}
    for name in changed:
        assert torch.linalg.matrix_rank(distil[name] - align[name], rtol=1e-2) <= 2
        assert torch.equal(distil[name], boundary[name])


def test_adapters_cost_less_than_the_core_and_are_planned(teacher, student):
    pytest.importorskip("peft", reason="adapters are unchecked without it: pip install 'dbyte[lora]'")
    row = one_document(student.config, 128, 4)
    costs = [sum(count_step(student.config, step, row).flops.values()) for step in (
        steps.stage1(**BYTES, core_rate=0.0)[1], steps.stage1(**BYTES, core_lora=1)[1], steps.stage1(**BYTES)[1])]
    assert costs == sorted(costs) and costs[0] < costs[1] < costs[2]


def test_adapters_of_a_frozen_core_are_an_error():
    for make, table in ((steps.stage1, BYTES), (steps.stage2, dict(head_bytes=1, full_bytes=1))):
        with pytest.raises(ValueError, match="set a rate as well"):
            make(**table, core_rate=0.0, core_lora=4)
