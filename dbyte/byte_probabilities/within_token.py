"""What a token model says of the bytes within its own tokens: one forward pass, then sums over the vocabulary.

Let M(u) be the probability of all tokens that begin with the bytes u, E(u) that of the token u itself, both after the
tokens so far. A byte b after the bytes u of an unfinished token has the joint symbols of JBP (arXiv 2602.01007, section
4.1.2), and for a student without flags the byte, or the end of the token, as the next symbol:

    "joint"   P(b, ends) = E(ub) / (M(u) - E(u))        P(b, goes on) = (M(ub) - E(ub)) / (M(u) - E(u))
    "ends"    P(b)       = M(ub) / M(u)                 P(end)        = E(u) / M(u)

Both are exact for the token model along these tokens: the product over a token's symbols is the token's probability,
and special tokens together are the byte EOS. They are no distribution of text alone, since they know where the tokens
so far end: `coverings.py` has that.

Shape letters: T tokens that are predicted, E width, V token ids, R symbols of these tokens, S symbols to choose from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dbyte.text.sorted_vocabulary import BYTES, JOINT_STOP, STOP, SortedVocabulary

ROWS_AT_ONCE = 512  # positions whose probabilities of all tokens are in memory together
LEAST = 1e-30  # a token so much less likely than the likeliest is near the end of what fp32 can hold


@torch.no_grad()
def log_probs(
    hidden_TE: Tensor, sorted_head_VE: Tensor, token_T: Sequence[int], vocabulary: SortedVocabulary, *,
    alphabet: str = "joint", rows: int = ROWS_AT_ONCE,
) -> Tensor:
    """Log-probabilities of each symbol within each token (fp32 [R, S]), the tokens one after another.

    hidden_TE: last hidden states of the positions that predict the tokens token_T. sorted_head_VE: the head's weight
    in the vocabulary's order, `head_VE[vocabulary.id_V]`. A token of L bytes has L rows, and one more with "ends"; one
    without bytes has one row. alphabet: "joint" (S = 512) or "ends" (S = 257). rows: positions at once; memory beyond
    the result is O(rows * V). Nothing takes a gradient.
    """
    parts = []
    for start in range(0, len(hidden_TE), rows):
        logits_VT = (sorted_head_VE @ hidden_TE[start : start + rows].T).float()
        tokens = token_T[start : start + rows]
        texts = [vocabulary.text_of[token] for token in tokens]
        paths = [vocabulary.path(text if alphabet == "ends" else text[:-1]) for text in texts]
        logits_VT -= logits_VT.amax(0)
        sums_RS = vocabulary.sums(logits_VT.exp(), paths, alphabet)
        spelled_R = symbols(tokens, vocabulary, alphabet=alphabet).to(sums_RS.device)
        if (sums_RS.gather(1, spelled_R[:, None]) < LEAST).any():
            sums_RS = vocabulary.sums(logits_VT.double().exp_(), paths, alphabet)
        parts.append((sums_RS / sums_RS.sum(1, keepdim=True)).log().float())
    return torch.cat(parts)


def symbols(token_T: Sequence[int], vocabulary: SortedVocabulary, *, alphabet: str = "joint") -> Tensor:
    """The symbols that spell the tokens (int64 [R]): the r-th is drawn from row r of `log_probs`."""
    spelled = []
    for token in token_T:
        text = vocabulary.text_of[token]
        if alphabet == "ends":
            spelled += [*text, STOP]
        else:
            spelled += [*text[:-1], text[-1] + BYTES] if text else [JOINT_STOP]
    return torch.tensor(spelled, dtype=torch.long)
