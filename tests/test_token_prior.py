"""A decoder that corrects what the token head says: the prior by hand, which chunks it closes, and where it begins."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import SIZES, make_student, make_teacher

from dbyte.distill import objectives
from dbyte.distill.losses import has_next
from dbyte.distill.steps import stage2
from dbyte.model import token_prior
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.token_prior import TokenPrior
from dbyte.plan.counting import count_step, one_document
from dbyte.plan.plan import sizes_of
from dbyte.presets import scale
from dbyte.text.sorted_vocabulary import SortedVocabulary
from dbyte.text.token_pieces import TokenPieces
from dbyte_paper.variants import beginnings

TOKENS = [b"", b"a", b"ab", b"abc", b"b", b"bc", b"c"]  # id 0 ends a text
PROBS = [0.05, 0.1, 0.2, 0.3, 0.15, 0.12, 0.08]


@pytest.fixture(scope="module")
def teacher():
    return make_teacher()


@pytest.fixture
def exact(monkeypatch):
    """Nothing is given to flags and symbols that no token has."""
    monkeypatch.setattr(token_prior, "FLAGS", 0.0)
    monkeypatch.setattr(token_prior, "FLOOR", 0.0)


def prior_of(*texts):
    prior = TokenPrior(SortedVocabulary(TOKENS), TokenPieces(TOKENS, eos_token_id=0))
    probs = prior.probabilities(torch.tensor([PROBS], dtype=torch.float64).log())
    nodes = [prior.vocabulary.node(text) for text in texts]
    return prior.log_probs(probs, [nodes]).exp()


def test_the_prior_by_hand(exact):
    first, after_a, after_ab, nowhere = prior_of(b"", b"a", b"ab", b"ac")
    ends = 256
    wanted = {ord("a"): 0.5, ord("a") + ends: 0.1, ord("b"): 0.12, ord("b") + ends: 0.15, ord("c") + ends: 0.08,
              511: 0.05}
    assert {symbol: pytest.approx(p) for symbol, p in wanted.items()} == {
        int(symbol): float(first[symbol]) for symbol in first.nonzero()[:, 0]}
    assert float(after_a[ord("b")]) == pytest.approx(0.3 / 0.5)
    assert float(after_a[ord("b") + ends]) == pytest.approx(0.2 / 0.5)
    assert float(after_ab[ord("c") + ends]) == pytest.approx(1)
    assert torch.equal(nowhere, torch.full_like(nowhere, 1 / 512))


def test_any_byte_may_end_a_chunk_and_any_symbol_may_come():
    for found in prior_of(b"", b"a", b"ab", b"ac"):
        assert float(found.sum()) == pytest.approx(1)
        assert float(found.min()) >= token_prior.FLOOR / 512 * 0.99
        byte_256 = found.view(2, 256).sum(0)
        assert (found >= byte_256.repeat(2) * (token_prior.FLAGS / 2) * 0.99).all()


def test_before_it_is_trained_a_token_s_symbols_have_the_probability_of_the_token(teacher, batch, exact):
    student = make_student(teacher, decoding="prior")
    torch.nn.init.zeros_(student.byte_head.weight)
    with torch.no_grad():
        out = student(batch.byte_ids_BL, batch.boundary_BL, batch.document_BL, batch.mask_BL)
    label_BL = batch.byte_ids_BL.roll(-1, 1) + 256 * batch.boundary_BL.roll(-1, 1)
    said_BL = out.byte_logits.log_softmax(-1).gather(2, label_BL[..., None])[..., 0]
    texts, checked = student.token_texts(), 0
    for row in range(len(batch.byte_ids_BL)):
        ends = batch.boundary_BL[row].nonzero()[:, 0].tolist()
        predicts = has_next(batch.token_document_BM[row][None])[0]
        for number in predicts.nonzero()[:, 0].tolist():
            token = int(batch.token_ids_BM[row, number + 1])
            if texts[token]:
                of_token = out.token_logits[row, number].log_softmax(-1)[token]
                of_bytes = said_BL[row, ends[number] : ends[number + 1]].sum()
                torch.testing.assert_close(of_bytes, of_token, rtol=1e-4, atol=1e-4)
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("text, ends, known, wanted", [
    (b"abcabb", [6], 6, "abc|ab|b"),  # what is no token is split
    (b"abcabb", [1, 6], 6, "a|bc|ab|b"),
    (b"abab", [], 4, "ab|ab"),  # still open, and no token begins with it: the last piece stays open
    (b"cab", [1], 3, "c|ab"),
    (b"abc", [3], 1, "abc"),  # a token across what was known first
    (b"abab", [4], 3, "ab|ab"),
    (b"abac", [4], 3, "ab|a|c"),  # no token: it ends where its beginning was known
    (b"abab", [4], 1, "a|b|ab"),
    (b"abab", [2, 4], 2, "ab|ab"),
    (b"\x01a", [2], 2, "\x01|a"),  # a byte without a token is a chunk
])
def test_chunks_are_tokens_and_what_is_known_first_depends_on_itself_alone(text, ends, known, wanted):
    prior = TokenPrior(SortedVocabulary(TOKENS), TokenPieces(TOKENS, eos_token_id=0))
    found = prior.token_ends(text, ends, known=known)
    pieces = [text[start:end].decode() for start, end in pairwise(dict.fromkeys([0, *found, len(text)]))]
    assert "|".join(pieces) == wanted
    alone = prior.token_ends(text[:known], [end for end in ends if end <= known], known=known)
    assert [end for end in found if end < known] == [end for end in alone if end < known]


def test_a_row_s_padding_changes_nothing_and_rows_are_split_each_for_itself(teacher, batch):
    student = make_student(teacher, decoding="prior")
    prob_BL = torch.rand(batch.byte_ids_BL.shape, generator=torch.Generator().manual_seed(0))
    boundary_BL = student.end_chunks(prob_BL, batch.byte_ids_BL, batch.mask_BL)
    assert not boundary_BL[~batch.mask_BL].any()
    assert (boundary_BL >= ((prob_BL >= 0.5) & batch.mask_BL)).all()
    for row, length in enumerate(batch.mask_BL.sum(1).tolist()):
        alone = student.end_chunks(prob_BL[row : row + 1, :length], batch.byte_ids_BL[row : row + 1, :length],
                                   batch.mask_BL[row : row + 1, :length])
        assert torch.equal(alone[0], boundary_BL[row, :length])


def test_training_starts_from_the_token_head_and_moves_the_decoder_alone(teacher, batch):
    jbp = make_student(teacher, suffix=True)
    student = jbp.with_decoding("prior")
    assert student.config.decoding == "prior" and not student.byte_head.weight.any()
    step = stage2(head_bytes=1, full_bytes=1, decoding="prior")[0]
    chosen = step.thaw(student)
    loss = objectives.head(student, None, batch)
    assert loss.item() < objectives.head(jbp, None, batch).item() < math.inf
    loss.backward()
    assert student.byte_head.weight.grad.abs().sum() > 0
    assert all(weight.requires_grad == any(weight is one for group in chosen for one in group.values())
               for weight in student.parameters())
    assert all(weight.grad is None for weight in [*student.core.parameters(), *student.token_head.parameters()])


def test_a_saved_student_says_the_same_and_another_decoding_is_refused(teacher, tmp_path, batch):
    student = make_student(teacher, decoding="prior")
    student.save_pretrained(tmp_path)
    again = ByteStudent.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        wanted, found = (each(batch.byte_ids_BL, None, batch.document_BL, batch.mask_BL) for each in (student, again))
    assert torch.equal(found.byte_logits, wanted.byte_logits) and torch.equal(found.boundary, wanted.boundary)
    with pytest.raises(ValueError, match="decoding must be one of jbp, mbp, prior, found 'joint'"):
        stage2(head_bytes=1, full_bytes=1, decoding="joint")
    with pytest.raises(ValueError, match="no table of token bytes"):
        _ = ByteStudent.from_teacher(teacher, config=StudentConfig(decoding="prior")).token_prior


def test_a_plan_counts_the_token_head_that_stage_2_reads():
    plain = scale("real", ["stage2.decoding=jbp"])
    assert sizes_of(scale("real"))["decoding"] == "prior" and "decoding" not in sizes_of(scale("small"))
    flops = []
    for one in scale("real"), plain:
        config = StudentConfig(core_config=make_teacher().config, **SIZES | {"decoding": sizes_of(one)["decoding"]})
        step = stage2(head_bytes=1, full_bytes=1)[0]
        flops.append(count_step(config, step, one_document(config, 64, 4.0), backend="fast").flops)
    assert flops[0]["token_head"] == 2 * 16 * config.core_config.hidden_size * config.core_config.vocab_size
    assert flops[1].get("token_head", 0) == 0 and flops[0]["core"] == flops[1]["core"]


def test_what_a_prior_cannot_be_is_refused_and_a_scale_without_muon_has_both_beginnings():
    with pytest.raises(ValueError, match="use decoding='jbp'"):
        StudentConfig(router="entropy", decoding="prior")
    one, other = beginnings(scale("smoke", ["stage2.decoding=prior"]))
    assert one.steps[3].decoding == "prior" and other.steps[3].decoding is None
