"""Stage 2 from the teacher's distribution over bytes: what the target is, and which steps read it."""

import pytest
import torch
from conftest import make_student, make_teacher

from dbyte import presets
from dbyte.byte_probabilities import within_token
from dbyte.distill import losses
from dbyte.distill.along_tokens import along_tokens
from dbyte.distill.curriculum import curriculum
from dbyte.distill.sizes import check_sizes
from dbyte.distill.steps import TARGETS, stage2
from dbyte.distill.terms import Forward, language_model
from dbyte.plan.counting import count_step
from dbyte_paper.variants import byte_targets

BYTES = {"head_bytes": 100, "full_bytes": 100}


@pytest.fixture(scope="module")
def teacher():
    return make_teacher()


@pytest.fixture(scope="module")
def student(teacher, tokenizer):
    return make_student(teacher, tokenizer)


def target(student, teacher, batch):
    """The teacher's distribution at each byte that is predicted, token by token."""
    rows = []
    vocabulary = student.sorted_vocabulary
    hidden_BME = language_model(teacher, batch)
    head_VE = teacher.get_output_embeddings().weight[vocabulary.id_V]
    for row, document_M in enumerate(batch.token_document_BM):
        for place in losses.has_next(document_M[None])[0].nonzero()[:, 0].tolist():
            rows.append(within_token.log_probs(hidden_BME[row, place : place + 1], head_VE,
                                               [int(batch.token_ids_BM[row, place + 1])], vocabulary))
    return torch.cat(rows)


@torch.inference_mode()
def test_each_byte_has_the_row_of_its_own_token(student, teacher, batch):
    mask_BL = losses.has_next(batch.document_BL)
    table_PK2 = target(student, teacher, batch)
    label_P = losses.joint_labels(batch.byte_ids_BL, batch.boundary_BL)[mask_BL]
    assert len(table_PK2) == len(label_P)
    next_BM = losses.has_next(batch.token_document_BM)
    log_BMV = teacher.get_output_embeddings()(language_model(teacher, batch)).log_softmax(-1)
    next_T = batch.token_ids_BM.roll(-1, 1)[next_BM]
    of_token_T = log_BMV[next_BM].gather(1, next_T[:, None])[:, 0]
    texts = student.token_texts()
    sizes = [max(len(texts[token]), 1) for token in next_T]
    of_bytes = table_PK2.gather(1, label_P[:, None])[:, 0].split(sizes)
    is_text_T = torch.tensor([bool(texts[token]) for token in next_T])  # EOS is counted with other special tokens
    torch.testing.assert_close(torch.stack([each.sum() for each in of_bytes])[is_text_T], of_token_T[is_text_T])


@torch.inference_mode()
def test_the_loss_is_the_divergence_from_that_table(student, teacher, batch):
    objective = along_tokens("dense")
    (total,) = objective.sums(student, teacher, batch)
    (count,) = objective.counts(batch)
    mask_BL = losses.has_next(batch.document_BL)
    log_PK2 = Forward(student, teacher, batch).byte_logits_along_tokens_BLK[mask_BL].log_softmax(-1)
    prob_PK2 = target(student, teacher, batch).exp()
    expected = (torch.xlogy(prob_PK2, prob_PK2) - prob_PK2 * log_PK2).sum()
    torch.testing.assert_close(total, expected, atol=1e-2, rtol=1e-4)
    assert count == mask_BL.sum()


@torch.inference_mode()
def test_a_student_that_says_what_the_teacher_says_has_no_loss(student, teacher, batch):
    table_PK2 = target(student, teacher, batch)
    assert abs(losses.dense(table_PK2.clamp(min=-1e4), table_PK2)[0]) < 1e-2
    assert losses.dense(table_PK2.roll(1, 0).clamp(min=-1e4), table_PK2)[0] > 1


def test_mixed_is_the_mean_of_labels_and_distributions(student, teacher, batch):
    means = {name: along_tokens(name)(student, teacher, batch) for name in ("tokens", "dense", "mixed")}
    torch.testing.assert_close(means["mixed"], (means["tokens"] + means["dense"]) / 2)


def test_the_decoder_learns_from_the_distribution_and_the_teacher_takes_no_gradient(student, teacher, batch):
    student.zero_grad()
    teacher.zero_grad()
    along_tokens("dense")(student, teacher, batch).backward()
    assert student.byte_head.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())


def test_stage_2_has_the_targets_that_are_asked_for_and_then_its_own_boundaries():
    names = {targets: [step.objective.name for step in stage2(**BYTES, targets=targets, boundary_loss=True)]
             for targets in TARGETS}
    assert names["labels"] == ["head", "full_with_boundary"]
    assert names["dense"] == ["dense", "dense with_boundary"]
    *_, last = stage2(**BYTES, targets="dense", boundary_loss=True, own_bytes=50)
    assert (last.objective.name, last.train_bytes) == ("full_with_boundary", 50)


def test_the_rows_of_the_table_have_one_stage_1_and_equal_bytes():
    scale = presets.scale("smoke")
    rows = {variant.name: variant.steps for variant in byte_targets(scale)}
    assert list(rows) == list(TARGETS) and rows["labels"] == curriculum(scale)
    assert {steps[:3] for steps in rows.values()} == {curriculum(scale)[:3]}
    assert len({sum(step.train_bytes for step in steps[3:]) for steps in rows.values()}) == 1
    for name in ("tokens", "dense", "mixed"):
        *_, full, own = rows[name]
        assert full.objective.name == f"{name} with_boundary" and own.objective == rows["labels"][-1].objective


def test_a_scale_may_name_the_targets():
    steps = curriculum(presets.scale("smoke", ["stage2.targets=dense", "stage2.own_bytes=5e4"]))[3:]
    assert [step.objective.name for step in steps] == ["dense", "dense with_boundary", "full_with_boundary"]
    with pytest.raises(ValueError, match="targets must be one of"):
        check_sizes(presets.scale("smoke", ["stage2.targets=soft"]))


def test_a_plan_does_not_count_what_depends_on_the_text(student, batch):
    with pytest.raises(ValueError, match="'2.1 head' takes the teacher's distributions.*plan without stage2.targets"):
        count_step(student.config, stage2(**BYTES, targets="dense")[0], batch)


@pytest.mark.parametrize("wrong", [{"targets": "soft"}, {"targets": "dense", "decoding": "mbp"}])
def test_other_targets_are_an_error(wrong):
    with pytest.raises(ValueError, match="targets must be one of labels, tokens, dense, mixed"):
        stage2(**BYTES, **wrong)
