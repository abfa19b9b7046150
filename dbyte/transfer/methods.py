"""The ways of transfer, each a sum of weighted terms over the same rows.

    L = CE(tokens) + lambda_b sum CE(bytes of the token) + lambda_KL sum KL(teacher's bytes || student's)    BLD, Eq. 5

    bld        all of it
    byte_ce    without the teacher: lambda_KL = 0
    sft        the first term alone
    alm        ALM: chunks of the same bytes, binarised divergence, hidden states; alm_sft adds the first term

The byte terms are sums over the bytes of a token, and means over tokens; ALM's are means over chunks. A further method
is one more entry of `TERMS`: `PairedForward` gives it both models' hidden states, and `spans.py` the tokens of a span.

Shape letters: B rows, L bytes, M tokens, E width, T predicted tokens, J bytes of a token, N bytes of tokens, S symbols,
K symbols that are kept, C chunks, V token ids.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill import sliced_losses
from dbyte.distill.losses import WHITE_SPACE, Loss, has_next, log_softmax
from dbyte.distill.objectives import Objective
from dbyte.distill.terms import Forward, Term, language_model
from dbyte.text.packing import Batch
from dbyte.text.spans import BOS, TokenBytes
from dbyte.transfer import losses
from dbyte.transfer.byte_targets import WhileTraining
from dbyte.transfer.heads import LONGEST
from dbyte.transfer.paired import PairedBatch
from dbyte.transfer.spans import Chunks, TokenSpans, common_chunks, token_spans

TERMS = {"sft": ("token",), "byte_ce": ("token", "byte_ce"), "bld": ("token", "byte_ce", "byte_kl"),
         "alm": ("chunk", "hidden"), "alm_sft": ("token", "chunk", "hidden")}


@dataclass
class PairedForward(Forward):
    """A paired batch on its way through a `TransferStudent` and its teacher.

    read: gives the byte targets of a batch that has none.
    """

    batch: PairedBatch
    read: WhileTraining | None = None

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
        return token_spans(self.batch, predicting(self.batch).roll(1, 1), longest=LONGEST)

    @cached_property
    def byte_logits_NS(self) -> Tensor:
        """What the byte head says of the bytes of predicted tokens; nothing lies beyond a token's end."""
        hidden_TE = self.student_BME[predicting(self.batch)]
        return self.model.byte_head(hidden_TE, self.spans.symbol_TJ)[self.spans.mask_TJ]

    @cached_property
    def targets(self) -> tuple[Tensor, Tensor]:
        """The teacher's likeliest symbols at these bytes (int64 [N, K]) and their probabilities (fp32)."""
        symbol_BLK, prob_BLK = self.batch.symbol_BLK, self.batch.prob_BLK
        if symbol_BLK is None:
            symbol_BLK, prob_BLK = self.read(self.teacher, self.batch.teacher)
        place_N = self.spans.place_TJ[self.spans.mask_TJ]
        return symbol_BLK.flatten(0, 1)[place_N].long(), prob_BLK.flatten(0, 1)[place_N].float()

    @cached_property
    def chunks(self) -> tuple[Chunks, Chunks]:
        """Those of the student's and of the teacher's tokens."""
        return common_chunks(self.batch, self.batch.teacher)


@dataclass(frozen=True)
class Method(Objective):
    """An objective over paired batches; read: how byte targets are made where a batch has none."""

    read: WhileTraining | None = field(default=None, compare=False)

    def sums(
        self, model: nn.Module, teacher: nn.Module | None, batch: Batch, way: type[Forward] = PairedForward
    ) -> tuple[Tensor, ...]:
        """The weighted sum of each term over a batch, fp32 scalars; way: not read, it is always a PairedForward."""
        return super().sums(model, teacher, batch, partial(PairedForward, read=self.read))


def method(
    name: str, *, student: TokenBytes, teacher: TokenBytes, byte_weight: float = 1.0, kl_weight: float = 0.1,
    temperature: float = 100.0, gamma: float = 0.1, read: WhileTraining | None = None,
) -> Method:
    """One of TERMS, with the published weights.

    byte_weight, kl_weight: BLD's lambdas (>= 0). temperature (> 0), gamma (in [0, 1)): ALM's, see `ChunkTerm`. Raises
    ValueError for another name or weights out of range.
    """
    if name not in TERMS:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(TERMS)}")
    if min(byte_weight, kl_weight) < 0 or temperature <= 0 or not 0 <= gamma < 1:
        raise ValueError("byte weights must be at least 0, ALM's temperature above 0 and its gamma in [0, 1); found "
                         f"{byte_weight}, {kl_weight}, {temperature} and {gamma}")
    chunk = ChunkTerm(starts_a_word(student), starts_a_word(teacher), temperature, gamma)
    every = {"token": (1, Term(token_loss, predicting)), "byte_ce": (byte_weight, Term(byte_ce_loss, predicting)),
             "byte_kl": (kl_weight, Term(byte_kl_loss, predicting, reads_teacher="whole")),
             "chunk": (1, Term(chunk, chunk_ends, reads_teacher="whole")),
             "hidden": (1, Term(hidden_loss, chunk_ends, reads_teacher="whole"))}
    of_bytes, of_chunks = f" {byte_weight:g} {kl_weight:g}", f" {temperature:g} {gamma:g}"
    full_name = name + of_bytes * ("byte_ce" in TERMS[name]) + of_chunks * ("chunk" in TERMS[name])
    return Method(full_name, tuple(every[term] for term in TERMS[name]), read)


