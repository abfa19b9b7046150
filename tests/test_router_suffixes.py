"""A router that reads the longest suffixes too: what they add, who may have them, and how they are trained."""

import pytest
import torch
from conftest import make_student, make_teacher

from dbyte.distill import steps
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig


def routed(student, batch):
    """boundary_prob_BL of a batch, without gradients."""
    with torch.no_grad():
        encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
        return student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)


def test_untrained_weights_change_nothing_and_an_embedding_moves_the_boundaries_before_its_token(teacher, batch):
    student = make_student(teacher, router_suffixes=8)
    student.config.router_suffixes = 0
    plain_BL = routed(student, batch)
    student.config.router_suffixes = 8
    odds = student.router.suffixes
    out = odds.out.weight.data.clone()
    odds.out.weight.data.zero_()
    torch.testing.assert_close(routed(student, batch), plain_BL)
    odds.out.weight.data.copy_(out)
    told_BL = routed(student, batch)
    suffix_BL = student.suffix_table.find(batch.byte_ids_BL)
    token_id = int(suffix_BL[0, 10])
    odds.embedding_2VW.data[1, token_id] *= -1
    before_BL = torch.nn.functional.pad(suffix_BL[:, 1:] == token_id, (0, 1))
    changed_BL = (routed(student, batch) - told_BL).abs() > 1e-4
    assert changed_BL.any() and not (changed_BL & ~before_BL).any()


def test_step_13_trains_embeddings_by_adamw_and_maps_by_muon(teacher):
    student = make_student(teacher, router_suffixes=8)
    step = steps.stage1(align_bytes=1, distill_bytes=1, boundary_bytes=1, boundary_muon=0.01)[-1]
    adamw, muon = step.optimisers(student)
    by_adamw, by_muon = ([weight for group in optimiser.param_groups for weight in group["params"]]
                         for optimiser in (adamw, muon))
    odds = student.router.suffixes
    assert any(weight is odds.embedding_2VW for weight in by_adamw)
    assert any(weight is odds.hidden.weight for weight in by_muon)


@pytest.mark.parametrize("other", [dict(router="split"), dict(smoothing=True)])
def test_a_router_whose_steps_do_not_know_the_bytes_has_none(other):
    with pytest.raises(ValueError, match="set it to 0"):
        StudentConfig(router_suffixes=8, **other)


def test_they_need_the_tokenizer():
    with pytest.raises(ValueError, match="look up the teacher's tokens"):
        ByteStudent.from_teacher(make_teacher(), config=StudentConfig(router_suffixes=8))
