"""What transfer minimises: the terms of its methods, over the same rows.

    L = CE(tokens) + lambda_b sum CE(bytes of the token) + lambda_KL sum KL(teacher's bytes || student's)    BLD, Eq. 5

These are BLD's terms (arXiv 2604.07466). ALM has two (arXiv 2503.20083, section 3): a binarised divergence of the
probabilities of chunks, the shortest runs of bytes that both tokenizers end with a token, and a distance of hidden
states at their ends. GOLD compares the distributions over the tokens of both vocabularies where a chunk is one token on
both sides, and elsewhere its probability (see on_policy_loss.py). Byte terms are sums over the bytes of a token, and
means over tokens; those of ALM and GOLD are means over chunks.

Shape letters: B rows, L bytes, M tokens, E width, T tokens, J bytes of a token, N bytes of tokens, S symbols, K symbols
that are kept, C chunks, V token ids, U tokens of both vocabularies and, last, all others.
"""

import math
from functools import cached_property, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from dbyte.distill import sliced_losses
from dbyte.distill.losses import PROB_FLOOR, WHITE_SPACE, Divergence, Loss, forward_kl, log_softmax, whether
from dbyte.distill.on_policy_loss import Judged, over_spans, span_numbers
from dbyte.distill.terms import Forward, language_model, predicted_tokens
from dbyte.text.packing import Batch
from dbyte.text.spans import BOS, EOS, TokenBytes
from dbyte.transfer.heads import END, LONGEST
from dbyte.transfer.paired import PairedBatch


class TokenSpans(NamedTuple):
    """The bytes of some tokens: their places in all rows one after another, at most J of each.

    place_TJ: int64. mask_TJ: False beyond a token's last byte. symbol_TJ: int64, the byte, or END for EOS; 0 beyond.
    """

    place_TJ: Tensor
    mask_TJ: Tensor
    symbol_TJ: Tensor