def predicting(batch: Batch) -> Tensor:
    """True at the tokens after which a token is predicted: bool [B, M]."""
    return has_next(batch.token_document_BM)


def token_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the student's next token."""
    next_T = forward.batch.token_ids_BM.roll(-1, 1)[mask_BM]
    head_VE = forward.model.student.get_output_embeddings().weight
    return sliced_losses.next_token(forward.student_BME[mask_BM], head_VE, next_T)


def byte_ce_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """Cross-entropy of the bytes of the student's next token."""
    symbol_N = forward.spans.symbol_TJ[forward.spans.mask_TJ]
    return losses.byte_cross_entropy(forward.byte_logits_NS, symbol_N), mask_BM.sum()


def byte_kl_loss(forward: PairedForward, mask_BM: Tensor) -> Loss:
    """The divergence from the teacher's distribution of these bytes."""
    return losses.byte_divergence(forward.byte_logits_NS, *forward.targets), mask_BM.sum()


# -- ALM --------------------------------------------------------------------------------------------------------------


def common_ends(batch: PairedBatch) -> Tensor:
    """True at the last byte of each chunk, BOS included: bool [B, L]."""
    return batch.boundary_BL & batch.teacher.boundary_BL


def chunk_ends(batch: PairedBatch) -> Tensor:
    """True at the last byte of each chunk that is predicted: bool [B, L]."""
    return common_ends(batch) & (batch.byte_ids_BL != BOS)


def starts_a_word(tokens: TokenBytes) -> Tensor:
    """Whether each token id begins with white space or is no text, so that it may follow a whole word (bool [V])."""
    return torch.tensor([not text or text[0] in WHITE_SPACE for text in tokens.token_bytes])


@dataclass(frozen=True)
class ChunkTerm:
    """ALM's divergence of chunk probabilities, each times the probability that a word begins after the chunk.

    Chunks after which the teacher gives that no more than gamma count as zero.
    """

    student_starts_V: Tensor
    teacher_starts_V: Tensor
    temperature: float
    gamma: float

    def __call__(self, forward: PairedForward, mask_BL: Tensor) -> Loss:
        batch = forward.batch
        own, other = forward.chunks
        log_q_C, word_q_C = chunk_log_probs(batch, forward.student_BME, forward.model.student, own,
                                            self.student_starts_V)
        with torch.no_grad():
            log_p_C, word_p_C = chunk_log_probs(batch.teacher, forward.teacher_BME, forward.teacher, other,
                                                self.teacher_starts_V)
        counts_C = mask_BL[common_ends(batch)] & (word_p_C.exp() > self.gamma)
        loss_C = losses.binarised(log_p_C + word_p_C, log_q_C + word_q_C, temperature=self.temperature)
        return loss_C[counts_C].sum(), mask_BL.sum()


def chunk_log_probs(
    batch: Batch, hidden_BME: Tensor, model: PreTrainedModel, chunks: Chunks, starts_V: Tensor
) -> tuple[Tensor, Tensor]:
    """The log-probability of each chunk [C], and that of a word right after it, 0 at the end of a document."""
    predicts_BM = predicting(batch)
    log_TV = log_softmax(F.linear(hidden_BME[predicts_BM], model.get_output_embeddings().weight))
    next_T1 = batch.token_ids_BM.roll(-1, 1)[predicts_BM][:, None]
    starts_V = F.pad(starts_V.to(log_TV.device), (0, log_TV.shape[1] - len(starts_V)), value=True)
    zeros_BM = log_TV.new_zeros(predicts_BM.shape)
    token_BM = zeros_BM.masked_scatter(predicts_BM.roll(1, 1), log_TV.gather(1, next_T1))
    word_BM = zeros_BM.masked_scatter(predicts_BM, log_TV[:, starts_V].logsumexp(1))
    word_C = word_BM[chunks.last_BM]
    return torch.zeros_like(word_C).index_add(0, chunks.of_token_BM.flatten(), token_BM.flatten()), word_C


def hidden_loss(forward: PairedForward, mask_BL: Tensor) -> Loss:
    """The distance of hidden states at the ends of chunks, the student's projected to the teacher's width."""
    own, other = forward.chunks
    counts_C = mask_BL[common_ends(forward.batch)]
    student_CE = forward.model.projection(forward.student_BME[own.last_BM][counts_C])
    return losses.hidden_distance(student_CE, forward.teacher_BME[other.last_BM][counts_C]), mask_BL.sum()
