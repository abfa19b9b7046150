"""The next byte after any beginning of a text, exact over all encodings that cover it.

A beginning x is covered by tokens d_1 .. d_m if x ends with d_m or within it, and the tokenizer can write them: the
encoding of some text, which begins with x, begins with them (`encodings.py`). A text has one encoding, so it is counted
once. So, with sums over coverings,

    P(x) = sum P(d_1 .. d_m)        P(b | x) = P(xb) / sum over b' of P(xb')        (Phan et al., arXiv 2410.09303)

This is a distribution of texts: it does not know where tokens end, and holds within a word and within a character. What
the model gives to tokens that are no encoding is left out, so each row is divided by its sum. The tokens d_1 .. d_{m-1}
are a node of the tree of encodings, which has about one a byte, and d_m is any token that begins with the bytes they
leave: one forward pass over the tree, then sums over ranges of the sorted vocabulary.

Shape letters: V token ids, T nodes of a slice, N nodes, R nodes and bytes after each, P places of the text, S = 257.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dbyte.byte_probabilities.encodings import Encodings, EncodingTree
from dbyte.byte_probabilities.token_model import TreeReader


@torch.inference_mode()
def log_probs(data: bytes, reader: TreeReader, encodings: Encodings) -> Tensor:
    """Log-probabilities of the byte after each beginning of a text, the empty one first: fp32 [P, S] on the CPU.

    data: a text, or any beginning of one; symbol 256 ends it. reader: has read nothing. One forward pass over about a
    token a byte; memory is O(bytes * (bytes + longest token)). Raises ValueError for a byte that no token has, or a
    text longer than the model's positions.
    """
    tree = encodings.tree(data)
    log_sums = []
    place_R = []
    for nodes, log_prob_T, prob_VT in _read(data, tree, reader, encodings):
        paths = [encodings.vocabulary.path(data[tree.place[node] :]) for node in nodes]
        log_prob_R = log_prob_T.repeat_interleave(torch.tensor(list(map(len, paths))))
        log_sums.append(encodings.vocabulary.sums(prob_VT, paths, "bytes").cpu().log_() + log_prob_R[:, None])
        place_R += [tree.place[node] + each.depth for node, path in zip(nodes, paths, strict=True) for each in path]
    return _log_mean(torch.cat(log_sums), torch.tensor(place_R), len(data) + 1)


@torch.inference_mode()
def coverings(data: bytes, reader: TreeReader, encodings: Encodings) -> list[tuple[list[int], float]]:
    """All coverings of a text: (its tokens, BOS first; log-probability). The last token may have more bytes than it.

    Arguments, memory and errors are those of `log_probs`.
    """
    tree = encodings.tree(data)
    if not data:
        return [(tree.tokens(0), 0.0)]
    found = []
    for nodes, log_prob_T, prob_VT in _read(data, tree, reader, encodings):
        for node, log_prob, prob_V in zip(nodes, log_prob_T, prob_VT.T, strict=True):
            if (left := data[tree.place[node] :]) and (ending := encodings.vocabulary.node(left)):
                where = slice(ending.low, ending.high)
                scores = (log_prob + prob_V[where].cpu().log()).tolist()
                found += [([*tree.tokens(node), token], score) for token, score in
                          zip(encodings.vocabulary.id_V[where].tolist(), scores, strict=True) if score > -torch.inf]
    return found


def _read(
    data: bytes, tree: EncodingTree, reader: TreeReader, encodings: Encodings
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """The nodes of a tree of encodings, slice by slice, and what the model says of them and of the next token.

    Yields nodes; their log-probabilities (fp64 [T], CPU); the probabilities of all tokens after each, in sorted order
    (fp64 [V, T]), zero for a token that does not follow in any encoding.
    """
    log_prob_N = torch.zeros(len(tree), dtype=torch.float64)
    for nodes, log_VT in reader.log_probs(tree):
        for child, parent in enumerate(tree.parent):
            if parent in nodes:
                log_prob_N[child] = log_prob_N[parent] + log_VT[tree.token[child], parent - nodes.start].double()
        follows = [encodings.may_follow(tree.token[node], tree.ways[node]) for node in nodes]
        prob_VT = log_VT.double().exp().mul_(torch.stack(follows, dim=1).to(log_VT.device))
        yield nodes, log_prob_N[nodes.start : nodes.stop], prob_VT[encodings.vocabulary.id_V]


def _log_mean(log_sums_RS: Tensor, place_R: Tensor, places: int) -> Tensor:
    """The distribution at each place from the logs of sums that belong there: fp32 [P, S]."""
    peak_P = log_sums_RS.new_full((places,), -torch.inf).scatter_reduce_(0, place_R, log_sums_RS.amax(1), "amax")
    mass_PS = log_sums_RS.new_zeros(places, log_sums_RS.shape[1])
    mass_PS.index_add_(0, place_R, (log_sums_RS - peak_P[place_R][:, None]).exp())
    return (mass_PS / mass_PS.sum(1, keepdim=True)).log().float()
