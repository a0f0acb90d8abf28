"""Token ids of long texts: those of the whole text, whatever windows it is given in."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from helpers import documents, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from unlearnlib.corpus import tokens as module
from unlearnlib.corpus.chunks import Chunk, cut
from unlearnlib.corpus.documents import Document
from unlearnlib.corpus.tokens import TokenIds, encode
from unlearnlib.errors import UnlearnError
from unlearnlib.pretrain import lab_tokenizer

TEXTS = [d.text for d in documents("tokens", 60)] + [
    "Grüße, Straße; l'été. 你好\uff0c世界。Привет, мир! " * 3,
    "def f(x):\n    return x + 1\n\n\n\t# 12345 67,890\n" * 3,
]


def _finished(tokenizer: Tokenizer, trainer: Any) -> Any:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def tokenizer_of(name: str) -> Any:
    """A tokenizer of each family: how it splits words, and what it does to their letters."""
    special = ["<unk>", "<s>", "</s>"]
    if name == "lab":
        return lab_tokenizer()
    if name == "bytes":
        return tiny_tokenizer()
    if name == "sentencepiece":  # as Llama 2: no words at all, spaces are letters
        made = Tokenizer(kinds.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer = _finished(made, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
        tokenizer.backend_tokenizer.pre_tokenizer = None
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        return tokenizer
    if name == "unigram":
        made = Tokenizer(kinds.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        return _finished(
            made,
            trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"),
        )
    made = Tokenizer(kinds.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(made, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))


FAMILIES = ("lab", "bytes", "sentencepiece", "unigram", "wordpiece")
ODD = (
    " " * 50, "\n" * 40, "a" * 200, "ab" * 100, "1234567890" * 9, "你好" * 30, "the " * 40, "<s>",
    "🦉👩\u200d👩\u200d👧", "e\u0301" * 30, "\r\n", "\u2028", "don't can't won't",
)  # fmt: skip
PIECES = st.one_of(st.sampled_from(TEXTS), st.text(min_size=1, max_size=30), st.sampled_from(ODD))


@pytest.mark.parametrize("family", FAMILIES)
@given(pieces=st.lists(PIECES, min_size=1, max_size=30))
@settings(max_examples=40)
def test_windows_give_the_ids_of_the_whole_text(family: str, pieces: list[str]) -> None:
    tokenizer, text = tokenizer_of(family), "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", 320)
        patch.setattr(module, "OVERLAP", 160)
        windowed = encode(text, tokenizer, "a text")
    assert windowed.tolist() == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_is_divided_and_its_ids_are_those_of_the_whole(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(family)
    draw = random.Random(1)
    text = " ".join(draw.choice(TEXTS) for _ in range(400))
    whole = tokenizer(text)["input_ids"]
    monkeypatch.setattr(module, "WINDOW", 3000)
    monkeypatch.setattr(module, "OVERLAP", 600)
    most = 0
    given = module._window

    def counted(text: str, start: int, stop: int, tokenizer: Any) -> Any:
        nonlocal most
        most = max(most, stop - start)
        return given(text, start, stop, tokenizer)

    monkeypatch.setattr(module, "_window", counted)
    assert encode(text, tokenizer, "a text").tolist() == whole
    assert most == 3000, "a text of words has places to part it at"


def test_a_word_without_a_place_to_part_it_is_told_and_has_its_own_ids(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WINDOW", 300)
    monkeypatch.setattr(module, "OVERLAP", 100)
    monkeypatch.setattr(module, "LONG", 1000)
    tokenizer, word = tokenizer_of("wordpiece"), "a" * 5000
    assert encode(word, tokenizer, "the word").tolist() == tokenizer(word)["input_ids"]
    assert "the word has no place in 1,200 characters" in caplog.text


def test_a_tokenizer_that_fails_on_a_text_is_one_sentence_that_names_the_document() -> None:
    class Panics:
        bos_token_id = 1

        def __call__(self, text: str, **_: Any) -> Any:
            if "🦉" in text:
                raise type("PanicException", (BaseException,), {})("no match:\nbacktracking")
            return {"input_ids": [1, 2, 3, 4, 5, 6]}

    texts = [Document("fine", "words"), Document("owl\n", "a 🦉")]
    with pytest.raises(UnlearnError) as caught:
        cut(texts, Panics(), 16, name="forget")
    assert str(caught.value) == (
        "the tokenizer fails on the forget document 'owl\\n' (no match: backtracking): take it "
        "out, or give the tokenizer that the model was trained with."
    )


def test_a_keyboard_interrupt_is_none_of_that() -> None:
    def interrupted(text: str, **_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode("words", interrupted, "a text")


# ---- TokenIds -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**31 - 1), max_size=20), st.integers(-5, 25), st.integers(-5, 25))
def test_token_ids_are_a_tuple_in_all_but_size(ids: list[int], start: int, stop: int) -> None:
    made, plain = TokenIds(ids), tuple(ids)
    assert made == plain and plain == made and hash(made) == hash(plain)
    assert made[start:stop] == plain[start:stop] and list(made) == ids and len(made) == len(ids)
    assert pickle.loads(pickle.dumps(made)) == made == TokenIds(made)
    assert {made: 1}[plain] == 1 and repr(made) == repr(plain)  # type: ignore[index]
    assert torch.tensor(made).tolist() == np.array(made).tolist() == ids
    assert made != (*ids, 1) and made != ids


def test_a_chunk_takes_any_sequence_of_ids() -> None:
    assert Chunk("a#0", "a", (1, 2, 3)) == Chunk("a#0", "a", [1, 2, 3])
    assert Chunk("a#0", "a", (1, 2, 3)).tokens[1:] == (2, 3)


# ---- memory and time ------------------------------------------------------------------------

MEASURED = """
import base64, random, resource, sys, time
from unlearnlib.corpus.chunks import cut
from unlearnlib.corpus.documents import Document
from unlearnlib.models import load_tokenizer

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

tokenizer = load_tokenizer("lab")
kind, size = sys.argv[1], int(sys.argv[2])
draw = random.Random(0)
if kind == "words":
    words = "the keeper of Vesk was Mira, 1203".split()
    text = " ".join(draw.choices(words, k=size // 5))
else:
    text = base64.b64encode(draw.randbytes(size))[:size].decode()
cut([Document("warm", "some words to begin with")], tokenizer, 1024)
before, started = peak(), time.process_time()
chunks = cut([Document("a", text)], tokenizer, 1024)
print((peak() - before) / len(text), (time.process_time() - started) / len(text))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["words", "base64"])
def test_memory_and_time_of_one_long_line_are_linear_with_a_small_constant(kind: str) -> None:
    def measured(size: int) -> tuple[float, float]:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, kind, str(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        memory, seconds = map(float, done.stdout.split())
        return memory, seconds

    one, ten = measured(400_000), measured(4_000_000)
    assert ten[0] < 20, "bytes of memory per character of a line of 4 MB"
    assert ten[1] < 2 * one[1], "time per character"
