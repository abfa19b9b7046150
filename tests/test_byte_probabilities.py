"""What a token model says of bytes: sums over a vocabulary, brute force over six tokens, encodings of beginnings."""

import math
import random
from functools import cache
from itertools import chain, islice

import pytest
import torch
from test_losses import LargestTensor
from test_real_tokenizers import FAMILIES as REAL
from test_real_tokenizers import build, table_of
from tiny_tokenizers import EDGES, KINDS, SCRIPTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dbyte.byte_probabilities import coverings, within_token
from dbyte.byte_probabilities.beam import Beam
from dbyte.byte_probabilities.encodings import NO_UTF8, Encodings, completions, split_characters
from dbyte.text.sorted_vocabulary import ALPHABETS, JOINT_STOP, STOP, SortedVocabulary
from dbyte.text.spans import TokenBytes

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer has no token for")  # SmolLM2's
BITS = [b"<eos>", b"a", b"b", b"c", b"ab", b"aab", b"abc"]
TEXT = b"abaabcab"
HARD = ["The cat's 12345 mats,  and   x = f(a)\r\n\t\ty", "naïve 中文 😀 \u0301e I'LL don't",
        "\n \n  \tb1 22 333 \u2003d"]


def normalised(log_prob_RS):
    return (log_prob_RS.exp().sum(1) - 1).abs().max() < 1e-5


def scores_of(log_prob_RS, symbol_R):
    return log_prob_RS.double().gather(1, symbol_R[:, None])[:, 0]


# -- the sorted vocabulary, and within a token ------------------------------------------------------------------------

# prefixes of one another, one twice, two special ones, a last byte 0xFF, and three ids that only the model has
TOKENS = [b"a", b"b", b"ab", b"abc", b"", b"bc", b"a", b"\xff", b"\xff\xff", b"\xe4", b"\xe4\xb8\xad", b""]


