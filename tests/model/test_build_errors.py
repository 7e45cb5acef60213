"""What is wrong with a pipeline is told while it is built: the whole message, word by word.

Every message names the pipeline, the stage, the parameter, what was given, what was expected and
a way to mend it.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import pytest

from alto.annotations import AsCompleted, Stream
from alto.core.default import Default
from alto.errors import GraphError
from alto.pipeline import either, merge, pipeline
from alto.stages import lm, stage


@stage
async def words(text: str) -> AsyncIterator[str]:
    yield text


@stage
def lines(text: str) -> Iterator[str]:
    yield text


@stage
def length(word: str) -> int:
    return len(word)


@stage
def total(numbers: Stream[int]) -> int:
    return sum(numbers)


@stage
def join(first: str, second: str) -> str:
    return first + second


class Name(str):
    pass


def question_of(question: str) -> str:
    return question


def told(build: Callable[..., Any]) -> str:
    """The one problem that building this pipeline meets."""
    with pytest.raises(GraphError) as caught:
        pipeline(build)
    assert caught.value.problems == (str(caught.value),)
    return str(caught.value)


# ---------------------------------------------------------------- types


def test_an_item_of_another_type() -> None:
    def p(question: str):
        return length(length(words(question)))

    assert told(p) == (
        "pipeline p, stage length#2, parameter word: got int from length, expected str.\n"
        "Let length take int, or let length return str."
    )


def test_a_list_where_one_item_is_expected_suggests_a_stream() -> None:
    @stage
    def search(text: str) -> list[str]:
        return [text]

    def factcheck(question: str):
        return length(search(question))

    assert told(factcheck) == (
        "pipeline factcheck, stage length, parameter word: got list[str] from search, expected "
        "str.\nLet length take list[str], or let search return Stream[str] so that length runs "
        "once for each."
    )


def test_a_pipeline_parameter_of_another_type() -> None:
    def p(number: int):
        return length(number)  # type: ignore[arg-type]

    assert told(p) == (
        "pipeline p, stage length, parameter word: got int from number, expected str.\n"
        "Let length take int, or let the pipeline's parameter number be str."
    )


def test_a_gathered_flow_of_another_type() -> None:
    def p(text: str):
        return total(words(text))

    assert told(p) == (
        "pipeline p, stage total, parameter numbers: got str from words, expected Stream[int].\n"
        "Let total take str, or let words return Stream[int]."
    )


def test_a_constant_of_another_type() -> None:
    @stage
    def repeat(word: str, times: int) -> str:
        return word * times

    def p(text: str):
        return repeat(text, times="three")

    assert told(p) == (
        "pipeline p, stage repeat, parameter times: got the constant 'three', expected int. "
        "Give it int, or let repeat take str."
    )


def test_a_constant_that_is_no_label() -> None:
    @stage
    def style(word: str, case: Literal["upper", "lower"]) -> str:
        return word

    def p(text: str):
        return style(text, "Upper")

    assert told(p) == (
        "pipeline p, stage style, parameter case: got the constant 'Upper', expected "
        "Literal['upper', 'lower']. Give it Literal['upper', 'lower'], or let style take str."
    )


def test_a_list_as_a_constant_stream() -> None:
    @stage
    def best(word: str, among: Stream[str]) -> str:
        return word

    def p(text: str):
        return best(text, ["a", "b"])

    assert told(p) == (
        "pipeline p, stage best, parameter among: got the constant ['a', 'b'], expected "
        "Stream[str]. Give it a flow, or Stream.of('a', 'b')."
    )


def test_a_batch_stage_that_takes_one_item() -> None:
    @stage(batch=8)
    def embed(text: str) -> list[float]:
        return [0.0]

    def p(text: str):
        return embed(text)

    assert told(p) == (
        "pipeline p, stage embed, parameter text: got str from text, expected str. With batch=8 "
        "the parameter is a list of items: annotate it list[str]."
    )


def test_a_batch_stage_that_returns_one_item() -> None:
    @stage(batch=8)
    def embed(texts: list[str]) -> float:
        return 0.0

    def p(text: str):
        return embed(text)

    assert told(p) == (
        "pipeline p, stage embed has batch=8 but returns float. A batch stage returns a list with "
        "one output for each input."
    )


def test_a_batch_stage_takes_no_stream() -> None:
    @stage(batch=8)
    def embed(texts: list[Stream[str]]) -> list[int]:
        return []

    def p(text: str):
        return embed(words(text))

    assert told(p) == (
        "pipeline p, stage embed, parameter texts: got str from words, expected list[Stream[str]]. "
        "With batch=8 the parameter is a list of items: annotate it list[str]."
    )


# ---------------------------------------------------------------- annotations


def test_a_parameter_without_annotation() -> None:
    @stage
    def shout(word) -> str:  # type: ignore[no-untyped-def]
        return word

    def p(text: str):
        return shout(words(text))

    assert told(p) == (
        "pipeline p, stage shout, parameter word has no annotation, so it is unknown whether it "
        "takes one item or all. It is given str from words: annotate it with str for one item, or "
        "with Stream[str] for all."
    )


def test_a_stage_without_return_annotation() -> None:
    @stage
    def shout(word: str):  # type: ignore[no-untyped-def]
        return word

    def p(text: str):
        return shout(text)

    assert told(p) == (
        "pipeline p, stage shout has no return annotation. Say what one invocation gives: T for "
        "one item, Stream[T] for a fan-out."
    )


def test_a_pipeline_parameter_without_annotation() -> None:
    def p(text):  # type: ignore[no-untyped-def]
        return length(text)

    assert told(p) == (
        "pipeline p, parameter text has no annotation. Give it a type, so that what it feeds is "
        "checked."
    )


def test_a_name_that_is_not_defined() -> None:
    @stage
    def shout(word: "Wrod") -> str:  # type: ignore[name-defined]  # noqa: F821
        return str(word)

    def p(text: str):
        return shout(text)

    assert told(p) == (
        "pipeline p, stage shout, parameter word: the annotation 'Wrod' uses a name that is not "
        "defined here. Define or import it before the pipeline is recorded (an import under "
        "TYPE_CHECKING is not enough)."
    )


def test_a_returned_name_that_is_not_defined() -> None:
    @stage
    def shout(word: str) -> "Stream[Wrod]":  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    def p(text: str):
        return shout(text)

    assert told(p) == (
        "pipeline p, stage shout, what it returns: the annotation 'Stream[Wrod]' uses a name that "
        "is not defined here. Define or import it before the pipeline is recorded (an import under "
        "TYPE_CHECKING is not enough)."
    )


def test_a_pipeline_parameter_whose_name_is_not_defined() -> None:
    def p(text: "Txet"):  # type: ignore[name-defined]  # noqa: F821
        return length(text)

    assert told(p) == (
        "pipeline p, parameter text: the annotation 'Txet' uses a name that is not defined here. "
        "Define or import it before the pipeline."
    )


def test_a_generator_that_says_it_returns_one_item() -> None:
    @stage
    def split(text: str) -> str:  # type: ignore[misc]
        yield text

    def p(text: str):
        return split(text)

    assert told(p) == (
        "pipeline p, stage split is a generator but returns str. Annotate it Stream[str], or "
        "return one value."
    )


def test_a_fan_out_in_order_of_completion() -> None:
    @stage
    def split(text: str) -> AsCompleted[str]:
        raise NotImplementedError

    def p(text: str):
        return split(text)

    assert told(p) == (
        "pipeline p, stage split returns AsCompleted[str]. A fan-out is Stream[str]; AsCompleted "
        "is for parameters."
    )


def test_two_levels_from_one_stage() -> None:
    @stage
    def split(text: str) -> Stream[Stream[str]]:
        raise NotImplementedError

    def p(text: str):
        return split(text)

    assert told(p) == (
        "pipeline p, stage split returns Stream[Stream[str]]. One stage opens one level: return "
        "Stream[str], or open the second level in another stage."
    )


def test_a_default_of_another_type() -> None:
    @stage(on_error=Default("none"))
    def count(text: str) -> int:
        return 1

    def p(text: str):
        return count(text)

    assert told(p) == (
        "pipeline p, stage count: on_error=Default('none') stands in for an output, expected int. "
        "Give a value of that type, or let count return int | str."
    )


def test_a_default_for_a_stream_is_a_list() -> None:
    @stage(on_error=Default("none"))
    def split(text: str) -> Stream[str]:
        raise NotImplementedError

    def p(text: str):
        return split(text)

    assert told(p) == (
        "pipeline p, stage split: on_error=Default('none') stands in for a Stream, expected a list "
        "of items. Write Default(['none'])."
    )


# ---------------------------------------------------------------- ancestry


def test_siblings_do_not_join() -> None:
    def p(text: str):
        return join(words(text), lines(text))

    assert told(p) == (
        "pipeline p, stage join: its arguments first (from words) and second (from lines) share no "
        "ancestor but the request: neither lies below the other, so join cannot tell which belong "
        "together. Gather one of them (Stream[T] or list[T]), or derive one from the other."
    )


def test_siblings_below_an_item_name_that_item() -> None:
    def p(text: str):
        word = words(text)
        return join(lines(word), words(word))

    assert told(p) == (
        "pipeline p, stage join: its arguments first (from lines) and second (from words#2) share "
        "no ancestor but each item of words: neither lies below the other, so join cannot tell "
        "which belong together. Gather one of them (Stream[T] or list[T]), or derive one from the "
        "other."
    )


def test_a_gather_of_a_sibling() -> None:
    @stage
    def grade(sentence: str, others: Stream[str]) -> str:
        return sentence

    def p(text: str):
        return grade(words(text), lines(text))

    assert told(p) == (
        "pipeline p, stage grade, parameter others: it gathers lines, which does not lie below "
        "sentence (from words), the item that grade runs for. Take lines as an item, or gather "
        "something derived from sentence (from words)."
    )


def test_a_gather_from_further_up() -> None:
    @stage
    def grade(sentence: str, numbers: list[int]) -> str:
        return sentence

    def p(text: str):
        sentence = words(text)
        return grade(words(sentence), length(sentence))

    assert told(p) == (
        "pipeline p, stage grade, parameter numbers: it gathers length, which does not lie below "
        "sentence (from words#2), the item that grade runs for. Take length as an item, or gather "
        "something derived from sentence (from words#2)."
    )


def test_a_gather_at_its_own_item_is_a_warning() -> None:
    @stage
    def grade(sentence: str, others: list[str]) -> str:
        return sentence

    @pipeline
    def p(text: str):
        sentence = words(text)
        return grade(sentence, sentence)

    assert p.graph.warnings == [
        "pipeline p, stage grade, parameter others: gathers words at the item it also takes, so it "
        "gets one item or none. Gather it at the parent."
    ]


def test_either_of_two_levels() -> None:
    def p(text: str):
        return either(text, words(text))

    assert told(p) == (
        "pipeline p, either: text lies on the request, words on each item of words, expected flows "
        "of one level. Put them side by side with alto.merge."
    )


# ---------------------------------------------------------------- the wiring


def test_an_output_that_goes_nowhere() -> None:
    def p(text: str):
        length(words(text))
        return length(text)

    assert told(p) == (
        "pipeline p, stage length: its output goes nowhere. Pass it to another stage, return it, "
        "or leave the stage out."
    )


def test_a_where_that_goes_nowhere() -> None:
    def p(text: str):
        word = words(text)
        word.where(bool)  # type: ignore[attr-defined]
        return length(word)

    assert told(p) == (
        "pipeline p, stage words.where: its output goes nowhere. Pass it to another stage, return "
        "it, or leave the stage out."
    )


def test_arguments_that_do_not_fit_the_signature() -> None:
    def p(text: str):
        return join(text)  # type: ignore[call-arg]

    assert told(p) == (
        "pipeline p, stage join: it takes (first, second); the call does not fit: missing a "
        "required argument: 'second'."
    )


def test_a_list_with_flows_inside() -> None:
    @stage
    def best(candidates: list[str]) -> str:
        return candidates[0]

    def p(text: str):
        return best([text, text])

    assert told(p) == (
        "pipeline p, stage best, parameter candidates: got list with flows inside, expected a flow "
        "or a constant. Give each flow its own parameter, or join them with alto.merge."
    )


def test_flows_for_variable_arguments() -> None:
    @stage
    def best(*candidates: str) -> str:
        return candidates[0]

    def p(text: str):
        return best(text, text)

    assert told(p) == (
        "pipeline p, stage best, parameter candidates: *args and **kwargs cannot take flows. Name "
        "each parameter."
    )


def _all(build: Callable[..., Any]) -> tuple[str, ...]:
    with pytest.raises(GraphError) as caught:
        pipeline(build)
    return caught.value.problems


def test_a_flow_of_another_pipeline() -> None:
    kept = []

    @pipeline
    def other(text: str):
        kept.append(words(text))
        return kept[0]

    def p(text: str):
        return join(text, kept[0])

    assert told(p) == (
        "pipeline p, stage join, parameter second: the flow 'words' belongs to another pipeline. "
        "Give it to this one as an argument."
    )

    def q(text: str):
        return {"mine": length(text), "other": kept[0]}

    assert told(q) == (
        "pipeline q: its result has 'other': the flow 'words', which belongs to another pipeline. "
        "Call that pipeline here, like a stage."
    )


def test_all_problems_are_told_together() -> None:
    def p(text: str):
        length(length(text))
        return join(words(text), lines(text))

    assert [problem.split(":")[0] for problem in _all(p)] == [
        "pipeline p, stage length#2, parameter word",
        "pipeline p, stage join",
        "pipeline p, stage length#2",
    ]


def test_what_was_found_before_the_recording_broke_is_told_too() -> None:
    def p(text: str):
        word = length(length(text))
        return word if word else text

    assert [problem.split("\n")[0] for problem in _all(p)] == [
        "pipeline p, stage length#2, parameter word: got int from length, expected str.",
        "pipeline p: a condition on the flow 'length#2', which has no value while the pipeline is "
        "recorded. Do that inside a stage, or keep items with .where(predicate).",
    ]


@pytest.mark.parametrize(
    ("what", "use"),
    [
        ("a condition on", lambda flow: 1 if flow else 2),
        ("a loop over", lambda flow: list(iter(flow))),
        ("len() of", lambda flow: len(flow)),
        ("item 0 of", lambda flow: flow[0]),
        ("attribute 'text' of", lambda flow: flow.text),
        ("a call of", lambda flow: flow()),
        ("an f-string with", lambda flow: f"{flow}"),
        ("a comparison with", lambda flow: flow == "a"),
        ("a comparison with", lambda flow: flow > 3),
        ("arithmetic on", lambda flow: flow + 1),
        ("arithmetic on", lambda flow: "a" + flow),
        ("'a' in", lambda flow: "a" in flow),
    ],
)
def test_a_flow_has_no_value(what: str, use: Callable[[Any], Any]) -> None:
    def p(text: str):
        use(words(text))
        return words(text)

    assert told(p) == (
        f"pipeline p: {what} the flow 'words', which has no value while the pipeline is recorded. "
        "Do that inside a stage, or keep items with .where(predicate)."
    )


def test_where_takes_a_function() -> None:
    def p(text: str):
        return words(text).where("long")  # type: ignore[attr-defined]

    assert told(p) == (
        "pipeline p: words.where('long'): expected a function of one item that returns a bool. "
        "Write for example .where(lambda item: item > 3)."
    )


# ---------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("result", "shown"),
    [(None, "nothing (None)"), ("done", "'done'"), ({}, "{}"), ((), "()")],
)
def test_a_result_that_is_no_flow(result: Any, shown: str) -> None:
    def p(text: str):
        return result

    assert told(p) == (
        f"pipeline p: it returned {shown}, expected a flow or a dict of flows. Return what a stage "
        "gave."
    )


def test_a_result_with_a_constant() -> None:
    def p(text: str):
        return {"length": length(text), "version": 3}

    assert told(p) == (
        "pipeline p: its result has 'version': 3, expected a name and a flow. Constants belong "
        "into a stage."
    )


# ---------------------------------------------------------------- pipelines in pipelines


def test_an_inner_pipeline_is_checked_like_a_stage() -> None:
    @pipeline
    def inner(text: str):
        return length(text)

    def p(text: str):
        return inner(length(text))

    assert told(p) == (
        "pipeline p, pipeline inner, parameter text: got int from length, expected str. Let inner "
        "take int."
    )


def test_an_inner_pipeline_that_calls_itself() -> None:
    known: dict[str, Any] = {"loop": length}

    def define() -> None:
        @pipeline
        def loop(text: str):
            return known["loop"](text)

        known["loop"] = loop

    define()  # as when a notebook's cell is run again: the name means what was there before
    with pytest.raises(GraphError) as caught:
        define()
    assert str(caught.value) == (
        "pipeline loop: loop calls itself; such a graph has no end. Put the loop inside a stage."
    )


def test_a_pipeline_called_like_a_function() -> None:
    @pipeline
    def p(text: str):
        return length(text)

    with pytest.raises(GraphError) as caught:
        p("a")
    assert str(caught.value) == (
        "pipeline p was called like a function. Run it with alto.run(p, ...) or "
        "Runtime.call(p, ...)."
    )


def test_arguments_of_a_request_that_do_not_fit() -> None:
    @pipeline
    def p(text: str):
        return length(text)

    with pytest.raises(GraphError) as caught:
        p.bind(("a", "b"), {})
    assert str(caught.value) == (
        "pipeline p: it takes (text); the call does not fit: too many positional arguments. Give "
        "each parameter one value."
    )


@pytest.mark.parametrize("joins", [either, merge])
def test_flows_are_joined_inside_a_pipeline(joins: Callable[..., Any]) -> None:
    with pytest.raises(GraphError) as caught:
        joins(1, 2)
    assert str(caught.value) == (
        f"alto.{joins.__name__} was called outside a pipeline. It joins flows: call it in a "
        "function under @pipeline."
    )

    def p(text: str):
        return joins(text)

    assert told(p) == (
        f"pipeline p: alto.{joins.__name__} got 1 argument, expected two or more flows. Give it "
        "what stages returned."
    )


async def _async(text: str) -> Any:
    return length(text)


def _generator(text: str) -> Any:
    yield length(text)


@pytest.mark.parametrize(
    ("given", "what"),
    [(_async, "an async function"), (_generator, "a generator"), (str, "a class"), (3, "3")],
)
def test_a_pipeline_is_a_plain_function(given: Any, what: str) -> None:
    name = getattr(given, "__name__", "?")
    assert told(given) == (
        f"pipeline {name}: got {what}, expected a plain function. It runs once, to wire stages; "
        "whatever waits or loops belongs inside a stage."
    )


def test_a_pipeline_has_named_parameters() -> None:
    def p(*texts: str):
        return length("a")

    assert told(p) == (
        "pipeline p, parameter texts: *args and **kwargs cannot be recorded. Name each parameter."
    )


# ---------------------------------------------------------------- options


DURATION = "expected a number of seconds, 0 or more, or a text like '5ms' or '2s'."


def refused(**options: Any) -> str:
    with pytest.raises(GraphError) as caught:
        stage(**options)(lambda text: text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries is -1, expected a whole number, 0 or more."),
        ({"retries": 1.5}, "retries is 1.5, expected a whole number, 0 or more."),
        ({"instances": 0}, "instances is 0, expected a whole number, 1 or more."),
        ({"batch": 0}, "batch is 0, expected a whole number, 1 or more."),
        ({"batch": True}, "batch is True, expected a whole number, 1 or more."),
        ({"max_concurrency": 0}, "max_concurrency is 0, expected a whole number, 1 or more."),
        (
            {"on_error": "ignore"},
            "on_error is 'ignore', expected 'fail', 'drop' or Default(value).",
        ),
        ({"delivery": "later"}, "delivery is 'later', expected 'provisional' or 'committed'."),
        ({"timeout": -1}, "timeout is -1, " + DURATION),
        ({"timeout": "soon"}, "timeout is 'soon', " + DURATION),
        ({"max_wait": None}, "max_wait is None, " + DURATION),
        ({"backoff": "1d"}, "backoff is '1d', " + DURATION),
        (
            {"retry_on": "ValueError"},
            "retry_on is 'ValueError', expected an exception class or a tuple of them.",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    assert refused(name="s", **options) == f"stage s: {message}"


def test_an_option_nobody_knows_names_the_nearest() -> None:
    assert refused(name="s", retires=3) == (
        "stage s: there is no option 'retires'. Did you mean 'retries'?"
    )


def test_a_stage_is_something_to_call() -> None:
    with pytest.raises(GraphError) as caught:
        stage("fast")  # type: ignore[call-overload]
    assert str(caught.value) == (
        "stage str: got 'fast', expected a function, a generator or a class with __call__. Options "
        "go by name: @stage(retries=2)."
    )


def test_a_class_without_call() -> None:
    class Model:
        pass

    with pytest.raises(GraphError) as caught:
        stage(Model)
    assert str(caught.value) == "stage Model: a class needs a __call__ method to be a stage."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": ()}, "engine is (), expected a name or a list of names."),
        (
            {"batch": 4},
            "batch=4 on an @lm stage. LM servers batch calls themselves; leave it out.",
        ),
        ({"max_tokens": 0}, "max_tokens is 0, expected a whole number, 1 or more."),
        ({"engine": 3}, "engine is 3, expected a name or a list of names."),
        ({"engine": ["chat", ""]}, "engine is ['chat', ''], expected a name or a list of names."),
        ({"temperature": "hot"}, "temperature is 'hot', expected a number, 0 or more."),
        ({"stop": ["a", 3]}, "stop is ['a', 3], expected a text, or a list of texts."),
        ({"seed": True}, "seed is True, expected a whole number."),
        ({"model": 3}, "model is 3, expected a model's name."),
        ({"extra": 3}, "extra is 3, expected a dict of fields of the request's body."),
        (
            {"extra": {"stream": False}},
            "extra: stream is False; ALTO writes this field of the request's body itself. Leave it "
            "out.",
        ),
        (
            {"extra": {"top_k": 1, "messages": []}},
            "extra: messages is []; ALTO writes this field of the request's body itself. Leave it "
            "out.",
        ),
    ],
)
def test_lm_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError) as caught:
        lm(name="s", **options)(lambda text: text)
    assert str(caught.value) == f"stage s: {message}"


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (
            list[complex],
            "list[complex] cannot be read from JSON: <class 'complex'> has no JSON form. Expected a "
            "pydantic model, a msgspec.Struct, a dataclass, a TypedDict, a Literal, an Enum, a "
            "number, bool or string, or a list, dict or union of these.",
        ),
        (
            Stream[Name],
            "Stream[Name]: text cannot be cut into Name. Expected Stream[str], Stream[Sentence], "
            "Stream[Line] or Stream[Paragraph].",
        ),
    ],
)
def test_what_lm_text_cannot_become(returns: Any, message: str) -> None:
    ask = lm(returns=returns)(question_of)

    def p(question: str):
        return ask(question)

    assert told(p) == f"pipeline p, stage question_of: {message}"


@pytest.mark.parametrize("name", ["", 3])
def test_a_stage_has_a_name(name: Any) -> None:
    with pytest.raises(GraphError, match=f"stage: name is {name!r}, expected a text that is not"):
        stage(name=name)(lambda text: text)


def test_an_lm_stage_is_no_class() -> None:
    with pytest.raises(GraphError) as caught:

        @lm
        class Answer:
            def __call__(self, question: str) -> str:
                return question

    assert str(caught.value) == (
        "stage Answer: @lm on a class, expected a function that returns the prompt, or yields the "
        "parts of it. Its return annotation says how the LM's text is read."
    )


def test_a_generator_of_a_prompt_that_is_annotated_as_what_it_yields_is_a_warning() -> None:
    @lm
    async def answer(question: str) -> AsyncIterator[str]:
        yield question

    @pipeline
    def p(text: str):
        return answer(text)

    assert p.graph.warnings == [
        "pipeline p, stage answer: its return annotation AsyncIterator[str] says how the LM's text "
        "is read, as Stream[str], not what its generator yields. Write Stream[str] if that is "
        "meant, else @lm(returns=...)."
    ]


def test_a_generator_of_a_prompt_that_says_how_the_text_is_read_is_none() -> None:
    @lm
    async def answer(question: str) -> Stream[str]:  # type: ignore[misc]
        yield question

    @lm(returns=int)
    async def count(question: str) -> AsyncIterator[str]:
        yield question

    @pipeline
    def p(text: str):
        return {"answer": answer(text), "count": count(text)}

    assert p.graph.warnings == []
