"""The longest token that ends at a byte, and the teacher's embedding of it: a first guess of a chunk's embedding.

A chunk is nearly always a token, and the longest token of the vocabulary that the text so far ends with is nearly
always that token, wherever the chunk began. So its embedding is most of what step 1.1 has to learn, and nothing has to
be trained for it. The chunk's embedding is then

    encoder_projection(encoded) + g * embedding[longest suffix],     g = sigmoid(gate . encoded)

and Eq. 2 teaches the encoder the rest. It is causal and knows no boundaries. Source: Bolmo (arXiv 2512.15586, section
3.1) adds such embeddings to those of bytes; here they skip the encoder, whose width they do not have. The paper (arXiv
2602.01007) has none, so it is an option that is off.

Shape letters: B rows, L bytes, D byte width, E core width, V tokens, K tokens of one length, X any bytes or chunks,
W LONGEST, or the width of the router's embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.text.spans import BOS, EOS

LONGEST = 16  # bytes; of SmolLM2's 49,152 tokens 99.7 % are no longer
FACTOR = 6364136223846793005  # of the hash (Knuth's)
OPEN = 4.0  # the gate's first bias: sigmoid(4) = 0.98
ODDS_SCALE = 0.3  # initial scale of the embeddings that the router learns
ODDS_STEP = 100.0  # each token is rare: its embedding learns this many times faster than the rate says
ODDS_FLOOR = 1e-6  # of a probability whose log-odds are taken


class SuffixProjection(nn.Linear):
    """The projection of the encoder's states to the core's width, and the gated embedding that is added to it.

    The embeddings are the teacher's; they are a buffer, so no step trains them. The projection starts at zero: training
    starts from what the suffixes give.
    """

    def __init__(self, width: int, core_width: int, *, vocabulary: int):
        super().__init__(width, core_width, bias=False)
        nn.init.zeros_(self.weight)
        self.gate = nn.Linear(width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, OPEN)
        self.register_buffer("embedding_VE", torch.zeros(vocabulary, core_width))

    def of_suffix(self, encoded_XD: Tensor, suffix_X: Tensor) -> Tensor:
        """What is added for chunks that end at bytes with these states and suffixes (int64): [X, E]."""
        return self.gate(encoded_XD).sigmoid() * self.embedding_VE[suffix_X]


class SuffixOdds(nn.Module):
    """Log-odds of a boundary between two neighbouring bytes, from the longest token that ends at each of them.

    Whether a token continues depends on spelling, of which a frozen encoder holds only a part. Embeddings of both
    tokens, `width` wide and learned from where tokens end, go through one hidden layer.
    """

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embedding_2VW = nn.Parameter(torch.randn(2, vocabulary, width) * (ODDS_SCALE / ODDS_STEP))
        self.hidden = nn.Linear(2 * width, 4 * width)
        self.out = nn.Linear(4 * width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, prob_X: Tensor, suffix_X: Tensor, next_suffix_X: Tensor) -> Tensor:
        """Return the probabilities (fp32) of boundaries after the log-odds of these suffixes (int64) are added."""
        pair_XW = torch.cat((self.embedding_2VW[0, suffix_X], self.embedding_2VW[1, next_suffix_X]), dim=-1)
        odds_X = self.out(F.silu(self.hidden(ODDS_STEP * pair_XW)))[..., 0].float()
        return (prob_X.logit(ODDS_FLOOR) + odds_X).sigmoid()


class SuffixTable:
    """The vocabulary by the hashes of its tokens, to find the longest one that ends at each byte.

    The hash of bytes is the sum of (byte + 1) * FACTOR**k, k = 1 for the last of them, with the overflow of int64: the
    hashes of all suffixes are one running sum.
    """

    def __init__(self, token_texts: list[bytes], *, bos_token_id: int, eos_token_id: int):
        """token_texts: the bytes of each token id, empty for special tokens. BOS and EOS are tokens of one byte."""
        ids = {text: token_id for token_id, text in reversed(list(enumerate(token_texts))) if text}
        ids |= {bytes([BOS]): bos_token_id, bytes([EOS]): eos_token_id}
        self.none = bos_token_id
        self.known = []  # (length, hashes in ascending order, their token ids)
        for length in range(1, LONGEST + 1):
            texts = [text for text in ids if len(text) == length]
            if texts:
                key_K, order_K = _hashes(torch.tensor([[*text] for text in texts]))[:, -1].sort()
                assert (key_K[1:] != key_K[:-1]).all(), "two tokens have one hash"
                self.known.append((length, key_K, torch.tensor([ids[text] for text in texts])[order_K]))

    def find(self, byte_BL: Tensor) -> Tensor:
        """The id of the longest token that ends at each byte (int64 [B, L]), BOS's where none does.

        byte_BL: int64, each row from its beginning, or with the LONGEST - 1 bytes before the first one of interest; -1
        where a row has no byte. A wrong token is found with probability V / 2**64.
        """
        if self.known[0][1].device != byte_BL.device:  # moved once: writing text asks for every chunk
            self.known = [(length, key_K.to(byte_BL.device), id_K.to(byte_BL.device))
                          for length, key_K, id_K in self.known]
        found_BL = torch.full_like(byte_BL, self.none)
        window_BLW = F.pad(byte_BL, (LONGEST - 1, 0), value=-1).unfold(1, LONGEST, 1)
        hash_BLW = _hashes(window_BLW)
        for length, key_K, id_K in self.known:
            hash_BL = hash_BLW[..., length - 1].contiguous()
            place_BL = torch.searchsorted(key_K, hash_BL).clamp(max=len(key_K) - 1)
            whole_BL = window_BLW[..., -length] >= 0
            found_BL = torch.where((key_K[place_BL] == hash_BL) & whole_BL, id_K[place_BL], found_BL)
        return found_BL


def _hashes(byte_XW: Tensor) -> Tensor:
    """The hashes of the last 1, 2 .. W bytes: int64 [X, W]."""
    power_W = byte_XW.new_full(byte_XW.shape[-1:], FACTOR).cumprod(0)
    return ((byte_XW.flip(-1) + 1) * power_W).cumsum(-1)
