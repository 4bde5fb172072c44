"""Tokens a model has used, as price formulas want them: from responses and streams of two shapes. Pure.

The shapes count differently, so the same numbers under the same names would charge some tokens twice:

    OpenAI chat completions    prompt_tokens includes what was read from and written to a cache
    OpenAI responses           input_tokens includes them as well
    Anthropic messages         input_tokens excludes both; the prompt is the sum of the three
    all of them                the output includes reasoning, which is billed as output

Here `input`, `cache_read` and `cache_write` never overlap and their sum is the prompt, whatever the
provider; `reasoning` is a part of `output`. Where a total is reported, the parts must agree with it:
a provider that uses a shape with another way of counting is noticed, not guessed at.

Sources: the docstrings of the providers' own Python libraries, generated from their API
specifications. openai 3.54: `CompletionUsage` (total = prompt + completion; the details are a breakdown
of tokens in the prompt and in the completion, reasoning tokens are counted in the completion),
`ResponseUsage`, `ChatCompletionChunk.usage` (null except in the last chunk, which has the whole
request's, and only where `stream_options={"include_usage": true}` asks for it). anthropic 2.12:
`RawMessageDeltaEvent.usage` ("Total input tokens in a request is the summation of `input_tokens`,
`cache_creation_input_tokens`, and `cache_read_input_tokens`"), `MessageDeltaUsage` (every number is
cumulative), `OutputTokensDetails` (thinking tokens never exceed `output_tokens`, which is what is billed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from credits_fast.errors import InvalidUsageError

__all__ = ["Shape", "Usage", "UsageMeter", "usage_from_anthropic", "usage_from_openai"]

Shape: TypeAlias = Literal["openai", "anthropic"]
"""Whose way of reporting: OpenAI's chat completions and responses, or Anthropic's messages."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request, or of several together.

    Attributes:
        input: Of the prompt, neither read from a cache nor written to one.
        output: What was generated, reasoning included.
        cache_read: Of the prompt, read from a cache.
        cache_write: Of the prompt, written to a cache.
        reasoning: Of the output, what the model reasoned with; 0 where it is not reported.

    Example:
        >>> first, second = Usage(input=900, output=350), Usage(input=100, cache_read=900, output=50)
        >>> (first + second).prompt
        1900
        >>> sum([first, second], Usage()).output
        400
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        """All tokens: the prompt and the output."""
        return self.prompt + self.output

    def variables(self) -> dict[str, int]:
        """The variables of a price formula, named like the attributes.

        A formula has to name every kind of token that costs something: where caching does not change
        the price, `({input} + {cache_read} + {cache_write}) * 0.003 + {output} * 0.015`. `{reasoning}`
        is a part of `{output}`; charging both charges it twice.

        Example:
            >>> Usage(input=900, output=350).variables()
            {'input': 900, 'output': 350, 'cache_read': 0, 'cache_write': 0, 'reasoning': 0}
        """
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        mine, theirs = self.variables(), other.variables()
        return Usage(**{name: mine[name] + theirs[name] for name in mine})


def usage_from_openai(response: object) -> Usage:
    """The tokens of a chat completion, an answer of the responses API, or an embedding.

    Args:
        response: The response, as an object of the client library or as decoded JSON; or its `usage`.

    Raises:
        InvalidUsageError: It reports no usage, or one of another shape, or one that contradicts itself.

    Example:
        >>> usage_from_openai({"usage": {
        ...     "prompt_tokens": 2006, "prompt_tokens_details": {"cached_tokens": 1920},
        ...     "completion_tokens": 300, "total_tokens": 2306,
        ... }})
        Usage(input=86, output=300, cache_read=1920, cache_write=0, reasoning=0)
    """
    usage = _usage_of(response)
    names = _CHAT if _has(usage, _CHAT.prompt) else _RESPONSES
    if names is _RESPONSES and any(_has(usage, name) for name in _ANTHROPIC_ONLY):
        raise _invalid("has Anthropic's shape: use usage_from_anthropic")
    prompt = _count(usage, names.prompt)
    total = _count(usage, "total_tokens", absent=-1)
    # An embedding has no output; then the total says that there was none.
    output = _count(usage, names.output, absent=0 if total == prompt else None)
    if total not in {-1, prompt + output}:
        raise _invalid(f"contradicts itself: {prompt} and {output} tokens, but {total} in total")
    cached = _get(usage, names.prompt_details)
    reasoned = _get(usage, names.output_details)
    read = _count(cached, "cached_tokens", absent=0)
    write = _count(cached, "cache_write_tokens", absent=0)
    reasoning = _count(reasoned, "reasoning_tokens", absent=0)
    return _checked(Usage(prompt - read - write, output, read, write, reasoning))


