"""Bits per byte of a teacher and of its student with another tokenizer, on the same pieces of text."""

from collections.abc import Sequence

import pandas as pd

from dbyte.evaluate.bits import bits_per_byte, teacher_nats
from dbyte.model.teacher import load_model, read_teacher
from dbyte.text.corpus import Corpus
from dbyte.text.spans import TokenBytes
from dbyte.transfer.paired import paired_documents
from dbyte.transfer.plan import Planned


def bits_table(planned: Planned, heldout: Sequence[Corpus], *, device: str = "cpu") -> pd.DataFrame:
    """Of a finished transfer, the rows (corpus, model, value, stderr, n): teacher, student before it, student.

    Raises ValueError for a corpus without a text that both tokenizers can spell.
    """
    own, other = map(TokenBytes.from_tokenizer, (planned.tokenizer, read_teacher(planned.other_place)[1]))
    models = {"teacher": load_model(planned.other_place, device=device),
              "student before": planned.first_student().to(device),
              "student": load_model(planned.run.model_folder, device=device)}
    rows = []
    for corpus in heldout:
        pairs = list(paired_documents(corpus.documents, own, other, row_bytes=planned.asked.row_bytes))
        if not pairs:
            raise ValueError(f"no held-out text of {corpus.name} is left that both tokenizers can spell and that fits "
                             f"rows of {planned.asked.row_bytes} bytes: ask for more of it (--heldout-bytes)")
        student_pieces, teacher_pieces = map(list, zip(*pairs, strict=True))
        for who, model in models.items():
            pieces = teacher_pieces if who == "teacher" else student_pieces
            found = bits_per_byte(teacher_nats(model, pieces), pieces)
            rows.append({"corpus": corpus.name, "model": who, "value": found["value"], "stderr": found["stderr"],
                         "n": found["n"]})
    return pd.DataFrame(rows)
