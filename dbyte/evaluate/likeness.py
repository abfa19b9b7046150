"""How close a Stage-1 student is to its teacher on held-out text: Eq. 3, measured along the teacher's boundaries.

Shape letters: B rows, M tokens, V vocabulary, S positions that predict a token.
"""

import torch
from transformers import PreTrainedModel

from dbyte.distill.losses import forward_kl, has_next
from dbyte.distill.terms import Forward, language_model
from dbyte.evaluate.stats import ratio_of_sums
from dbyte.kernels.fast import fast_products
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Rows

BATCH_ROWS = 4
POSITIONS_AT_ONCE = 512


@torch.inference_mode()
def likeness(student: ByteStudent, teacher: PreTrainedModel, rows: Rows) -> dict:
    """Compare the next-token distributions of a student and its teacher at every token of packed rows.

    Returns:
        divergence: KL(teacher || student) in nats per token; agreement: the share of tokens with the same likeliest
        next token, in [0, 1]; divergence_stderr and agreement_stderr, which take rows as draws; n: tokens that are
        predicted.
    """
    found = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows.batch(range(start, min(start + BATCH_ROWS, len(rows)))).to(student.device)
        mask_BM = has_next(batch.token_document_BM)
        with fast_products():
            student_BME = Forward(student, teacher, batch).token_hidden()
            teacher_BME = language_model(teacher, batch)
        for student_ME, teacher_ME, mask_M in zip(student_BME, teacher_BME, mask_BM, strict=True):
            found.append(_row(student.token_head(student_ME[mask_M]),
                              teacher.get_output_embeddings()(teacher_ME[mask_M])))
    divergences, agreements, counts = zip(*found, strict=True)
    divergence = ratio_of_sums((divergences, counts))
    agreement = ratio_of_sums((agreements, counts))
    return {"divergence": divergence.value, "divergence_stderr": divergence.stderr, "agreement": agreement.value,
            "agreement_stderr": agreement.stderr, "n": sum(counts)}


def _row(student_SV: torch.Tensor, teacher_SV: torch.Tensor) -> tuple[float, float, int]:
    """The summed divergence of a row's positions, how many have the same likeliest token, and how many there are."""
    divergence = agreement = 0.0
    for student, teacher in zip(student_SV.split(POSITIONS_AT_ONCE), teacher_SV.split(POSITIONS_AT_ONCE), strict=True):
        divergence += forward_kl(student.float().log_softmax(-1), teacher.float().log_softmax(-1))[0].item()
        agreement += (student.argmax(-1) == teacher.argmax(-1)).sum().item()
    return divergence, agreement, len(student_SV)
