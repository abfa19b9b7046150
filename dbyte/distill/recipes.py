"""Other recipes for a byte-level student as tuples of steps of the one loop: what Tables 1 and 11 compare with.

    from_scratch          H-Net, arXiv 2507.07955         new weights; next byte, ratio loss
    hnet_distillation     H-Net, appendix F               the core as it is; next byte, Eq. 4 at weight 1, Eq. 2 at 0.02
    hnet_own_boundaries   between the two                 the same with the ratio loss in place of Eq. 4
    blt                   BLT, arXiv 2412.09871           a byte model, whose entropy sets boundaries; then next byte
    bolmo                 Bolmo, arXiv 2512.15586         one step of subtraining around a frozen core; then end to end

All have the student of the paper, with its byte of look-ahead and JBP's symbols where they do not say otherwise, so
that they differ in how it is trained. What that leaves out of each, and what its paper leaves open, is in
docs/deviations.md. ALM and BLD to bytes keep a token model's shape and are in `dbyte/transfer/`.

Shape letters: B rows, L bytes, M tokens, T predicted tokens.
"""

import torch
from torch import Tensor

from dbyte.distill import losses, sliced_losses, terms
from dbyte.distill.losses import Loss
from dbyte.distill.objectives import Objective
from dbyte.distill.steps import CORE, DECODER, ENCODER, ROUTER, Group, Step
from dbyte.distill.terms import Forward, predicted_bytes, predicted_tokens, routed_bytes, term
from dbyte.model.entropy_router import entropy

# What the students of recipes are given in place of a scale's own: H-Net learns boundaries through its smoothing.
HNET = {"router_ffn_width": 0, "router_suffixes": 0, "smoothing": True, "confidence": True}
BLT = {"router": "entropy", "router_suffixes": 0}

RATIO_WEIGHT = 0.03  # H-Net
MATCH_WEIGHT = 0.02  # H-Net, appendix F: of its embedding match
BOUNDARY_WEIGHT = 4.0  # Bolmo: of Eq. 4, in both of its steps
TEMPERATURE = 5.0  # Bolmo: of the likelihood of a token
BYTE_MODEL = 0.2  # the share of BLT's bytes that its byte model reads
SUBTRAINING = 0.2  # the share of Bolmo's bytes before it trains end to end: 43.1 of 216 billion
SLOWER = 0.1  # BLT: the rate of the core over that of what is new
THRESHOLD_RATE = 0.03  # nats an update, about, of BLT's threshold


# -- terms ------------------------------------------------------------------------------------------------------------


@term(routed_bytes, routes=True)
def ratio(forward: Forward, mask_BL: Tensor) -> Loss:
    """H-Net's ratio loss, towards as many boundaries as the row has tokens, so that all cores run equally often."""
    return losses.ratio(forward.prob_BL, forward.router_chunks.boundary_BL, forward.batch.boundary_BL, mask_BL)


@term(predicted_bytes)
def byte_model(forward: Forward, mask_BL: Tensor) -> Loss:
    """The next byte by the model of an entropy router, and its threshold: as many boundaries as there are tokens."""
    batch, router = forward.batch, forward.model.router
    logits_BLK = router.byte_head(router.read(batch.byte_ids_BL, batch.document_BL))
    total, count = losses.next_byte(logits_BLK, batch.byte_ids_BL.roll(-1, 1), mask_BL)
    where_BL = routed_bytes(batch)
    return total + losses.threshold(entropy(logits_BLK), router.threshold, batch.boundary_BL, where_BL)[0], count


@term(predicted_bytes, reads_teacher="whole")
def symbols_after_teacher(forward: Forward, mask_BL: Tensor) -> Loss:
    """The next byte and whether it ends a token, by a decoder that reads the teacher's last states (Bolmo)."""
    label_BL = losses.joint_labels(forward.batch.byte_ids_BL, forward.batch.boundary_BL)
    return losses.next_byte(forward.byte_logits_from_teacher_BLK, label_BL, mask_BL)


@term(predicted_tokens, reads_teacher="whole")
def token_likelihood(forward: Forward, mask_BM: Tensor) -> Loss:
    """KL of two coins, teacher and student: whether the next token is the one that came (Bolmo's exact alignment).

    The student's probability of a token is the product over its symbols, which end with its flag; both are taken to
    the power of 1 / TEMPERATURE.
    """
    batch, teacher = forward.batch, forward.teacher
    where = mask_BM.nonzero(as_tuple=True)
    student_T = token_log_probs(forward.byte_logits_from_teacher_BLK, batch.byte_ids_BL,
                                batch.boundary_BL, predicted_bytes(batch))[:, 1 : mask_BM.shape[1] + 1][where]
    with torch.no_grad():
        teacher_T = sliced_losses.token_log_probs(
            forward.teacher_BME[where], teacher.get_output_embeddings().weight,
            batch.token_ids_BM.roll(-1, dims=1)[where])
    pair = (losses.whether(log_T / TEMPERATURE) for log_T in (student_T, teacher_T))
    return losses.forward_kl(*pair)[0], mask_BM.sum()


