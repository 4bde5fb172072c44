"""The log of a program: text for people, one JSON object a line for machines, always on stderr."""

import json
import logging

import pytest

from credits_fast import ConfigurationError
from credits_fast.log_output import log_to_stderr


def test_a_line_of_text_has_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "text")
    logging.getLogger("credits_fast.sync").info("carried %d decisions", 3)
    captured = capsys.readouterr()

    assert captured.err.endswith(" INFO    carried 3 decisions\n")
    assert "" == captured.out


def test_a_line_of_json_has_the_fields_of_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "json")
    logging.getLogger("credits_fast.sync").info("carried %d", 3, extra={"lag_ms": 12})
    line = json.loads(capsys.readouterr().err)

    assert ("info", "credits_fast.sync", "carried 3", 12) == (
        line["level"],
        line["logger"],
        line["message"],
        line["lag_ms"],
    )


def test_an_exception_stays_on_the_line_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "json")
    try:
        int("odd")
    except ValueError:
        logging.getLogger("credits_fast").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()

    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_what_is_less_severe_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("warning", "text")
    logging.getLogger("credits_fast.sync").info("carried")

    assert "" == capsys.readouterr().err


def test_setting_it_up_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info", "text")
    log_to_stderr("info", "text")
    logging.getLogger("credits_fast.sync").warning("carried")

    assert 1 == capsys.readouterr().err.count("carried")


@pytest.mark.parametrize(("level", "format_"), [("loud", "text"), ("info", "xml")])
def test_an_unknown_level_or_format_is_a_configuration_error(level: str, format_: str) -> None:
    with pytest.raises(ConfigurationError, match="is none of"):
        log_to_stderr(level, format_)
