"""The five perturbations and Eq. 5: rates, seeds, Unicode, and what noise does to a model's requests."""

import math
import unicodedata

import pytest
from answering import Answering
from conftest import Ask

import dbyte
from dbyte.evaluate.noisy_lm import MIXED, PLACES, Noise, NoisyLM
from dbyte.text.perturb import KINDS, REPEATS, perturb
from dbyte_paper.above_chance import robustness_score
from dbyte_paper.published import published

LONG = "The quick brown fox jumps over the lazy dog, and then it rests. " * 200
SCRIPTS = ["", " ", "x", "naïve café", "e\u0301a\u0308 decomposed", "👩‍🚀👍🏽 🇩🇪 ❤️", "日本語テキスト", "ИЖЕ и слово",
           "ß und ẞ, İstanbul ı", "नमस्ते", "a\n\tb\r\n"]


def test_by_hand():
    assert dbyte.perturb("Hi you", "antspeak") == "H I   Y O U"
    assert perturb("Straße é", "uppercase") == "STRASSE É"
    assert perturb("e\u0301x", "antspeak") == "E\u0301 X"


def test_the_rates_are_those_that_are_stated():
    """Each count lies within five standard deviations of its expectation."""
    n = len(LONG)
    dropped = n - len(perturb(LONG, "drop"))
    assert dropped == pytest.approx(0.1 * n, abs=5 * (n * 0.09) ** 0.5)
    cased = perturb(LONG, "random_case")
    letters = [c for c in cased if c.isalpha()]
    assert sum(c.isupper() for c in letters) == pytest.approx(len(letters) / 2, abs=5 * (len(letters) / 4) ** 0.5)
    assert cased.lower() == LONG.lower()
    distinct = "".join(map(chr, range(0x4E00, 0x4E00 + 9000)))
    repeated = perturb(distinct, "repeat")
    copies = [repeated.count(c) for c in distinct]
    assert set(copies) == {1, *REPEATS}
    assert sum(k > 1 for k in copies) == pytest.approx(0.2 * 9000, abs=5 * (9000 * 0.16) ** 0.5)
    for k in REPEATS:
        assert copies.count(k) == pytest.approx(600, abs=5 * 600**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_the_words_is_hit_and_none_else(kind):
    assert perturb(LONG, kind, share=0) == LONG and perturb(LONG, kind, share=1.0) == perturb(LONG, kind)
    words = [f"wOrd{chr(97 + number % 26)}number" for number in range(3000)]
    text = "\n ".join(words)
    parts = perturb(text, kind, share=0.2).split("\n ")
    hit = sum(one != other for one, other in zip(words, parts, strict=True)) / len(words)
    always = 1 - 0.9**11 if kind == "drop" else 1 - 0.8**11 if kind == "repeat" else 1.0  # a hit word may stay whole
    assert hit == pytest.approx(0.2 * always, abs=0.04)
    assert perturb(text, kind, share=0.2) == perturb(text, kind, share=0.2) != perturb(text, kind, 1, share=0.2)
    with pytest.raises(ValueError, match="0 to 1"):
        perturb("x", kind, share=1.1)


def test_mixed_noise_draws_a_kind_for_each_text_and_old_addresses_stay():
    noise = Noise(MIXED, seed=2)
    texts = [f"Walter number {number} found the Ring in Bergen, and then he went home." for number in range(200)]
    drawn = [{kind for kind in KINDS if noise.of(text) == perturb(text, kind, 2)} for text in texts]
    assert set().union(*drawn) == set(KINDS) and all(drawn)
    assert Noise("drop").describe() == {"kind": "drop", "place": "both", "seed": 0}
    assert Noise("drop", share=0.5).describe()["share"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_stays_text(kind):
    for text in SCRIPTS:
        changed = perturb(text, kind)
        changed.encode()
        assert bool(changed) == bool(text) and perturb(text, kind) == changed
        assert not changed or not unicodedata.category(changed[0]).startswith("M")  # no mark lost its character
        assert kind == "antspeak" or " \u0301" not in changed


@pytest.mark.parametrize("kind", ["drop", "random_case", "repeat"])
def test_draws_belong_to_seed_and_text(kind):
    assert perturb(LONG, kind) == perturb(LONG, kind, seed=0) != perturb(LONG, kind, seed=1)
    assert not perturb(LONG + "x", kind).startswith(perturb(LONG, kind)[:200])


def test_nothing_is_dropped_to_nothing():
    assert all(perturb("ab", "drop", seed=seed) for seed in range(500))
    assert any(perturb("ab", "drop", seed=seed) != "ab" for seed in range(50))


def test_eq_5_by_hand_and_on_the_papers_own_table():
    assert robustness_score(0.75, 0.50) == pytest.approx(50) and robustness_score(0.5, 0.5, chance=0) == 100
    assert math.isnan(robustness_score(0.25, 0.3))
    table = published("table06_robustness").set_index("metric")["llama-3.2-3b/baseline"]
    derived = robustness_score(table["HellaSwag original"] / 100, table["HellaSwag noise avg"] / 100)
    assert derived == pytest.approx(table["robustness score"], abs=0.02)


@pytest.mark.parametrize("place", PLACES)
def test_noise_strikes_where_it_is_told(place):
    lm = NoisyLM(Answering(lambda *asked: asked), Noise("uppercase", place))
    prompt, completion = lm.loglikelihood([Ask("Anna lives in", " rome")])[0]
    assert (prompt == "ANNA LIVES IN") == (place != "completion") and prompt.lower() == "anna lives in"
    assert (completion == " ROME") == (place != "prompt") and completion.lower() == " rome"
    assert lm.generate_until([Ask("a", {"until": []})])[0] == ("a" if place == "completion" else "A", {"until": []})


@pytest.mark.parametrize("call, said", [
    (lambda: perturb("a", "shout"), "unknown perturbation"), (lambda: perturb(b"a", "drop"), "decode bytes"),
    (lambda: Noise("drop", "margin"), "unknown place"), (lambda: Noise("fog"), "unknown perturbation"),
    (lambda: robustness_score(73.7, 54.1), "in \\[0, 1\\]"),
])
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
