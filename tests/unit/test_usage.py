"""Tokens are counted once: every shape, as JSON and as objects, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from credits_fast import CreditsConfig, InvalidUsageError
from credits_fast.prices.pricing import PriceList
from credits_fast.usage import (
    Shape,
    Usage,
    UsageMeter,
    usage_from_anthropic,
    usage_from_openai,
)

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 2_100,
        "completion_tokens": 400,
        "total_tokens": 2_500,
        "prompt_tokens_details": {"cached_tokens": 1_920, "cache_write_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 250, "rejected_prediction_tokens": 10},
    },
}
RESPONSE = {
    "id": "resp-1",
    "object": "response",
    "usage": {
        "input_tokens": 2_100,
        "output_tokens": 400,
        "total_tokens": 2_500,
        "input_tokens_details": {"cached_tokens": 1_920, "cache_write_tokens": 80},
        "output_tokens_details": {"reasoning_tokens": 250},
    },
}
MESSAGE = {
    "id": "msg-1",
    "type": "message",
    "usage": {
        "input_tokens": 100,
        "cache_read_input_tokens": 1_920,
        "cache_creation_input_tokens": 80,
        "cache_creation": {"ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 400,
        "output_tokens_details": {"thinking_tokens": 250},
    },
}
SAME = Usage(input=100, output=400, cache_read=1_920, cache_write=80, reasoning=250)


def as_object(value: Any) -> Any:
    """Decoded JSON as the objects of a client library: attributes instead of members."""
    return json.loads(json.dumps(value), object_hook=lambda members: SimpleNamespace(**members))


SHAPES: list[tuple[Callable[[object], Usage], dict[str, Any]]] = [
    (usage_from_openai, CHAT),
    (usage_from_openai, RESPONSE),
    (usage_from_anthropic, MESSAGE),
]


@pytest.mark.parametrize(("read", "response"), SHAPES, ids=["chat", "responses", "messages"])
@pytest.mark.parametrize("form", [dict, as_object], ids=["json", "object"])
@pytest.mark.parametrize("part", ["response", "usage"])
def test_the_same_request_counts_the_same_in_every_shape(
    read: Callable[[object], Usage],
    response: dict[str, Any],
    form: Callable[[Any], Any],
    part: str,
) -> None:
    assert SAME == read(form(response if part == "response" else response["usage"]))


def test_the_parts_of_the_prompt_do_not_overlap_and_reasoning_is_output() -> None:
    assert 2_100 == SAME.prompt
    assert 2_500 == SAME.total
    assert SAME.reasoning <= SAME.output


def test_what_is_not_reported_is_zero() -> None:
    chat = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": None}
    message = {"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": None}

    assert Usage(input=9, output=3) == usage_from_openai(chat)
    assert Usage(input=9, output=3) == usage_from_anthropic(message)


def test_an_embedding_has_no_output() -> None:
    assert Usage(input=8) == usage_from_openai({"usage": {"prompt_tokens": 8, "total_tokens": 8}})


def test_the_variables_feed_a_formula() -> None:
    formula = "{input} * 2 + {cache_read} * 0.2 + {cache_write} * 2.5 + {output} * 10"
    prices = PriceList(
        CreditsConfig.parse({"costs": {"chat": {"default": formula}}, "membership": {"tiers": {}}})
    )
    (option,) = prices.quote("chat", SAME.variables()).options

    # 200 + 384 + 200 + 4,000 credits, in micro-credits.
    assert b"4784000000" == option.cost


@pytest.mark.parametrize(
    ("read", "usage", "why"),
    [
        (usage_from_openai, None, "is not reported by a NoneType"),
        (usage_from_openai, {"id": "a", "choices": []}, "members choices, id"),
        (usage_from_openai, {"usage": {}}, "has no input_tokens"),
        (usage_from_openai, {"prompt_tokens": 5, "completion_tokens": "7"}, "no number of tokens"),
        (usage_from_openai, {"prompt_tokens": True, "completion_tokens": 7}, "no number of tokens"),
        (usage_from_openai, {"prompt_tokens": -1, "completion_tokens": 7}, "no number of tokens"),
        (usage_from_openai, {"prompt_tokens": 5}, "has no completion_tokens"),
        (usage_from_openai, {"prompt_tokens": 5, "total_tokens": 12}, "has no completion_tokens"),
        (
            usage_from_openai,
            {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 30},
            "5 and 7 tokens, but 30 in total",
        ),
        (
            usage_from_openai,
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            },
            "4 tokens read from and 2 written to a cache, of 5",
        ),
        (
            usage_from_openai,
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 8},
            },
            "8 tokens of reasoning, of 7",
        ),
        (usage_from_openai, MESSAGE, "use usage_from_anthropic"),
        (usage_from_anthropic, CHAT, "use usage_from_openai"),
        (usage_from_anthropic, RESPONSE, "use usage_from_openai"),
        (usage_from_anthropic, {"input_tokens": 5}, "has no output_tokens"),
        (usage_from_anthropic, {"usage": {"output_tokens": 5}}, "has no input_tokens"),
    ],
)
def test_what_cannot_be_counted_is_an_error_that_says_why(
    read: Callable[[object], Usage], usage: Any, why: str
) -> None:
    with pytest.raises(InvalidUsageError, match=why) as caught:
        read(usage)

    assert "usage" == caught.value.argument


def test_an_error_does_not_repeat_what_was_said() -> None:
    with pytest.raises(InvalidUsageError) as caught:
        usage_from_openai({"choices": [{"message": {"content": "my secret"}}]})

    assert "secret" not in str(caught.value)


# --- streams -----------------------------------------------------------------------------------


def metered(shape: Shape, *chunks: Any) -> UsageMeter:
    meter = UsageMeter(shape)
    for chunk in chunks:
        meter.add(chunk)
    return meter


CHAT_STREAM: list[dict[str, Any]] = [
    {"id": "c", "choices": [{"delta": {"content": "He"}, "finish_reason": None}], "usage": None},
    {"id": "c", "choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"id": "c", "choices": [], "usage": CHAT["usage"]},
]
RESPONSES_STREAM: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "r", "usage": None}},
    {"type": "response.output_text.delta", "delta": "Hello"},
    {"type": "response.completed", "response": RESPONSE},
]
MESSAGES_STREAM: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {"id": "m", "usage": {**cast("Any", MESSAGE["usage"]), "output_tokens": 260}},
    },
    {"type": "ping"},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 300}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 400}},
    {"type": "message_stop"},
]
STREAMS: list[tuple[Shape, list[dict[str, Any]]]] = [
    ("openai", CHAT_STREAM),
    ("openai", RESPONSES_STREAM),
    ("anthropic", MESSAGES_STREAM),
]


@pytest.mark.parametrize(("shape", "stream"), STREAMS, ids=["chat", "responses", "messages"])
@pytest.mark.parametrize("form", [dict, as_object], ids=["json", "object"])
def test_a_stream_counts_what_its_response_would(
    shape: Shape, stream: list[dict[str, Any]], form: Callable[[Any], Any]
) -> None:
    meter = metered(shape, *map(form, stream))

    assert SAME == meter.usage
    assert meter.is_complete


@pytest.mark.parametrize(("shape", "stream"), STREAMS, ids=["chat", "responses", "messages"])
def test_a_stream_that_was_cut_off_is_not_complete(
    shape: Shape, stream: list[dict[str, Any]]
) -> None:
    for cut in range(len(stream)):
        assert not metered(shape, *stream[:cut]).is_complete


def test_a_message_reports_cumulative_numbers_which_are_not_added() -> None:
    delta = {"input_tokens": 100, "cache_read_input_tokens": 1_920, "output_tokens": 400}
    meter = metered("anthropic", *MESSAGES_STREAM[:5], {"type": "message_delta", "usage": delta})

    assert SAME == meter.usage
    assert not meter.is_complete


def test_servers_that_report_with_every_chunk_are_counted_once() -> None:
    def chunk(output: int, reason: str | None) -> dict[str, Any]:
        usage = {"prompt_tokens": 7, "completion_tokens": output}
        return {"id": "c", "choices": [{"delta": {}, "finish_reason": reason}], "usage": usage}

    meter = metered("openai", chunk(1, None), chunk(2, None))
    assert not meter.is_complete
    meter.add(chunk(3, "stop"))

    assert Usage(input=7, output=3) == meter.usage
    assert meter.is_complete


def test_the_client_librarys_own_event_around_a_chunk_is_opened() -> None:
    meter = metered("openai", *({"type": "chunk", "chunk": one} for one in CHAT_STREAM))

    assert SAME == meter.usage


@pytest.mark.parametrize(("shape", "stream"), STREAMS, ids=["chat", "responses", "messages"])
def test_one_meter_adds_the_streams_of_several_requests(
    shape: Shape, stream: list[dict[str, Any]]
) -> None:
    second = json.loads(json.dumps(stream).replace('"id": "', '"id": "second-'))

    assert SAME + SAME == metered(shape, *stream, *second).usage


def test_an_ended_response_counts_however_it_ended() -> None:
    for end in ("response.incomplete", "response.failed"):
        assert SAME == metered("openai", {"type": end, "response": RESPONSE}).usage

    silent = metered("openai", {"type": "response.failed", "response": {"id": "r", "usage": None}})
    assert not silent.is_complete


@pytest.mark.parametrize(
    ("shape", "chunk", "why"),
    [
        ("openai", 'data: {"choices": []}', "no chunk of an OpenAI stream: a str"),
        (
            "openai",
            {"delta": "a"},
            "no chunk of an OpenAI stream: an object with the members delta",
        ),
        ("anthropic", b"event: ping", "no event of an Anthropic stream: a bytes"),
        ("anthropic", {"choices": []}, "no event of an Anthropic stream"),
        ("anthropic", {"type": "message_delta", "usage": {}}, "came before message_start"),
        ("anthropic", {"type": "message_stop"}, "came before message_start"),
        ("anthropic", {"type": "message_start", "message": {}}, "usage is not reported"),
    ],
)
def test_a_chunk_of_another_shape_is_an_error(shape: Shape, chunk: Any, why: str) -> None:
    with pytest.raises(InvalidUsageError, match=why):
        metered(shape, chunk)


def test_a_shape_nobody_knows_is_an_error() -> None:
    with pytest.raises(InvalidUsageError, match="neither 'openai' nor 'anthropic'"):
        UsageMeter(cast("Shape", "other"))