def token_spans(batch: Batch, where_BM: Tensor, *, longest: int) -> TokenSpans:
    """The first `longest` bytes of the tokens at where_BM (bool [B, M])."""
    row_bytes = batch.byte_ids_BL.shape[1]
    end_T = batch.boundary_BL.flatten().nonzero()[:, 0]
    # a token begins after the one before it, the first of a row with the row
    start_T = torch.maximum(F.pad(end_T[:-1] + 1, (1, 0)), end_T // row_bytes * row_bytes)
    chosen_T = where_BM[batch.token_mask_BM]
    start_T1, size_T1 = start_T[chosen_T, None], (end_T - start_T + 1)[chosen_T, None]
    offset_J = torch.arange(longest, device=end_T.device)
    mask_TJ = offset_J < size_T1
    place_TJ = (start_T1 + offset_J).where(mask_TJ, start_T1)
    byte_TJ = batch.byte_ids_BL.flatten()[place_TJ]
    return TokenSpans(place_TJ, mask_TJ, byte_TJ.masked_fill(byte_TJ == EOS, END) * mask_TJ)


class PairedForward(Forward):
    """A `PairedBatch` on its way through a `TransferStudent` and its teacher."""

    @cached_property
    def student_BME(self) -> Tensor:
        """The student's last hidden states."""
        return language_model(self.model.student, self.batch)

    @cached_property
    def teacher_BME(self) -> Tensor:
        """The teacher's last hidden states, over its own tokens."""
        with torch.no_grad():
            return language_model(self.teacher, self.batch.teacher)

    @cached_property
    def spans(self) -> TokenSpans:
        """The bytes of the tokens that are predicted."""
        return token_spans(self.batch, predicted_tokens(self.batch).roll(1, 1), longest=LONGEST)

    @cached_property
    def byte_logits_NS(self) -> Tensor:
        """What the byte head says of the bytes of predicted tokens; nothing lies beyond a token's end."""
        hidden_TE = self.student_BME[predicted_tokens(self.batch)]
        return self.model.byte_head(hidden_TE, self.spans.symbol_TJ)[self.spans.mask_TJ]


def token_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the student's next token."""
    next_T = forward.batch.token_ids_BM.roll(-1, 1)[mask_BM]
    head_VE = forward.model.student.get_output_embeddings().weight
    return sliced_losses.next_token(forward.student_BME[mask_BM], head_VE, next_T)


# -- BLD --------------------------------------------------------------------------------------------------------------


def byte_ce_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the bytes of the student's next token."""
    symbol_N = forward.spans.symbol_TJ[forward.spans.mask_TJ]
    return F.cross_entropy(forward.byte_logits_NS.float(), symbol_N, reduction="sum"), mask_BM.sum()


def byte_kl_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """The divergence from what the batch has kept of the teacher's distributions of these bytes."""
    place_N = forward.spans.place_TJ[forward.spans.mask_TJ]
    symbol_NK, prob_NK = (each_BLK.flatten(0, 1)[place_N]
                          for each_BLK in (forward.batch.symbol_BLK, forward.batch.prob_BLK))
    return byte_divergence(forward.byte_logits_NS, symbol_NK.long(), prob_NK), mask_BM.sum()


def byte_divergence(logits_NS: Tensor, symbol_NK: Tensor, prob_NK: Tensor) -> Tensor:
    """KL(teacher || student) in nats, summed; symbols that are not kept count as one, so it is never too large.

    symbol_NK: int64, the teacher's likeliest symbols, all different; prob_NK: their probabilities, with sums <= 1.
    """
    log_NS = log_softmax(logits_NS)
    log_rest_N = log_NS.scatter(1, symbol_NK, -torch.inf).logsumexp(1)
    prob_NK = prob_NK.float()
    rest_N = (1 - prob_NK.sum(1)).clamp(min=0)
    kept = torch.xlogy(prob_NK, prob_NK) - prob_NK * log_NS.gather(1, symbol_NK)
    # where nothing is left, 0 * -inf would be no number
    rest = torch.xlogy(rest_N, rest_N) - rest_N * log_rest_N.where(rest_N > 0, 0)
    return kept.sum() + rest.sum()


# -- ALM --------------------------------------------------------------------------------------------------------------


def chunk_ends(batch: PairedBatch) -> Tensor:
    """True at the last byte of each chunk that is predicted: bool [B, L]."""
    return batch.boundary_BL & batch.teacher.boundary_BL & (batch.byte_ids_BL != BOS)


def starts_a_word(tokens: TokenBytes) -> Tensor:
    """Whether each token id begins with white space or is no text, so that it may follow a whole word (bool [V])."""
    return torch.tensor([not text or text[0] in WHITE_SPACE for text in tokens.token_bytes])


def chunk_loss(
    forward: PairedForward, mask_BL: Tensor, *, starts: tuple[Tensor, Tensor], temperature: float, gamma: float
) -> Loss:
    """f(p || q) + f(1 - p || 1 - q), where f(a || b) = a log(a / b), times the temperature, which keeps its size.

    p, q: the teacher's and the student's probability of a chunk and of a word right after it, to the power of
    1 / temperature. Chunks after which the teacher gives a word no more than gamma count as zero. starts: of the
    student's and the teacher's tokens, see `starts_a_word`.
    """
    batch = forward.batch
    log_q_C, word_q_C = chunk_log_probs(batch, mask_BL, forward.student_BME, forward.model.student, starts[0])
    with torch.no_grad():
        log_p_C, word_p_C = chunk_log_probs(batch.teacher, mask_BL, forward.teacher_BME, forward.teacher, starts[1])
    counts_C = word_p_C.exp() > gamma
    coins = (whether(log_C[counts_C] / temperature) for log_C in (log_q_C + word_q_C, log_p_C + word_p_C))
    return temperature * forward_kl(*coins)[0], mask_BL.sum()


def chunk_log_probs(
    batch: Batch, ends_BL: Tensor, hidden_BME: Tensor, model: PreTrainedModel, starts_V: Tensor
) -> tuple[Tensor, Tensor]:
    """The log-probability of each chunk [C], and that of a word right after it, 0 at the end of a document."""
    real_BM = batch.token_mask_BM
    next_T = batch.token_ids_BM.roll(-1, 1)[real_BM]
    head_VE = model.get_output_embeddings().weight
    starts_V = F.pad(starts_V.to(head_VE.device), (0, len(head_VE) - len(starts_V)), value=True)  # ids of no token

    def next_and_word(log_TV: Tensor, where: slice) -> Tensor:
        return torch.stack([log_TV.gather(1, next_T[where, None])[:, 0], log_TV[:, starts_V].logsumexp(1)], 1)

    log_next_T, word_T = sliced_losses.taken(next_and_word, hidden_BME[real_BM], head_VE).unbind(1)
    token_T = (log_next_T * predicted_tokens(batch)[real_BM]).roll(1)  # of the token itself, 0 for BOS
    word_C = word_T[ends_BL[batch.boundary_BL]].masked_fill(batch.byte_ids_BL[ends_BL] == EOS, 0)
    chunk_T = span_numbers(ends_BL)[batch.boundary_BL]
    return torch.zeros_like(word_C).index_add(0, chunk_T, token_T), word_C


def hidden_loss(forward: PairedForward, mask_BL: Tensor) -> Loss:
    """The squared distance of hidden states at the ends of chunks, the student's projected, over the teacher's square.

    Each chunk has a square of its own, so that the sum does not depend on what else the batch holds.
    """
    student_CE, teacher_CE = (
        hidden_BME[batch.token_mask_BM][mask_BL[batch.boundary_BL]].float()
        for batch, hidden_BME in ((forward.batch, forward.student_BME), (forward.batch.teacher, forward.teacher_BME)))
    distance_C = (forward.model.projection(student_CE) - teacher_CE).square().sum(1)
    return (distance_C / teacher_CE.square().sum(1).clamp(min=1e-12)).sum(), mask_BL.sum()


# -- GOLD -------------------------------------------------------------------------------------------------------------


def same_tokens(student: TokenBytes, teacher: TokenBytes) -> tuple[Tensor, Tensor]:
    """The ids on both sides of tokens of the same bytes, and of EOS: int64 [U - 1] each."""
    own, other = ({text: number for number, text in enumerate(tokens.token_bytes)} | {b"": tokens.eos_token_id}
                  for tokens in (student, teacher))
    return tuple(torch.tensor([(own[text], other[text]) for text in own if text in other]).T)


def gold_loss(
    forward: PairedForward, mask_BL: Tensor, *, same: tuple[Tensor, Tensor], divergence: Divergence
) -> Loss:
    """The divergence over the merged spans of GOLD, of a text that is given; same: of `same_tokens`."""
    batch = forward.batch
    own_ids_BL = torch.zeros_like(batch.byte_ids_BL).masked_scatter(
        batch.boundary_BL, batch.token_ids_BM[batch.token_mask_BM])
    judged_BL = batch.mask_BL & (batch.byte_ids_BL != BOS)
    both = Judged(*vars(batch.teacher).values(), batch.boundary_BL, own_ids_BL, ~judged_BL, judged_BL)
    heads = tuple(model.get_output_embeddings().weight for model in (forward.model.student, forward.teacher))
    in_full = partial(_over_same, same=[ids.to(judged_BL.device) for ids in same], divergence=divergence)
    states = forward.student_BME, forward.teacher_BME
    return over_spans(both, batch.boundary_BL, states, heads, divergence, in_full), mask_BL.sum()


def _over_same(
    student_TV: Tensor, teacher_TV: Tensor, *, same: list[Tensor], divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """A divergence where all tokens that the other side lacks are one event; its gradient in the student's logits."""
    own_TU, other_TU = (
        torch.cat([log_TV[:, ids], log_TV.index_fill(1, ids, -torch.inf).logsumexp(1, keepdim=True).clamp(
            min=math.log(PROB_FLOOR))], 1) for log_TV, ids in zip((student_TV, teacher_TV), same, strict=True))
    value, gradient_TU = divergence(own_TU, other_TU)
    gradient_TV = gradient_TU[:, -1:] * (student_TV - own_TU[:, -1:]).exp()
    return value, gradient_TV.index_copy(1, same[0], gradient_TU[:, :-1])