def token_log_probs(joint_logits_BLK2: Tensor, byte_ids_BL: Tensor, boundary_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """The student's log-probability of each token, [B, M + 1]: the sum over the bytes that masked ones predict.

    Those of column 0, of a row's first token, are not predicted, and count as 0.
    """
    label_BL1 = losses.joint_labels(byte_ids_BL, boundary_BL)[..., None]
    log_BL = losses.log_softmax(joint_logits_BLK2).gather(-1, label_BL1)[..., 0] * mask_BL
    token_BL = boundary_BL.long().cumsum(1)  # of the next byte
    M = int(token_BL.max())
    return log_BL.new_zeros(len(log_BL), M + 1).scatter_add(1, token_BL, log_BL)


# -- recipes ----------------------------------------------------------------------------------------------------------

_NEXT = ((1, terms.next_byte),)
hnet = Objective("hnet", (*_NEXT, (RATIO_WEIGHT, ratio)))
hnet_distilled = Objective("hnet_distilled", (*_NEXT, (1, terms.boundary), (MATCH_WEIGHT, terms.align)))
hnet_matched = Objective("hnet_matched", (*_NEXT, (RATIO_WEIGHT, ratio), (MATCH_WEIGHT, terms.align)))
of_byte_model = Objective("byte_model", ((1, byte_model),))
along_entropy = Objective("along_entropy", _NEXT)
bolmo_full = Objective("bolmo_full", (*_NEXT, (BOUNDARY_WEIGHT, terms.boundary)))


def bolmo_subtraining(layers: int) -> Objective:
    """Bolmo's first step: Eq. 4, the core's states after its first layers, and two losses of the decoder."""
    return Objective(f"bolmo_subtraining {layers}", (
        (BOUNDARY_WEIGHT, terms.boundary), (1, terms.match(layers)), (1, token_likelihood),
        (1, symbols_after_teacher)))


def _step(
    name: str, objective: Objective, groups: tuple[Group, ...], train_bytes: int, *, grouped: bool = True,
    new_core: bool = False,
) -> Step:
    return Step(f"2 {name}", 2, objective, groups, train_bytes, warmup=0.1, floor=0.1, grouped=grouped,
                new_core=new_core)


def from_scratch(*, train_bytes: int, rate: float, muon: float = 0.0) -> tuple[Step, ...]:
    """A student of new weights learns the next byte, and its boundaries by that and the ratio loss; no teacher."""
    return (_step("from scratch", hnet, (Group(ENCODER + ROUTER + CORE + DECODER, rate, muon),), train_bytes,
                  new_core=True),)


def hnet_distillation(*, train_bytes: int, rate: float, muon: float = 0.0) -> tuple[Step, ...]:
    """All but the core learns the next byte, the teacher's boundaries and its embeddings at once (appendix F)."""
    return (_step("H-Net distillation", hnet_distilled, (Group(ENCODER + ROUTER + DECODER, rate, muon),),
                  train_bytes),)


def hnet_own_boundaries(*, train_bytes: int, rate: float, core_rate: float, muon: float = 0.0) -> tuple[Step, ...]:
    """Boundaries by the ratio loss in place of the teacher's, and a core that follows them at its own rate."""
    return (_step("H-Net, own boundaries", hnet_matched,
                  (Group(ENCODER + ROUTER + DECODER, rate, muon), Group(CORE, core_rate)), train_bytes),)


def blt(*, train_bytes: int, rate: float, muon: float = 0.0) -> tuple[Step, ...]:
    """First the byte model; then along its boundaries the next byte, the core at a tenth of the rate; no teacher."""
    first = round(BYTE_MODEL * train_bytes)
    return (
        _step("byte model", of_byte_model, (Group(("router.threshold",), THRESHOLD_RATE), Group(ROUTER, rate, muon)),
              first, grouped=False),
        _step("BLT", along_entropy, (Group(ENCODER + DECODER, rate, muon), Group(CORE, SLOWER * rate)),
              train_bytes - first),
    )


def bolmo(
    *, train_bytes: int, layers: int, rate: float, outer_rate: float, core_rate: float, muon: float = 0.0,
) -> tuple[Step, ...]:
    """All but the core against the teacher, the decoder on the teacher's own states; then everything end to end.

    layers: of the core that the encoder is matched through, a quarter of them in the paper. rate, muon: of the first
    step. outer_rate, core_rate: of the second.
    """
    first = round(SUBTRAINING * train_bytes)
    outer = ENCODER + ROUTER + DECODER
    return (
        _step("Bolmo subtraining", bolmo_subtraining(layers), (Group(outer, rate, muon),), first),
        _step("Bolmo end to end", bolmo_full, (Group(outer, outer_rate), Group(CORE, core_rate)),
              train_bytes - first),
    )
