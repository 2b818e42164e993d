"""Runs on data whose shortest code is known: random labels, random characters, a genome; real where they are there.

The models are in `controls.py`; the data, their shortest codes, and why none is shorter, in `control_data.py`.
"""

import lzma
import math
from pathlib import Path

import control_data
import controls
import pytest
from control_data import CLASSES, DELTA_BITS, arrangement_bits, counting_bits
from controls import Counting, Softmax, bits_of, letter_run

from prequential.codelength import nats_to_bits
from prequential.errors import PrequentialWarning

DATA = Path(__file__).parents[2] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real images and texts is not there")
real_or_made_up = pytest.fixture(params=[pytest.param("real", marks=real_data), "made up"])


# Labels given images


@real_or_made_up
def labelled(request):
    return control_data.mnist(DATA, 6_000) if request.param == "real" else control_data.made_up_images(3_000)


def test_true_labels_cost_far_less_than_random_ones(labelled):
    """With what is learnt on the way included, under a third of the uniform code, and under that of the permuted."""
    bits = bits_of(controls.label_run(labelled.images, labelled.labels))
    assert bits < len(labelled.labels) * math.log2(CLASSES) / 3
    assert bits < arrangement_bits(labelled.labels.tolist()) / 3


def test_permuted_labels_cost_their_arrangement(labelled):
    """Every arrangement of the labels was as likely, so even a receiver who knows how many there are of each pays."""
    bits = bits_of(controls.label_run(labelled.images, labelled.permuted))
    assert sorted(labelled.permuted.tolist()) == sorted(labelled.labels.tolist())
    assert bits >= arrangement_bits(labelled.labels.tolist()) - DELTA_BITS
    assert bits < 1.01 * len(labelled.labels) * math.log2(CLASSES)


def test_random_labels_cost_the_uniform_code(labelled):
    """Proposition 2 of Blier and Ollivier 2018; its further bit is for codes of whole bits."""
    uniform_bits = len(labelled.labels) * math.log2(CLASSES)
    bits = bits_of(controls.label_run(labelled.images, labelled.drawn))
    assert uniform_bits - DELTA_BITS <= bits < 1.01 * uniform_bits


def test_learning_random_labels_by_heart_does_not_shorten_their_code():
    """Later epochs cost less than any code could, for they are replay, and no part of the total."""
    some = control_data.made_up_images(400)
    once, often = (controls.label_run(some.images, some.drawn, max_epochs=epochs).total for epochs in (1, 13))
    shortest_bits = len(some.labels) * math.log2(CLASSES) - DELTA_BITS
    assert (often.coded_tokens, often.replayed_tokens) == (400, 12 * 400)
    assert often.nats == pytest.approx(once.nats, rel=1e-12)
    assert nats_to_bits(often.replayed_nats) / 12 < shortest_bits <= nats_to_bits(often.nats)


def test_arrangements_are_counted_as_by_hand():
    """aab, aba, baa; and 4! / (2! 2!) of two pairs."""
    assert arrangement_bits("aab") == pytest.approx(math.log2(3))
    assert arrangement_bits(b"abba") == pytest.approx(math.log2(6))


# Random characters


@real_or_made_up
def text(request):
    return control_data.random_text(DATA) if request.param == "real" else control_data.made_up_text(20_000)


def test_random_characters_cost_six_bits(text):
    """A byte-level model learns that there are 64 of them, better than xz does, and nothing more."""
    assert len(set(text)) == 64
    bits, xz_bits = bits_of(controls.byte_run(text)), 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert bits >= max(6 * len(text), arrangement_bits(text)) - DELTA_BITS
    assert bits < min(1.03 * 6 * len(text), xz_bits)


# A genome


@real_or_made_up
def letters(request):
    """Letters, the order of contexts to count after, and the fewest bits: of letters made up they are known exactly."""
    if request.param == "real":
        return control_data.genome(DATA, 120_000), 3, 0.0
    made_up, bits = control_data.made_up_genome(60_000)
    return made_up, 2, bits - DELTA_BITS


def test_counting_costs_what_it_costs_by_hand(letters):
    """Krichevsky and Trofimov's estimator: batches of 2,048 letters through the monitor, or one by one in Python."""
    text, order, fewest_bits = letters
    run = letter_run(Counting, text, order, step=8192)
    assert bits_of(run) == pytest.approx(counting_bits(text, order), rel=1e-11)
    assert fewest_bits <= bits_of(run) < 2 * len(text)
    assert run.total.coded_tokens == len(text)
    assert run.single_pass == ("yes", [])


def test_the_second_time_through_a_genome_is_noticed(letters):
    """The repeats that a genome has by itself are no second pass, as seen above; the whole of it again is."""
    text, order, _ = letters
    half = text[: len(text) // 2]
    with pytest.warns(PrequentialWarning, match="stand in passages that had come before"):
        assert letter_run(Counting, half + half, order, step=2048).single_pass[0] == "no"


def test_a_softmax_costs_what_counting_does(letters):
    """Learnt by gradient descent or counted: the same contexts give the same code, to within 1 %."""
    text, order, fewest_bits = letters
    bits = bits_of(letter_run(Softmax, text, order, step=128))
    assert bits == pytest.approx(counting_bits(text, order), rel=0.01)
    assert bits >= fewest_bits


def test_a_network_on_a_genome_finds_what_counting_finds(letters):
    """Bytes, hashed contexts and a hidden layer: 1 % below to 4 % above the best order of counting, and under xz."""
    text, _, fewest_bits = letters
    best_bits = min(counting_bits(text, order) for order in range(1, 6))
    bits, xz_bits = bits_of(controls.byte_run(text)), 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert max(fewest_bits, 0.99 * best_bits) <= bits < 1.04 * best_bits
    assert bits < 2 * len(text) < xz_bits
