"""Losses: (sum, count), equal to the plain formula, blind to padding; sliced they keep no logits; sums of terms."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import make_student
from torch import Tensor

from dbyte.distill import losses, objectives, sliced_losses
from dbyte.text.spans import BOS, EOS


def test_align_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]])
    total, count = losses.align(student, teacher, torch.tensor([[True, True, False]]))
    assert total == 5 + 25 and count == 2


def test_distill_by_hand_and_zero_iff_the_unmasked_distributions_agree():
    teacher, student = torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    total, _ = losses.distill(student, teacher, torch.tensor([[True]]))
    assert total.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    teacher = torch.randn(2, 3, 7)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    shifted = teacher + 3.0  # the same distribution
    shifted[~mask] = torch.nan
    total, count = losses.distill(shifted, teacher, mask)
    assert count == 3 and total.abs() < 1e-5
    assert losses.distill(torch.randn(2, 3, 7), teacher, mask)[0] > 0.1


def test_boundary_by_hand_and_finite_at_the_ends():
    prob, label = torch.tensor([[0.25, 1.0, 0.0]]), torch.tensor([[True, False, False]])
    total, count = losses.boundary(prob, label, torch.tensor([[True, False, True]]))
    assert count == 2 and total.item() == pytest.approx(math.log(4), abs=1e-5)
    assert torch.isfinite(losses.boundary(prob, label, torch.ones(1, 3).bool())[0])


def test_the_penalty_is_on_boundaries_right_before_white_space_alone():
    ids = torch.tensor([[BOS, *b"a bc\n d", EOS, BOS, *b" e", EOS, 0]])
    document = torch.tensor([[0] * 9 + [1] * 4 + [-1]])
    before = losses.before_space(ids, document)
    assert before[0].nonzero().flatten().tolist() == [1, 4, 5, 9]  # a, c, the line's end, and the second BOS
    mask = losses.routed(ids, document)
    prob = torch.full((1, 14), 0.25, requires_grad=True)
    total, count = losses.space_penalty(prob, before, mask)
    assert total.item() == pytest.approx(-3 * math.log(0.75)) and count == mask.sum()
    total.backward()
    assert (prob.grad[before & mask] > 0).all() and not prob.grad[~(before & mask)].any(), "less p is less penalty"
    assert torch.isfinite(losses.space_penalty(torch.ones(1, 14), before, mask)[0])


def test_next_byte_is_uniform_at_zero_logits():
    label = torch.randint(0, 512, (2, 5))
    mask = torch.ones(2, 5).bool()
    mask[1, 2:] = False
    total, count = losses.next_byte(torch.zeros(2, 5, 512), label, mask)
    assert count == 7 and total.item() == pytest.approx(7 * math.log(512), rel=1e-6)


def test_joint_labels_and_masks():
    ids = torch.tensor([[BOS, 65, 66, EOS, BOS, 67, EOS, 0]])
    boundary = torch.tensor([[1, 0, 1, 1, 1, 1, 1, 0]]).bool()
    document = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]])
    assert losses.joint_labels(ids, boundary)[0, :3].tolist() == [65, 66 + 256, EOS + 256]
    assert losses.has_next(document)[0].tolist() == [True, True, True, False, True, True, False, False]
    assert losses.has_two(document)[0].tolist() == [True, True, False, False, True, False, False, False]
    assert losses.routed(ids, document)[0].tolist() == [False, True, False, False, False, False, False, False]


# -- slices of positions ----------------------------------------------------------------------------------------------


def plain(divergence: str, student_TV: Tensor, teacher_TV: Tensor) -> Tensor:
    """The textbook formulas on all logits."""
    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum()

    s, t = student_TV.softmax(-1), teacher_TV.softmax(-1)
    if isinstance(divergence, float):
        m = divergence * t + (1 - divergence) * s
        return divergence * kl(t, m) + (1 - divergence) * kl(s, m)
    return {"forward": kl(t, s), "reverse": kl(s, t)}[divergence]


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    student, head, teacher, teacher_head = (torch.randn(*shape, dtype=torch.float64)
                                            for shape in ((9, 6), (11, 6), (9, 4), (11, 4)))
    return student.requires_grad_(), head.requires_grad_(), teacher, teacher_head


def assert_equal_with_gradients(found, expected, weights):
    torch.testing.assert_close(found, expected)
    for one, two in zip(torch.autograd.grad(2 * found, weights), torch.autograd.grad(2 * expected, weights),
                        strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("rows", [4, 100])
@pytest.mark.parametrize("divergence", ["forward", "reverse", 0.2, 0.5, 0.9])
def test_slices_give_the_plain_value_and_gradients(inputs, divergence, rows):
    student, head, teacher, teacher_head = inputs
    beta = {"forward": 0, "reverse": 1}.get(divergence, divergence)
    total, count = sliced_losses.distill(*inputs, divergence=losses.generalised(beta), rows=rows)
    assert count == 9
    assert_equal_with_gradients(total, plain(divergence, student @ head.T, teacher @ teacher_head.T), [student, head])


@pytest.mark.parametrize("rows", [1, 4])
def test_slices_of_next_tokens_give_the_plain_value_and_gradients(inputs, rows):
    hidden, head, *_ = inputs
    next_T = torch.tensor([0, 10, 3, 3, 5, 6, 7, 8, 9])
    total, count = sliced_losses.next_token(hidden, head, next_T, rows=rows)
    assert count == 9
    assert_equal_with_gradients(total, F.cross_entropy(hidden @ head.T, next_T, reduction="sum"), [hidden, head])


@pytest.mark.parametrize("rows", [1, 4])
def test_log_probabilities_of_tokens_have_the_plain_values_and_gradients(inputs, rows):
    hidden, head, *_ = inputs
    next_T = torch.tensor([0, 10, 3, 3, 5, 6, 7, 8, 9])
    found_T = sliced_losses.token_log_probs(hidden, head, next_T, rows=rows)
    plain_T = (hidden @ head.T).log_softmax(-1)[range(9), next_T]
    assert_equal_with_gradients((found_T ** 2).sum(), (plain_T ** 2).sum(), [hidden, head])
    assert sliced_losses.token_log_probs(hidden[:0], head, next_T[:0]).shape == (0,)


def test_an_event_and_its_contrary_make_up_one():
    log_T = torch.tensor([-1e-9, -1e-3, -1.0, -30.0], requires_grad=True)
    both_T2 = losses.whether(log_T)
    torch.testing.assert_close(both_T2.exp().sum(-1), torch.ones(4))
    losses.reverse_kl(both_T2, both_T2.detach() * 0.9)[0].backward()
    assert both_T2.isfinite().all() and log_T.grad.isfinite().all()


def test_a_frozen_head_gets_no_gradient_and_no_position_gives_zero():
    student, head = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    sliced_losses.distill(student, head, torch.randn(5, 2), torch.randn(7, 2))[0].backward()
    assert student.grad is not None and head.grad is None
    student = torch.randn(0, 3, requires_grad=True)
    total, count = sliced_losses.distill(student, head, torch.randn(0, 2), torch.randn(7, 2))
    total.backward()
    assert total == 0 and count == 0 and student.grad.shape == (0, 3)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("positions", [64, 512])
def test_no_tensor_grows_with_positions_times_vocabulary(positions):
    student, head = torch.randn(positions, 4, requires_grad=True), torch.randn(300, 4)
    with LargestTensor() as seen:
        sliced_losses.distill(student, head, torch.randn(positions, 4), torch.randn(300, 4), rows=16)[0].backward()
        sliced_losses.next_token(student, head, torch.zeros(positions).long(), rows=16)[0].backward()
    assert seen.largest == max(16 * 300, positions * 4)


# -- objectives -------------------------------------------------------------------------------------------------------


def test_a_joint_objective_is_the_weighted_sum_of_the_three(teacher, student, batch):
    parts = [one(student, teacher, batch) for one in (objectives.align, objectives.distill, objectives.boundary)]
    joint = objectives.joint(0.5, 2.0, 3.0)
    torch.testing.assert_close(joint(student, teacher, batch), 0.5 * parts[0] + 2 * parts[1] + 3 * parts[2])
    assert joint.name == "joint 0.5 2 3", "a part of a run's address"


@pytest.mark.parametrize("whole, part", [("align_with_boundary", "align"), ("distill_with_boundary", "distill"),
                                         ("full_with_boundary", "full")])
def test_with_boundary_adds_eq_4_at_equal_weight(whole, part, teacher, student, batch):
    both, one, other = (vars(objectives)[name](student, teacher, batch) for name in (whole, part, "boundary"))
    torch.testing.assert_close(both, one + other)


def test_the_penalised_objective_is_eq_4_and_its_weight_times_the_penalty(student, rows):
    batch = rows.batch([0, 1])
    (plain_eq4,) = objectives.boundary.sums(student, None, batch)
    (wrong, once), (_, thrice) = (objectives.boundary_penalised(w).sums(student, None, batch) for w in (1.0, 3.0))
    assert wrong == plain_eq4 and once > 0 and thrice.item() == pytest.approx(3 * once.item())
    assert objectives.boundary_penalised(0.1).name == "boundary_penalised 0.1", "a part of a run's address"


def test_stage_1_on_its_own_tokens_is_its_teacher_where_the_encoder_is_exact(teacher, student, rows, monkeypatch):
    """With the teacher's embeddings in place of the chunks' the two losses are one and the same."""
    batch = rows.batch([0, 1])
    exact = teacher.get_input_embeddings()(batch.token_ids_BM)
    monkeypatch.setattr(student, "chunk_embeddings", lambda encoded_BLD, chunks, byte_ids_BL: exact)
    written, wrong = objectives.next_token.sums(student, None, batch)
    assert written.item() == pytest.approx(objectives.token.sums(teacher, None, batch)[0].item(), rel=1e-4)
    assert wrong == objectives.boundary.sums(student, None, batch)[0]
    assert objectives.next_token.counts(batch) == objectives.token.counts(batch) + objectives.boundary.counts(batch)


@pytest.mark.parametrize("decoding", ["jbp", "mbp"])
def test_counts_are_known_without_running_the_model(decoding, teacher, tokenizer, batch):
    """What a term counts before is what it sums over."""
    student = make_student(teacher, tokenizer, decoding=decoding)
    for objective in (objectives.joint(1, 1, 1), objectives.full_with_boundary):
        forward = objectives.Forward(student, teacher, batch)
        counted = [term.loss(forward, term.where(batch))[1] for _, term in objective.terms]
        assert [int(count) for count in counted] == [int(count) for count in objective.counts(batch)]


def test_mbp_learns_the_next_two_bytes_of_its_document(teacher, tokenizer, batch):
    student = make_student(teacher, tokenizer, decoding="mbp")
    found = objectives.full(student, None, batch)
    out = student(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL)
    nats = {1: [], 2: []}
    for ahead, logits in ((1, out.byte_logits), (2, out.second_logits)):
        for row, i in batch.mask_BL.nonzero().tolist():
            later = i + ahead
            if later < batch.mask_BL.shape[1] and batch.document_BL[row, later] == batch.document_BL[row, i]:
                nats[ahead].append(-logits[row, i].log_softmax(-1)[batch.byte_ids_BL[row, later]])
    expected = sum(torch.stack(each).mean() for each in nats.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_jbp_learns_the_routers_boundaries_and_not_the_tokenizers(teacher, tokenizer, batch):
    student = make_student(teacher, tokenizer)
    out = student(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL)
    assert not torch.equal(out.boundary & batch.mask_BL, batch.boundary_BL), "an untrained router cuts elsewhere"
    nats = [-out.byte_logits[row, i].log_softmax(-1)[batch.byte_ids_BL[row, i + 1] + 256 * out.boundary[row, i + 1]]
            for row, i in losses.has_next(batch.document_BL).nonzero().tolist()]
    torch.testing.assert_close(objectives.full(student, None, batch), torch.stack(nats).mean(), rtol=1e-4, atol=1e-4)