def usage_from_anthropic(response: object) -> Usage:
    """The tokens of a message.

    Args:
        response: The message, as an object of the client library or as decoded JSON; or its `usage`.

    Raises:
        InvalidUsageError: It reports no usage, or one of another shape, or one that contradicts itself.

    Example:
        >>> usage_from_anthropic({"usage": {
        ...     "input_tokens": 86, "cache_read_input_tokens": 1920, "output_tokens": 300,
        ... }})
        Usage(input=86, output=300, cache_read=1920, cache_write=0, reasoning=0)
    """
    usage = _usage_of(response)
    if any(_has(usage, name) for name in _OPENAI_ONLY):
        raise _invalid("has OpenAI's shape: use usage_from_openai")
    return _anthropic(usage, Usage(), needed=("input_tokens", "output_tokens"))


class UsageMeter:
    """Adds up the usage of streams, chunk by chunk; one meter may see several streams after another.

    What a stream reports is the usage of the whole request so far, so a later report of a request
    takes the place of an earlier one; those of different requests are added.

    Args:
        shape: Whose chunks they are: `"openai"` or `"anthropic"`.

    Example:
        >>> meter = UsageMeter("anthropic")
        >>> for event in (
        ...     {"type": "message_start", "message": {"id": "a", "usage": {
        ...         "input_tokens": 25, "output_tokens": 1}}},
        ...     {"type": "content_block_delta", "delta": {"text": "Hello"}},
        ...     {"type": "message_delta", "usage": {"output_tokens": 15}},
        ...     {"type": "message_stop"},
        ... ):
        ...     meter.add(event)
        >>> meter.usage
        Usage(input=25, output=15, cache_read=0, cache_write=0, reasoning=0)
        >>> meter.is_complete
        True
    """

    def __init__(self, shape: Shape) -> None:
        if shape not in _READERS:
            raise _invalid(f"shape {shape!r:.40} is neither 'openai' nor 'anthropic'", "shape")
        self._read = _READERS[shape]
        self._reports: dict[str, _Report] = {}
        self._current: _Report | None = None

    def add(self, chunk: object) -> None:
        """Take a chunk or an event of a stream; those without usage change nothing.

        Args:
            chunk: As the client library gives it, or decoded JSON; not the text of the wire.

        Raises:
            InvalidUsageError: It is no chunk of this shape, or its usage contradicts itself.
        """
        report = self._read(chunk, self._current)
        if report is not None:
            self._current = self._reports[report.request] = report

    @property
    def usage(self) -> Usage:
        """What has been reported so far; nothing is estimated."""
        return sum((report.usage for report in self._reports.values()), Usage())

    @property
    def is_complete(self) -> bool:
        """Whether usage was reported, and every stream that reported any has come to its end.

        False after a stream that was cut off, and after chat completions that were not asked for usage
        by `stream_options`: then `usage` is less than what was used.
        """
        return bool(self._reports) and all(report.is_final for report in self._reports.values())


# --- streams -----------------------------------------------------------------------------------


class _Report(NamedTuple):
    request: str
    usage: Usage
    is_final: bool


def _read_openai(chunk: object, _: _Report | None) -> _Report | None:
    """Of chat completions the chunk that has usage, of the responses API the event that ends it."""
    kind = _get(chunk, "type")
    if kind == "chunk":  # the client library's own event around a chunk
        return _read_openai(_get(chunk, "chunk"), _)
    if isinstance(kind, str):
        answer = _get(chunk, "response")
        if kind not in _RESPONSES_ENDS or _get(answer, "usage") is None:
            return None
        return _Report(_identity(answer), usage_from_openai(answer), is_final=True)
    if not isinstance(_get(chunk, "choices"), list):
        raise _invalid(f"is no chunk of an OpenAI stream: {_described(chunk)}", "chunk")
    if _get(chunk, "usage") is None:
        return None
    # Compatible servers report with every chunk; the last one has no choices, or says why it ends.
    ends = [_has(choice, "finish_reason") for choice in _get(chunk, "choices")]
    return _Report(_identity(chunk), usage_from_openai(chunk), is_final=not ends or any(ends))


