"""Sentences: where they end, how soon that is known, and what is never lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cuts import cut, everywhere, given_after
from hypothesis import given, settings
from hypothesis import strategies as st

from alto.core import sentences as module
from alto.core.sentences import LOOKAHEAD_CHARS_MAX, SENTENCE_CHARS_MAX, Sentences
from alto.core.texts import Sentence

ANSWERS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data/answers.jsonl").read_text("utf-8").splitlines()
]

# Each text is its sentences joined by a bar where they end.
CASES = {
    "plain": "One is here. |Two is there! |Is three? |Yes.",
    "titles": "Dr. Smith met Mr. and Mrs. Jones at St. Paul. |Gen. Grant left. |Prof. X came.",
    "latin": "Fruit, e.g. apples, i.e. this, cf. that, vs. those. |Apples vs. Pears is done.",
    "initials": "J. R. R. Tolkien wrote it. |J.R.R. Tolkien met John F. Kennedy.",
    "dotted": "He lived in the U.S. for years. |The U.S. Army came. |He left the U.S. |It rained.",
    "degrees": "She has a Ph.D. in physics and an M.D. |At 5 p.m. she left. |At 6 a.m. |He",
    "companies": "Apple Inc. announced it. |It is by Apple Inc. |The firm grew. |Sony Corp. USA",
    "numbers": "No. 5 is Fig. 3 on p. 5. |He said no. |Then 3.14 and 1,000.5 and $2.50. |Ok",
    "years": "It was 1975. |Then came 1976. |In 1977. |30 people left.",
    "quotes": 'He said "Stop." |Then he left. |“Really?” she asked. |(He did.) |‘Yes.’ |So it was.',
    "brackets": "It works (see above). |It does [sic]. |**Bold.** |*Slanted.* |Next `x.` |Done",
    "citations": "It is so.[1] |She agrees.[2][3] |They too.[4, 5] |Known[6]. |End",
    "ellipsis": "Well... maybe not. |Then… nothing. |It ended... |Then it began again…",
    "marks": "What?! |No!! |Yahoo! is a firm. |Why? |Because.",
    "names of files": "See a.txt and https://x.org/a.html?b=c. |Use node.js. |Mail a@b.com. |Ok",
    "small letters": "The iPhone. and so on. |He left. (see there) and on.",
    "lists": "Steps:\n|1. Do this. |Now.\n|2. Do more\n|- one\n|* two\n|• three\n|a) x\n|Then",
    "list in a line": "They are: 1. One thing. |2. Two things. |3. Three",
    "headings": "# Title\n|Some text\n|## More\n|Text **bold** here\n|**Name**: value",
    "blank lines": "A title\n\n|A text\n \n|Another\r\n\r\n|Last",
    "wrapped": "A sentence that goes\non in the next line. |Another\none.",
    "stop at the end of a line": "One.\n|Two.\n|three.",
    "title at the end of a line": "Dr.\nWho is here.",
    "only marks": "...",
    "marks in front": "... and so it is. |OK",
    "months": "On Jan. 5 it was. |In Sept. the rain. |It ended in Dec. |The snow came.",
    "et al": "As Smith et al. (2019) say. |As Jones et al. |They say more.",
    "chinese": "今天很好。|我们走吧！|好吗？|是的。",
    "chinese quotes": "他说：“你好。|我走了。”|然后离开。|「好。」|（是的。）|完",
    "nested chinese quotes": "他问：“她说『好吗？』”|我说：「不。」|完。",
    "straight quotes in chinese": '他说："你好。"|然后离开。',
    "chinese, half-width": "真的吗?|是的!|好",
    "japanese and english": "これはペンです。|This is a pen. |「はい。」|終わり",
    "hindi": "यह एक है। |यह दो है।",
    "spanish": "Hola. |¿Qué tal? |¡Bien!",
    "german": "Das ist z. B. so. |Über alles. |Élan vital.",
    "russian": "Это раз. |Это два.",
}


@pytest.mark.parametrize("name", CASES)
def test_sentences_end_where_they_should(name: str) -> None:
    expected = [sentence.strip() for sentence in CASES[name].split("|")]
    items, settled, error = everywhere(Sentences, CASES[name].replace("|", ""))
    assert items == expected
    assert all(type(item) is Sentence for item in items)
    assert error is None
    assert settled == len(CASES[name].replace("|", ""))


@pytest.mark.parametrize("text", ["", " ", "\n\n \r\n"])
def test_blank_text_has_no_sentences(text: str) -> None:
    assert everywhere(Sentences, text) == ([], 0, None)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer["id"])
def test_real_answers_lose_nothing_and_do_not_depend_on_the_pieces(
    answer: dict[str, str | int],
) -> None:
    text = str(answer["text"])
    items, settled, error = everywhere(Sentences, text)
    assert "".join("".join(items).split()) == "".join(text.split())
    assert error is None
    assert text[settled:].strip() == ""
    assert all(item == item.strip() != "" for item in items)


def test_real_answers_have_about_as_many_sentences_as_people_counted() -> None:
    counted = [answer for answer in ANSWERS if "sentences" in answer]
    found = [len(cut(Sentences, [answer["text"]])[0]) for answer in counted]
    assert len(counted) == 24
    right = sum(a == b["sentences"] for a, b in zip(found, counted, strict=True))
    # The marks are not without errors of their own: "Symphony No. | 1" is two in one of them.
    assert right >= 22


class TestDelay:
    """An item is given with the character that makes its end certain."""

    @pytest.mark.parametrize(
        ("text", "after"),
        [
            ("One. Two.", 6),  # the next word has begun with a capital
            ("One! Two.", 6),
            ('"One." Two.', 8),
            ("One.\nTwo.", 5),
            ("One\n\nTwo.", 5),
            ("One\n- Two.", 6),
            ("Ed Inc. The end.", 12),  # only the space shows that the word is "The"
            ("好。是", 2),
            ("好！是", 2),
            ("“好。”是", 4),
            ("“好。是", 4),
            ("One.", 5),  # the end of the text
        ],
    )
    def test_first_sentence(self, text: str, after: int) -> None:
        assert given_after(Sentences, text)[0][0] == after

    def test_it_never_waits_longer_than_the_lookahead(self) -> None:
        given = given_after(Sentences, "One." + " " * 200 + "two")
        assert given[0] == (4 + LOOKAHEAD_CHARS_MAX, "One.")


def test_text_that_is_cut_off_keeps_its_complete_sentences() -> None:
    items, settled, error = everywhere(Sentences, "One. Two. Three and", truncated=True)
    assert items == ["One.", "Two."]
    assert settled == len("One. Two.")
    assert error is not None
    assert "Three and" in error


class TestLimit:
    def test_text_without_an_end_is_cut_at_a_space(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "SENTENCE_CHARS_MAX", 10)
        assert everywhere(Sentences, "aaaa bbbb cccc dd. Ee") == (
            ["aaaa bbbb", "cccc dd.", "Ee"],
            21,
            None,
        )
        assert everywhere(Sentences, "x" * 25)[0] == ["x" * 10, "x" * 10, "x" * 5]
        assert everywhere(Sentences, "好" * 12 + "。")[0] == ["好" * 10, "好好。"]

    @pytest.mark.parametrize("size", [1, 100, 10**6])
    def test_memory_is_bounded(self, size: int) -> None:
        text = ("word " * 5 + "\n") * 2_500
        cutter = Sentences()
        items = []
        for at in range(0, len(text), size):
            items += cutter.feed(text[at : at + size])
            assert cutter.chars <= SENTENCE_CHARS_MAX + LOOKAHEAD_CHARS_MAX + size
        items += cutter.finish()
        assert len(items) == len(text) // SENTENCE_CHARS_MAX + 1
        assert "".join("".join(items).split()) == "".join(text.split())


PARTS = [
    *("a", "B", "The ", "U.S.", "Dr.", "No.", "J.", "e.g.", "Inc.", "1", "2.", "3)", "(", ")"),
    *(".", "!", "?", "…", "。", "！", "“", "”", '"', "'", "「", "」", "[1]", "[", "]", ",", ":"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "- ", "* ", "**", "#", "`", "```", "|", "好", "吗", "é"),
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=30), st.data())
def test_any_text_in_any_pieces(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    whole = cut(Sentences, [text])
    assert cut(Sentences, pieces) == whole
    assert cut(Sentences, text) == whole
    assert "".join("".join(whole[0]).split()) == "".join(text.split())


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(0, 60))
def test_any_characters_at_all(text: str, at: int) -> None:
    assert cut(Sentences, [text[:at], text[at:]]) == cut(Sentences, [text])


class Counting:
    """The search for candidates, with a count of the characters it has looked at."""

    def __init__(self) -> None:
        self.chars = 0
        self.pattern = module._CANDIDATE

    def search(self, text: str, at: int = 0) -> re.Match[str] | None:
        found = self.pattern.search(text, at)
        self.chars += (found.end() if found else len(text)) - at
        return found


@pytest.mark.parametrize("size", [1, 4, 1000, 10**6])
@pytest.mark.parametrize(
    "text", ["One is here. Two! ", "word ", "e.g. U.S. ", "好。吗？", "a\nb\n\n"]
)
def test_no_character_is_searched_again_and_again(
    size: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting()
    monkeypatch.setattr(module, "_CANDIDATE", counting)
    text *= 30_000 // len(text)
    cut(Sentences, [text[at : at + size] for at in range(0, len(text), size)])
    # Once to see whether a piece has a candidate and once to find it; a waiting one a few times.
    assert counting.chars < 4 * len(text)
