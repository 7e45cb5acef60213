"""A tiny language model with random weights, as a GGUF file that llama-server loads.

It is a llama of four small layers (8 MB, a thousand tokens a second on one core) and a byte-level
tokenizer over words that mean nothing. Nothing is downloaded and nothing but the standard library
is needed, so the file is the same on every machine.

Its text is nonsense with the shape of real text: words, full stops every dozen of them, now and
then a line or a quote, and an end after a hundred tokens; so sentences can be cut, and the
strings and lists of guided JSON close. For that, the first channel of the residual stream is a
constant that no layer writes to: the first column of the output matrix is then a bias, the log of
how often a token shall come. All the rest is drawn.

Always true:
    - the same source gives the same bytes
    - the file appears under its name only when it is whole
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20240311
CONTEXT_TOKENS = 8192
WIDTH, LAYERS, FEED_FORWARD, HEADS, KV_HEADS = 192, 4, 512, 6, 2
HEAD_WIDTH = WIDTH // HEADS

SPREAD, SPREAD_WRITTEN = 0.1, 0.005
"""Weights are drawn evenly from [-SPREAD, SPREAD]; those by which a layer writes to the residual
stream are smaller, so that four layers do not drown the constant."""

CONSTANT = 0.5
"""The first channel of every embedding."""

CONSTANT_NORMED = 6.0
"""About what the last norm makes of it. Text gets its shape from this, nothing relies on it."""

SPECIALS = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2

WORD, SYLLABLE, LETTER, NEVER = 1.0, 0.1, 0.05, 1e-6
SHARES = {".": 35, ",": 10, '"': 30, "\n": 8, "{": 6, "]": 3, "}": 1, "</s>": 8}
"""How often a token comes, where a word that begins with a space counts 1 (there are 750). Beside
one another: a guided list of objects is empty once in three times and else has four of them.

Bytes that are no ASCII text never come by chance, as broken UTF-8 makes llama-server refuse its
own JSON. Who wants them asks for it, with `logit_bias`."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

# The numbers of the GGUF format.
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_F32 = 0
NORMAL_TOKEN, CONTROL_TOKEN = 1, 3
ALIGNMENT = 32


def tiny_model(folder: Path) -> Path:
    """The model's file in `folder`, made now if it is not there. Half a second.

    Its name holds a hash of this source, so a changed recipe makes a new file.
    """
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"llama-tiny-{key}.gguf"
    if not path.exists():
        write_model(path)
    return path


def write_model(path: Path) -> None:
    """Write the model beside `path`, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    vocabulary = made_up_vocabulary()
    tensors = list(model_tensors(vocabulary))
    facts = metadata(vocabulary)
    with partial.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts)))
        file.write(b"".join(facts))
        offset = 0
        for tensor in tensors:
            file.write(tensor.header(offset))
            offset += padded(tensor.count * 4)
        file.write(b"\0" * (padded(file.tell()) - file.tell()))
        luck = random.Random(SEED)
        for tensor in tensors:
            data = tensor.values(luck)
            file.write(data + b"\0" * (padded(len(data)) - len(data)))
    partial.replace(path)


# -- the vocabulary -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids, and the merges that make the longer ones."""

    tokens: list[str]
    merges: list[str]


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary of the GPT-2 kind.

    Bytes that print stand for themselves; the others take the letters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = (byte for byte in range(256) if byte not in printable)
    stand_ins = {byte: chr(0x100 + index) for index, byte in enumerate(hidden)}
    return [stand_ins.get(byte, chr(byte)) for byte in range(256)]


def made_up_vocabulary() -> Vocabulary:
    """Specials, all bytes, syllables, words of one syllable, of two and of three.

    A merge stands after the merges that make its parts, so every token here can be reached.
    """
    luck = random.Random(SEED)
    letters = byte_letters()
    space = letters[ord(" ")]
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]
    # Half of the words are capital ones: a full stop ends a sentence only before such a one.
    heads = syllables + [syllable.capitalize() for syllable in syllables]
    two = luck.sample([(head, tail) for head in heads for tail in syllables], 400)
    three = [(f"{head}{tail}", luck.choice(syllables)) for head, tail in two[:150]]
    merges = [(syllable[0], syllable[1]) for syllable in heads]
    merges += [(space, syllable) for syllable in heads]
    merges += [(f"{space}{head}", tail) for head, tail in (*two, *three)]
    tokens = [*SPECIALS, *letters, *(head + tail for head, tail in merges)]
    return Vocabulary(tokens, [f"{head} {tail}" for head, tail in merges])


# -- the header ---------------------------------------------------------------------------------


