"""The next byte after any beginning of a text, exact over all encodings that cover it.

A beginning x is covered by tokens d_1 .. d_m if x ends with d_m or within it, and the tokens are the tokenizer's own
encoding of their bytes. A text has one encoding, and begins with x if a covering of x is what that encoding begins
with. So, with sums over coverings,

    P(x) = sum P(d_1 .. d_m)        P(b | x) = P(xb) / sum over b' of P(xb')        (Phan et al., arXiv 2410.09303)

This is a distribution of texts: it does not know where tokens end, and holds within a word and within a character. What
the model gives to tokens that are no encoding is left out, so each row is divided by its sum. The tokens d_1 .. d_{m-1}
are a node of the tree of encodings, which has about one a byte, and d_m is any token that begins with the bytes they
leave: one forward pass over the tree, then sums over ranges of the sorted vocabulary.

Shape letters: V token ids, T nodes of a slice, N nodes, R (node, bytes that it leaves), P places of the text, S = 257
symbols.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dbyte.byte_probabilities.encodings import Encodings
from dbyte.byte_probabilities.token_model import TokenModel
from dbyte.byte_probabilities.vocabulary import SortedVocabulary


@dataclass(frozen=True)
class Coverings:
    """All coverings of all beginnings of a text.

    log_prob_PS: log-probabilities (fp32 [L + 1, 257]) of the byte after each beginning, the empty one first; symbol 256
    ends the text. last: those of the whole text: (its tokens, BOS first; log-probability), the last token may have more
    bytes than the text.
    """

    log_prob_PS: Tensor
    last: list[tuple[list[int], float]]


@torch.inference_mode()
def coverings(
    data: bytes, model: TokenModel, vocabulary: SortedVocabulary, encodings: Encodings, *, last: bool = False
) -> Coverings:
    """Read a text, or any beginning of one; last: also list the coverings of the whole.

    One forward pass over about a token a byte. Memory is O(bytes * (bytes + longest token)). Raises ValueError for a
    byte that no token has, or a text longer than the model's positions.
    """
    tree = encodings.tree(data)
    children = [[] for _ in range(len(tree))]
    for node, parent in enumerate(tree.parent[1:], start=1):
        children[parent].append(node)
    id_V = vocabulary.id_V.to(model.device)
    log_prob_N = torch.zeros(len(tree), dtype=torch.float64)
    found = []
    sums = []
    node_R = []
    place_R = []
    for nodes, log_VT in model.reader().log_probs(tree):
        for column, node in enumerate(nodes):
            for child in children[node]:
                log_prob_N[child] = log_prob_N[node] + log_VT[tree.token[child], column].double()
        prob_VT = log_VT.exp()
        prob_VT *= torch.stack([encodings.may_follow(data[: tree.place[node]], tree.token[node]) for node in nodes],
                               dim=1).to(prob_VT.device)
        prob_VT = prob_VT[id_V]
        lefts = [data[tree.place[node] :] for node in nodes]
        paths = [vocabulary.path(left) for left in lefts]
        sums.append(vocabulary.sums(prob_VT, paths, "bytes").cpu())
        for column, (node, left, path) in enumerate(zip(nodes, lefts, paths, strict=True)):
            node_R += [node] * len(path)
            place_R += range(tree.place[node], tree.place[node] + len(path))
            if last and left and (ending := vocabulary.node(left)):
                tokens = tree.tokens(node)
                where = slice(ending.low, ending.high)
                log_probs = (log_prob_N[node] + prob_VT[where, column].cpu().log()).tolist()
                found += [([*tokens, token], log_prob)
                          for token, log_prob in zip(vocabulary.id_V[where].tolist(), log_probs, strict=True)]
    if last and not data:
        found = [(tree.tokens(0), 0.0)]
    log_sums_RS = torch.cat(sums).log_() + log_prob_N[torch.tensor(node_R)][:, None]
    return Coverings(_log_mean(log_sums_RS, torch.tensor(place_R), len(data) + 1), found)


def _log_mean(log_sums_RS: Tensor, place_R: Tensor, places: int) -> Tensor:
    """The distribution at each place from the logs of sums that belong there: fp32 [P, S]."""
    peak_P = log_sums_RS.new_full((places,), -torch.inf).scatter_reduce_(0, place_R, log_sums_RS.amax(1), "amax")
    mass_PS = log_sums_RS.new_zeros(places, log_sums_RS.shape[1])
    mass_PS.index_add_(0, place_R, (log_sums_RS - peak_P[place_R][:, None]).exp())
    return (mass_PS / mass_PS.sum(1, keepdim=True)).log().float()