def _read_anthropic(event: object, current: _Report | None) -> _Report | None:
    """The start of a message and what changed of its numbers since; they are cumulative."""
    kind = _get(event, "type")
    if not isinstance(kind, str):
        raise _invalid(f"is no event of an Anthropic stream: {_described(event)}", "chunk")
    if kind == "message_start":
        message = _get(event, "message")
        return _Report(_identity(message), usage_from_anthropic(message), is_final=False)
    if kind not in {"message_delta", "message_stop"}:
        return None
    if current is None:
        raise _invalid(f"{kind} came before message_start", "chunk")
    if kind == "message_stop":
        return current._replace(is_final=True)
    usage = _anthropic(_usage_of(event), current.usage, needed=("output_tokens",))
    return _Report(current.request, usage, is_final=False)


_READERS: Final = {"openai": _read_openai, "anthropic": _read_anthropic}
_RESPONSES_ENDS: Final = {"response.completed", "response.incomplete", "response.failed"}


# --- reading -----------------------------------------------------------------------------------


class _Names(NamedTuple):
    prompt: str
    prompt_details: str
    output: str
    output_details: str


_CHAT: Final = _Names(
    "prompt_tokens",
    "prompt_tokens_details",
    "completion_tokens",
    "completion_tokens_details",
)
_RESPONSES: Final = _Names(
    "input_tokens",
    "input_tokens_details",
    "output_tokens",
    "output_tokens_details",
)
_OPENAI_ONLY: Final = ("prompt_tokens", "input_tokens_details", "total_tokens")
_ANTHROPIC_ONLY: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
_USAGES: Final = ("prompt_tokens", "input_tokens")


def _usage_of(response: object) -> object:
    """The usage of a response; the thing itself, where it is one."""
    if any(_has(response, name) for name in _USAGES):
        return response
    usage = _get(response, "usage")
    if usage is None:
        raise _invalid(f"is not reported by {_described(response)}")
    return usage


def _anthropic(usage: object, before: Usage, *, needed: Sequence[str]) -> Usage:
    """Usage of Anthropic's names; what is not reported, and need not be, is as before."""

    def count(name: str, known: int) -> int:
        return _count(usage, name, absent=None if name in needed else known)

    thought = _get(usage, "output_tokens_details")
    return _checked(
        Usage(
            input=count("input_tokens", before.input),
            output=count("output_tokens", before.output),
            cache_read=count("cache_read_input_tokens", before.cache_read),
            cache_write=count("cache_creation_input_tokens", before.cache_write),
            reasoning=_count(thought, "thinking_tokens", absent=before.reasoning),
        )
    )


def _checked(usage: Usage) -> Usage:
    """The usage, where its parts are within the whole."""
    if usage.input < 0:
        cached = f"{usage.cache_read} tokens read from and {usage.cache_write} written to a cache"
        raise _invalid(f"contradicts itself: {cached}, of {usage.prompt}")
    if usage.reasoning > usage.output:
        parts = f"{usage.reasoning} tokens of reasoning, of {usage.output}"
        raise _invalid(f"contradicts itself: {parts}")
    return usage


def _count(usage: object, name: str, *, absent: int | None = None) -> int:
    """A number of tokens; `absent` where there is none, or an error where that is None."""
    value = _get(usage, name)
    if value is None:
        if absent is None:
            raise _invalid(f"has no {name}: {_described(usage)}")
        return absent
    if type(value) is not int or value < 0:
        raise _invalid(f"has no number of tokens as {name}: {value!r:.40}")
    return value


def _get(thing: object, name: str) -> Any:
    """A member of decoded JSON or an attribute of an object; None where there is none."""
    if isinstance(thing, Mapping):
        return cast("Mapping[str, Any]", thing).get(name)
    return getattr(thing, name, None)


def _has(thing: object, name: str) -> bool:
    return _get(thing, name) is not None


def _identity(response: object) -> str:
    """What tells requests apart; compatible servers that name none have one stream a meter."""
    return str(_get(response, "id") or "")


def _described(thing: object) -> str:
    """What something is, for people, without what it says: prompts do not belong into messages."""
    if isinstance(thing, Mapping):
        names: Iterator[str] = map(str, cast("Mapping[Any, Any]", thing))
        return f"an object with the members {', '.join(sorted(names)) or 'none'}"[:200]
    return f"a {type(thing).__name__}"


def _invalid(problem: str, argument: str = "usage") -> InvalidUsageError:
    return InvalidUsageError(argument, problem)