def test_what_begins_with_bytes_is_a_range_and_special_ids_are_in_none():
    vocabulary = SortedVocabulary(TOKENS, size=15)
    assert sorted(vocabulary.id_V.tolist()) == list(range(15)) and len(vocabulary) == 15
    assert sorted(vocabulary.id_V[len(vocabulary.texts) :].tolist()) == [4, 11, 12, 13, 14]
    for prefix in [b"", b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff", b"\xe4", b"\xe4\xb8", b"c", b"abcd"]:
        begin = sorted(token for token, text in enumerate(TOKENS) if text and text.startswith(prefix))
        node = vocabulary.node(prefix)
        if not begin:
            assert node is None
            continue
        assert sorted(vocabulary.id_V[node.low : node.high].tolist()) == begin
        ends = [token for token in begin if TOKENS[token] == prefix]
        assert sorted(vocabulary.id_V[node.low : node.longer].tolist()) == ends
        assert (node.longer < node.high) == (len(ends) < len(begin))
    assert [node.depth for node in vocabulary.path(b"abcd")] == [0, 1, 2, 3]
    assert [node.depth for node in vocabulary.path(b"xy")] == [0]


@pytest.mark.parametrize("alphabet", ["joint", "ends"])
def test_the_symbols_of_a_token_multiply_to_its_probability_however_small(alphabet):
    torch.manual_seed(0)
    vocabulary = SortedVocabulary(TOKENS, size=15)
    hidden_TE, head_VE = torch.randn(11, 4), torch.randn(15, 4)
    hidden_TE[:, 0] = 1
    head_VE[:, 0] = 0
    head_VE[[3, 10], 0] = -60  # far beyond what a difference of sums in fp32 or fp64 can show
    token_T = [3, 10, 2, 4, 5, 7, 8, 9, 1, 3, 11]
    table = within_token.log_probs(hidden_TE, head_VE[vocabulary.id_V], token_T, vocabulary, alphabet=alphabet)
    symbol_R = within_token.symbols(token_T, vocabulary, alphabet=alphabet)
    assert len(table) == len(symbol_R) and table.shape[1] == ALPHABETS[alphabet] and normalised(table)
    sizes = [max(1, len(TOKENS[token]) + (alphabet == "ends" and TOKENS[token] != b"")) for token in token_T]
    log_prob_TV = (hidden_TE @ head_VE.T).double().log_softmax(-1)
    for row, (token, found) in enumerate(zip(token_T, scores_of(table, symbol_R).split(sizes), strict=True)):
        # the byte 0xFF is EOS in the joint alphabet: there the token 0xFF, which no text has, counts with special ones
        texts = [b"" if alphabet == "joint" and text == b"\xff" else text for text in TOKENS + [b""] * 3]
        same = [each for each in range(15) if texts[each] == texts[token]]
        expected = log_prob_TV[row, same].logsumexp(0).item()
        assert found.sum().item() == pytest.approx(expected, abs=1e-6 if expected > -20 else 1e-5)  # fp32's step at 60
    assert log_prob_TV[0, 3] < -55


@pytest.mark.parametrize("alphabet", ["joint", "ends"])
@pytest.mark.parametrize("below", [95, 300])
def test_a_token_further_below_the_likeliest_than_fp32_reaches(alphabet, below):
    vocabulary = SortedVocabulary(TOKENS)
    hidden_TE, head_VE = torch.ones(2, 1), torch.zeros(len(TOKENS), 1)
    head_VE[[10, 1]] = -below
    for token in (10, 1):  # of three bytes, of one
        table = within_token.log_probs(hidden_TE, head_VE[vocabulary.id_V], [token, 2], vocabulary, alphabet=alphabet)
        assert normalised(table)
        found = scores_of(table, within_token.symbols([token, 2], vocabulary, alphabet=alphabet))
        size = len(TOKENS[token]) + (alphabet == "ends")
        assert found[:size].sum().item() == pytest.approx(-below - math.log(len(TOKENS) - 2), rel=3e-7)


@pytest.mark.parametrize("alphabet", ["joint", "ends"])
def test_the_symbols_of_a_token_of_a_large_vocabulary_multiply_to_its_probability(alphabet):
    """49,152 tokens, as SmolLM2's tokenizer has: sums over so many numbers keep six digits of the logarithm."""
    draw = random.Random(5)
    texts = {bytes([each]) for each in range(254)}
    while len(texts) < 49_152:
        texts.add(bytes(draw.choice(b"etaoin shrdlu") for _ in range(draw.randint(2, 9))))
    texts = sorted(texts, key=lambda _: draw.random())
    vocabulary = SortedVocabulary(texts)
    torch.manual_seed(0)
    hidden_TE, head_VE = torch.randn(8, 16), torch.randn(len(texts), 16)
    token_T = torch.randint(len(texts), (8,)).tolist()
    table = within_token.log_probs(hidden_TE, head_VE[vocabulary.id_V], token_T, vocabulary, alphabet=alphabet)
    sizes = [len(texts[token]) + (alphabet == "ends") for token in token_T]
    found = scores_of(table, within_token.symbols(token_T, vocabulary, alphabet=alphabet)).split(sizes)
    # the logits in fp32, as the table has them; all that follows in fp64
    log_prob_TV = (head_VE @ hidden_TE.T).T.double().log_softmax(-1)
    for row, (token, scores) in enumerate(zip(token_T, found, strict=True)):
        assert scores.sum().item() == pytest.approx(log_prob_TV[row, token].item(), abs=2e-6)


@pytest.mark.parametrize("positions", [64, 256])
def test_no_tensor_grows_with_positions_times_vocabulary(positions):
    """Beyond the table of results, which has 512 symbols whatever the vocabulary is."""
    vocabulary = SortedVocabulary([bytes([first, second]) for first in range(64) for second in range(64)])
    token_T = torch.randint(len(vocabulary), (positions,)).tolist()
    with LargestTensor() as seen:
        within_token.log_probs(torch.randn(positions, 4), torch.randn(len(vocabulary), 4), token_T, vocabulary, rows=16)
    assert seen.largest == max(16 * len(vocabulary), 2 * positions * ALPHABETS["joint"])


@pytest.mark.parametrize("alphabet", ["joint", "ends"])
def test_how_many_rows_are_in_memory_at_once_changes_nothing(alphabet):
    torch.manual_seed(0)
    vocabulary = SortedVocabulary(TOKENS)
    hidden_TE, head_VE = torch.randn(9, 4), torch.randn(len(TOKENS), 4)
    token_T = [3, 2, 4, 0, 5, 10, 8, 1, 3]
    one, some, all_ = (within_token.log_probs(hidden_TE, head_VE[vocabulary.id_V], token_T, vocabulary,
                                              alphabet=alphabet, rows=rows) for rows in (1, 4, 100))
    torch.testing.assert_close(one, all_, rtol=0, atol=1e-5)
    torch.testing.assert_close(some, all_, rtol=0, atol=1e-5)
    assert one[0].exp()[STOP if alphabet == "ends" else JOINT_STOP] > 0  # special tokens count as one symbol


def test_what_was_asked_of_a_long_text_is_not_kept():
    """No token is as long as the text, so its rests are no nodes; kept, they took memory with the text's square."""
    vocabulary = SortedVocabulary([b"", *BITS[1:]])
    for size in (100, 1000):
        assert vocabulary.node(b"ab" * size) is None
    assert vocabulary.node(b"zzz") is None and sum(map(len, vocabulary._nodes)) <= 2 * vocabulary.longest


# -- all coverings of a six-token vocabulary --------------------------------------------------------------------------


@cache
def six_tokens():
    """A tokenizer of six tokens and EOS, and its encodings."""
    vocabulary = {token.decode(): number for number, token in enumerate(BITS)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("a", "ab"), ("ab", "c")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    table = TokenBytes((b"", *BITS[1:]), 0, 0, backend=backend)
    return table, Encodings(table, SortedVocabulary(table.token_bytes))


class Trigrams:
    """A token model that looks two tokens back."""

    def __init__(self):
        draw = torch.Generator().manual_seed(1)
        self.table = (torch.randn(7, 7, 7, generator=draw) * 1.5).log_softmax(-1)

    def after(self, tokens):
        return self.table[tokens[-2] if len(tokens) > 1 else 0, tokens[-1]]

    def reader(self):
        return TrigramReader(self)


class TrigramReader:
    """As a TreeReader."""

    def __init__(self, model):
        self.model, self.known = model, 0

    def log_probs(self, tree):
        nodes = range(self.known, len(tree))
        self.known = len(tree)
        if nodes:
            yield nodes, torch.stack([self.model.after(tree.tokens(node)) for node in nodes], 1)


def is_encoding(tokens):
    text = b"".join(BITS[token] for token in tokens).decode()
    return [each.id for each in six_tokens()[0].backend.model.tokenize(text)] == tokens


def brute_force(x, model, valid):
    """The distribution after x: all token sequences that cover x and one byte more, or are x and end."""
    mass = [0.0] * 257
    waiting = [([0], b"", 0.0)]
    while waiting:
        tokens, text, score = waiting.pop()
        after = model.after(tokens).double()
        if text == x:
            mass[256] += math.exp(score + after[0])
        for token in range(1, len(BITS)):
            longer = text + BITS[token]
            if not (longer.startswith(x) or x.startswith(longer)) or valid and not is_encoding([*tokens[1:], token]):
                continue
            if len(longer) > len(x):
                mass[longer[len(x)]] += math.exp(score + after[token])
            else:
                waiting.append(([*tokens, token], longer, score + after[token].item()))
    return torch.tensor(mass, dtype=torch.double) / sum(mass)


class Unlikely(Trigrams):
    """Of the tokens with text only the first is likely: what fp32 can tell from 0 ends between the others."""

    def __init__(self):
        super().__init__()
        self.table = (self.table + torch.tensor([0.0, -150, 0, 0, -110, -150, -150])).log_softmax(-1)


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("kind", [Trigrams, Unlikely])
def test_brute_force_over_coverings(kind, valid):
    """All of the tokenizer's encodings, and all sequences of tokens."""
    model, (_, encodings) = kind(), six_tokens()
    expected = torch.stack([brute_force(TEXT[:end], model, valid) for end in range(len(TEXT) + 1)])
    if valid:
        found = coverings.log_probs(TEXT, model.reader(), encodings)
    else:
        beam = Beam(model.reader(), encodings.vocabulary, bos_token_id=0, K=10**6, epsilon=1e-30)
        found = beam.log_probs(TEXT)
        assert beam.healed == 0
    torch.testing.assert_close(found.exp().double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Trigrams, Unlikely])
def test_each_covering_of_a_text_is_an_encoding_with_the_models_score(kind):
    model, (_, encodings) = kind(), six_tokens()
    for end in range(1, len(TEXT) + 1):
        found = coverings.coverings(TEXT[:end], model.reader(), encodings)
        for tokens, log_prob in found:
            of_tokens = sum(model.after(tokens[:at])[tokens[at]].item() for at in range(1, len(tokens)))
            assert log_prob == pytest.approx(of_tokens, abs=1e-4) and is_encoding(tokens[1:])
            assert b"".join(BITS[token] for token in tokens[1:]).startswith(TEXT[:end])
        assert found and len({tuple(tokens) for tokens, _ in found}) == len(found)
    assert coverings.coverings(b"", model.reader(), encodings) == [([0], 0.0)]


def test_a_wider_beam_comes_nearer():
    model, vocabulary = Trigrams(), SortedVocabulary([b"", *BITS[1:]])
    def read(**sizes):
        beam = Beam(model.reader(), vocabulary, bos_token_id=0, **sizes)
        return beam.log_probs(TEXT + b"babc")
    exact = read(K=10**6, epsilon=1e-30)
    narrow, wide = read(K=1, epsilon=0.3), read(K=5, epsilon=0.001)
    assert normalised(narrow) and normalised(wide)
    assert all(normalised(read(K=K, epsilon=0.9)) for K in (1, 2, 10))  # also where each state's token has to end
    distances = [(table.exp() - exact.exp()).abs().sum(1).mean().item() / 2 for table in (narrow, wide)]
    assert distances[1] < 0.01 < distances[0]


def test_a_dynamic_programme_over_places_and_contexts():
    """Forward sums over (place, last two tokens) have nothing in common with trees, beams or sorted ranges."""
    model, vocabulary = Trigrams(), SortedVocabulary([b"", *BITS[1:]])
    text = TEXT + b"babc"
    prob = model.table.double().exp()
    ending = [{} for _ in range(len(text) + 1)]  # at each place: the probability of token sequences by last two tokens
    ending[0][0, 0] = 1.0
    total = [0.0] * (len(text) + 1)  # of all that begins with so many bytes
    for place in range(len(text) + 1):
        for (first, second), mass in ending[place].items():
            for token in range(1, len(BITS)):
                step = mass * prob[first, second, token].item()
                size = len(BITS[token])
                follows = text[place:].ljust(size)
                agreed = next((at for at in range(size) if follows[at] != BITS[token][at]), size)
                for more in range(1, agreed + 1):
                    total[place + more] += step
                if agreed == size:
                    key = second, token
                    ending[place + size][key] = ending[place + size].get(key, 0.0) + step
    beam = Beam(model.reader(), vocabulary, bos_token_id=0, K=10**6, epsilon=1e-30).log_probs(text)
    # the total of the first byte is that of all texts that are not empty; later ones are ratios
    for place in range(2, len(text)):
        rest = sum(mass * prob[key + (0,)].item() for key, mass in ending[place].items())
        others = sum(beam[place].exp()[byte].item() for byte in b"abc")
        ratio = total[place + 1] / total[place]
        assert beam[place].exp()[text[place]].item() == pytest.approx(ratio, rel=1e-4)
        assert beam[place].exp()[256].item() == pytest.approx(rest / total[place], rel=1e-4)
        assert others + beam[place].exp()[256].item() == pytest.approx(1)


# -- which tokens may follow, and the tree of encodings ---------------------------------------------------------------


@cache
def tiny(kind):
    table = TokenBytes.from_tokenizer(KINDS[kind]())
    return table, Encodings(table, SortedVocabulary(table.token_bytes, size=len(table) + 7))


@cache
def real(family):
    table = table_of(family)
    return table, Encodings(table, SortedVocabulary(table.token_bytes))


@pytest.fixture(params=[*(f"tiny-{kind}" for kind in KINDS), *(f"real-{family}" for family in REAL)])
def tokens_and_encodings(request):
    size, _, name = request.param.partition("-")
    if size == "tiny":
        return tiny(name)
    build(name)  # skips where its files are absent
    return real(name)


def test_merges_say_which_pairs_the_tokenizers_own_model_leaves_alone(tokens_and_encodings):
    table, encodings = tokens_and_encodings
    draw = random.Random(3)
    model = encodings.apart.model  # merges alone
    letters = {token: text for text, token in encodings.backend.get_vocab(with_added_tokens=False).items()
               if table.token_bytes[token] and (token in encodings.merges.last or len(text) == 1)}
    some = draw.sample(sorted(letters), 12)
    met = set()
    for left in some:
        allowed = encodings.merges.may_follow(left)
        refused = [token for token in (~allowed).nonzero()[:, 0].tolist() if token in letters]
        for right in draw.sample(sorted(letters), 40) + draw.sample(refused, min(len(refused), 20)):
            both = letters[left] + letters[right]
            alone = [token.id for token in model.tokenize(both)] == [left, right]
            assert alone == allowed[right].item(), (letters[left], letters[right])
            met.add(alone)
    assert met == {True, False}
    assert encodings.merges.may_follow(table.bos_token_id).all()


def child(tree, node, token):
    """The node of one more token; None where the tree has none."""
    return next((each for each, before in enumerate(tree.parent) if before == node and tree.token[each] == token), None)


def test_what_the_tokenizer_itself_writes_is_never_refused(tokens_and_encodings):
    """Also where splitting into words keeps apart what merges would join: two spaces, digits, contractions."""
    table, encodings = tokens_and_encodings
    for text in filter(table.can_spell, [*HARD, "\u0915\u094d\u200d\u0937 \u0915\u094d\u0915"]):
        tree, node = encodings.tree(table.normalise(text).encode()), 0
        for token in [*table.align(text).token_ids.tolist(), table.eos_token_id]:
            assert encodings.may_follow(tree.token[node], tree.ways[node])[token], tree.tokens(node)
            node = child(tree, node, token)


PIECES = [
    " ", "  ", "   ", "\n", "\r\n", "\t", "\x0b", "\x0c", "\x85", "\u3000", "1", "12", "123", "1234567", "\u0663",
    "'", "'s", "'l", "'ll", "'RE", "'\u017f", "ll", "a", "The", "x", "e", "!", "(", "\u4e2d", "\u4eba", "\U0001f600",
    "\xe9", "\xdf", "\u0301", "\x1f", "<think>", "think>"]
AFTER = [
    "", *PIECES, *(space + each for space in (" ", "\t", "\u3000") for each in ("a", "\n", "!", "\U0010ffff")),
    "n", "ve", "\n\n", "\u07ca", "\U0010ffff", "k>"]


class Written:
    """What a tokenizer can write, by asking it: for whole texts, and for the beginnings of what longer ones give."""

    def __init__(self, table):
        self.table = table
        self.backend = Tokenizer.from_str(table.backend.to_str())
        self.backend.encode_special_tokens = True
        self.backend.normalizer = None

    def whole(self, data):
        return tuple(self.backend.encode(data.decode(), add_special_tokens=False).ids)

    def begun(self, tokens):
        """Whether some text's encoding begins with these tokens; a character that they cut becomes each one it may."""
        data = self.table.decode(tokens)
        text, cut = split_characters(data)
        if NO_UTF8.search(text):
            return False
        completed = [data + each.encode()[len(cut):] for alike in completions(cut).values() for each in alike]
        texts = (each + more.encode() for more in AFTER for each in completed)
        return any(self.whole(each)[: len(tokens)] == tokens for each in islice(texts, 4200))


@pytest.mark.parametrize("texts", [20, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_coverings_are_exactly_what_the_tokenizer_can_write(tokens_and_encodings, texts):
    """Each covering of a short text, tried by itself, is accepted if and only if some longer text has it."""
    table, encodings = tokens_and_encodings
    written, vocabulary = Written(table), encodings.vocabulary
    draw = random.Random(7)
    wrong = []
    some = ("".join(draw.choices(PIECES, k=4)).encode()[: draw.randint(1, 8)] for _ in range(texts))
    for data in chain([b"a  x", b"a\n  x", b"\n  \n", b"1234", b"I'll", b"a \x0cb"], some):
        if set(data) - table.single_bytes:
            continue
        tree = encodings.tree(data)
        waiting = [((), 0)]
        while waiting:
            tokens, node = waiting.pop()
            allowed_V = torch.zeros(len(vocabulary)) if node is None else (
                encodings.may_follow(tree.token[node], tree.ways[node]))
            left = data[len(table.decode(tokens)) :]
            if not left:
                found = bool(allowed_V[table.eos_token_id])
                if found != (not split_characters(data)[1] and written.whole(data) == tokens):
                    wrong.append((data, [table.token_bytes[each] for each in tokens], "ends", found))
                continue
            longer = vocabulary.node(left)
            over = vocabulary.id_V[longer.low : longer.high].tolist() if longer else []
            accepted = [token for token in over if allowed_V[token]]
            inside = [vocabulary.id_V[each.low].item() for each in vocabulary.path(left)[1:] if each.low < each.longer]
            drawn = [token for among in (over, accepted) for token in draw.sample(among, min(len(among), 12))]
            for token in {*inside, *drawn}:
                found, longer = bool(allowed_V[token]), (*tokens, token)
                if found != written.begun(longer):
                    # A search proves what it finds. Where all ends of a cut character merge, a token that reaches into
                    # the next one may still keep them apart, and not every next one is tried.
                    if found and split_characters(table.token_bytes[token])[1]:
                        continue
                    wrong.append((data, [table.token_bytes[each] for each in longer], found))
                elif found and len(table.token_bytes[token]) <= len(left):
                    waiting.append((longer, child(tree, node, token)))
    assert not wrong, f"{len(wrong)}: {wrong[:8]}"


def test_the_tree_holds_the_encoding_of_every_beginning(tokens_and_encodings):
    table, encodings = tokens_and_encodings
    texts = [*(text[:24] for text in SCRIPTS.values()), *HARD, *(EDGES[name][:40] for name in ("emoji", "combining",
             "crlf", "spaces", "added tokens", "special tokens"))]
    for text in filter(table.can_spell, texts):
        text = table.normalise(text)
        data = text.encode()
        tree = encodings.tree(data)
        paths = {tuple(tree.tokens(node)[1:]) for node in range(len(tree))}
        for end in range(len(text) + 1):
            assert tuple(encodings.backend.encode(text[:end], add_special_tokens=False).ids) in paths, text[:end]
        for node in range(1, len(tree)):
            assert table.decode(tree.tokens(node)[1:]) == data[: tree.place[node]] and tree.parent[node] < node
        assert set(tree.place) == set(range(len(data) + 1)) and len(tree) <= 2 * len(data) + 2


def test_bytes_that_are_no_utf8_and_cut_characters():
    _, encodings = tiny("gpt2")
    for data in (b"a\xff\xfe b\x80", b"\xc3", b"x\xe4\xb8", b"\xf0\x9f", b"\xed\xa0\x80z", b"\xc0\xaf"):
        tree = encodings.tree(data)
        assert all(encodings.tokens.decode(tree.tokens(node)[1:]) == data[: tree.place[node]]
                   for node in range(len(tree)))
        assert max(tree.place) == len(data)
    assert split_characters("aé中".encode()[:-1]) == ("aé", "中".encode()[:-1])
    assert split_characters(b"\xe4\xb8a\xed\xa0") == ("\udce4\udcb8a\udced\udca0", b"")
    assert len(encodings.tree(b"")) == 1
    for cut in (b"\xc3", b"\xe4", b"\xe4\xb8", b"\xf0\x9f\x98", b"\xcc", b"\xed"):
        found = completions(cut)
        assert found and all(each.encode().startswith(cut) for alike in found.values() for each in alike)