def metadata(vocabulary: Vocabulary) -> list[bytes]:
    """What llama.cpp must know before it reads a weight: sizes, tokenizer, chat template."""
    types = [CONTROL_TOKEN] * len(SPECIALS)
    types += [NORMAL_TOKEN] * (len(vocabulary.tokens) - len(SPECIALS))
    return [
        text("general.architecture", "llama"),
        text("general.name", "tiny random llama"),
        number("general.file_type", TENSOR_F32),
        number("llama.context_length", CONTEXT_TOKENS),
        number("llama.embedding_length", WIDTH),
        number("llama.block_count", LAYERS),
        number("llama.feed_forward_length", FEED_FORWARD),
        number("llama.attention.head_count", HEADS),
        number("llama.attention.head_count_kv", KV_HEADS),
        fraction("llama.attention.layer_norm_rms_epsilon", 1e-5),
        number("llama.rope.dimension_count", HEAD_WIDTH),
        fraction("llama.rope.freq_base", 1e4),
        number("llama.vocab_size", len(vocabulary.tokens)),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "gpt-2"),
        entry("tokenizer.ggml.tokens", ARRAY, listed(STRING, map(string, vocabulary.tokens))),
        entry("tokenizer.ggml.merges", ARRAY, listed(STRING, map(string, vocabulary.merges))),
        entry(
            "tokenizer.ggml.token_type", ARRAY, listed(I32, (struct.pack("<i", t) for t in types))
        ),
        number("tokenizer.ggml.unknown_token_id", UNKNOWN_ID),
        number("tokenizer.ggml.bos_token_id", BEGIN_ID),
        number("tokenizer.ggml.eos_token_id", END_ID),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\x01"),
        text("tokenizer.chat_template", CHAT_TEMPLATE),
    ]


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def text(key: str, value: str) -> bytes:
    return entry(key, STRING, string(value))


def number(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def fraction(key: str, value: float) -> bytes:
    return entry(key, F32, struct.pack("<f", value))


def listed(kind: int, items: Iterator[bytes]) -> bytes:
    encoded = list(items)
    return struct.pack("<IQ", kind, len(encoded)) + b"".join(encoded)


def string(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# -- the weights --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor, rows of `columns` numbers. A norm has a single row, all ones.

    `first_column`, if given, has a number for each row. A tensor that `writes` puts its output
    into the residual stream, and nothing in the first channel.
    """

    name: str
    columns: int
    rows: int = 1
    norm: bool = False
    first_column: tuple[float, ...] = ()
    writes: bool = False

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def header(self, offset: int) -> bytes:
        shape = (self.columns,) if self.norm else (self.columns, self.rows)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        return string(self.name) + dimensions + struct.pack("<IQ", TENSOR_F32, offset)

    def values(self, luck: random.Random) -> bytes:
        if self.norm:
            numbers = array("f", [1.0]) * self.count
        else:
            draw, width = luck.random, 2 * (SPREAD_WRITTEN if self.writes else SPREAD)
            numbers = array("f", [(draw() - 0.5) * width for _ in range(self.count)])
        for row, number_there in enumerate(self.first_column):
            numbers[row * self.columns] = number_there
        if self.writes:
            numbers[: self.columns] = array("f", [0.0]) * self.columns
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()


def output_bias(vocabulary: Vocabulary) -> tuple[float, ...]:
    """The log of each token's share, as the first column of the output matrix."""
    letters = byte_letters()
    space = letters[ord(" ")]
    shares = dict.fromkeys(vocabulary.tokens, SYLLABLE)
    shares.update({token: WORD for token in vocabulary.tokens if token.startswith(space)})
    shares.update({letters[byte]: NEVER for byte in range(256)})
    shares.update({letters[byte]: LETTER for byte in range(0x20, 0x7F)})
    shares.update(dict.fromkeys(SPECIALS, NEVER))
    for token, share in SHARES.items():
        shares[token if token in SPECIALS else letters[ord(token)]] = share
    return tuple(math.log(shares[token]) / CONSTANT_NORMED for token in vocabulary.tokens)


def model_tensors(vocabulary: Vocabulary) -> Iterator[Tensor]:
    """The tensors of a llama, under the names that llama.cpp looks for."""
    words = len(vocabulary.tokens)
    heads, kv_heads = HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH
    yield Tensor("token_embd.weight", WIDTH, words, first_column=(CONSTANT,) * words)
    yield Tensor("output_norm.weight", WIDTH, norm=True)
    yield Tensor("output.weight", WIDTH, words, first_column=output_bias(vocabulary))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        yield Tensor(f"{block}.attn_norm.weight", WIDTH, norm=True)
        yield Tensor(f"{block}.ffn_norm.weight", WIDTH, norm=True)
        yield Tensor(f"{block}.attn_q.weight", WIDTH, heads)
        yield Tensor(f"{block}.attn_k.weight", WIDTH, kv_heads)
        yield Tensor(f"{block}.attn_v.weight", WIDTH, kv_heads)
        yield Tensor(f"{block}.attn_output.weight", heads, WIDTH, writes=True)
        yield Tensor(f"{block}.ffn_gate.weight", WIDTH, FEED_FORWARD)
        yield Tensor(f"{block}.ffn_up.weight", WIDTH, FEED_FORWARD)
        yield Tensor(f"{block}.ffn_down.weight", FEED_FORWARD, WIDTH, writes=True)
