"""Stage 2 along the teacher's tokens, which the paper has not: its labels follow the router's boundaries.

The next symbol (a byte, and whether it ends a token) may then be that of the text, or the distribution that the teacher
has over all of them (`byte_probabilities/within_token.py`). For JBP alone, whose byte head has these 512 symbols.

Shape letters: B rows, L bytes, M tokens, T tokens that are predicted, E core width, V token ids, P bytes that are
predicted, K2 joint symbols.
"""

from torch import Tensor
from transformers import PreTrainedModel

from dbyte.byte_probabilities import within_token
from dbyte.distill import losses
from dbyte.distill.losses import Loss
from dbyte.distill.objectives import Objective
from dbyte.distill.terms import Forward, boundary, predicted_bytes, predicted_tokens, term
from dbyte.text.packing import Batch
from dbyte.text.sorted_vocabulary import SortedVocabulary


@term(predicted_bytes)
def symbols_of_text(forward: Forward, mask_BL: Tensor) -> Loss:
    """Cross-entropy of the next byte and whether it ends a token, along the teacher's tokens."""
    label_BL = losses.joint_labels(forward.batch.byte_ids_BL, forward.batch.boundary_BL)
    return losses.next_byte(forward.byte_logits_along_tokens_BLK, label_BL, mask_BL)


@term(predicted_bytes, reads_teacher="whole")
def symbols_of_teacher(forward: Forward, mask_BL: Tensor) -> Loss:
    """KL from what the teacher says of each byte within its tokens: labels say which came, these which might have."""
    teacher_PK2 = symbols_of(forward.teacher, forward.teacher_BME, forward.batch, forward.model.sorted_vocabulary)
    return losses.dense(forward.byte_logits_along_tokens_BLK[mask_BL], teacher_PK2)


def symbols_of(teacher: PreTrainedModel, teacher_BME: Tensor, batch: Batch, vocabulary: SortedVocabulary) -> Tensor:
    """A teacher's log-probabilities of the symbols at each byte that is predicted, token by token: [P, K2].

    teacher_BME: its last hidden states on the batch. vocabulary: of its tokens.
    """
    predicts_BM = predicted_tokens(batch)
    next_T = batch.token_ids_BM.roll(-1, dims=1)[predicts_BM]
    head_VE = teacher.get_output_embeddings().weight.detach()[vocabulary.id_V]
    return within_token.log_probs(teacher_BME[predicts_BM], head_VE, next_T.tolist(), vocabulary)


TERMS = {"tokens": ((1, symbols_of_text),), "dense": ((1, symbols_of_teacher),),
         "mixed": ((0.5, symbols_of_text), (0.5, symbols_of_teacher))}


def along_tokens(targets: str, *, routed: bool = False) -> Objective:
    """The objective of a step of Stage 2.

    targets: "tokens", the symbols of the text; "dense", the teacher's distribution over them; "mixed", the mean of
    both. routed: Eq. 4 next to it.
    """
    if routed:
        return Objective(f"{targets} with_boundary", (*TERMS[targets], (1, boundary)))
    return Objective(targets, TERMS[targets])
