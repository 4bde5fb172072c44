"""The headers of the scripts are contracts: what they say is what the text does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from credits_fast import errors
from credits_fast.refusals import REFUSALS, UNPRICED
from credits_fast.scripts import SCRIPTS, source

LUA = Path(__file__).parents[2] / "lua"

EVERY_VERBS = ("fingerprint", "ttl_ms", "audited")
"""The terms that all verbs have; `next_item` reads them."""
NOT_ERRORS = {"cold", "cold_charge", "fenced", "unopened", "incompatible"}
"""Replies that the library acts upon itself."""
ADMINISTRATIVE = {"stale", "forked", "missing", "partitions", "epoch"}
"""Refusals of the scripts that keep a partition going; their callers know them."""


def text(name: str) -> str:
    return (LUA / f"{name}.lua").read_text(encoding="utf-8")


def header(name: str) -> str:
    lines = text(name).splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:end])


def body(name: str) -> str:
    return text(name).split("\n\n", 1)[1]


def documented_refusals(name: str) -> list[str]:
    match = re.search(r"^refuses, in this order:\n((?:  .+\n)+)", header(name), re.MULTILINE)
    return [line.split()[0] for line in match[1].splitlines()] if match else []


def refusals_in_body(name: str) -> list[str]:
    found = re.findall(r"refuse\('(\w+)'", body(name))
    found += re.findall(r"return '(cold|cold_charge|missing|forked)'", body(name))
    found += re.findall(r"closed = '(stale)'", body(name))
    found += re.findall(r"return '(incompatible|partitions|epoch)\\0'", body(name))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_header_begins_with_the_verb_and_what_it_does(name: str) -> None:
    assert header(name).startswith(f"{name}: ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_refusal_stands_in_the_header_and_the_reverse_in_the_same_order(name: str) -> None:
    def place(code: str) -> int:
        match = re.search(rf"(?:refuse\(|return |closed = )'{code}\b", body(name))
        assert match is not None
        return match.start()

    in_body = sorted(set(refusals_in_body(name)), key=place)

    assert in_body == documented_refusals(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_refusal_has_an_error(name: str) -> None:
    for code in documented_refusals(name):
        if code in NOT_ERRORS | ADMINISTRATIVE | {UNPRICED}:
            continue
        assert code in REFUSALS
        codes = {getattr(errors, one).code for one in errors.__all__ if one != "Problem"}
        assert code.upper() in codes


@pytest.mark.parametrize("name", SCRIPTS)
def test_keys_and_arguments_are_bound_to_the_names_of_the_header(name: str) -> None:
    for array in ("KEYS", "ARGV"):
        documented = re.findall(rf"^{array}\[(\d+)\]\s+(\w+)", header(name), re.MULTILINE)
        bound: dict[str, str] = {}
        for line in re.findall(r"^local (.+)$", body(name), re.MULTILINE):
            names, _, values = line.partition(" = ")
            for variable, value in zip(names.split(", "), values.split(", "), strict=False):
                for index in re.findall(rf"{array}\[(\d+)\]", value):
                    bound[index] = variable.strip()
        assert dict(documented) == bound


@pytest.mark.parametrize("name", ["charge", "grant", "refund", "set_tier"])
def test_the_fields_of_an_item_are_read_in_the_order_of_the_header(name: str) -> None:
    for place, reader in (
        ("for each item", r"next_item\(()\)"),
        ("at the place terms names", r"own_terms\(terms, (\d+)\)"),
    ):
        documented = re.search(
            rf"^(?:ARGV\[3…\])?\s+([\w, ]+?) +{place}", header(name), re.MULTILINE
        )
        assert documented is not None
        read = re.search(rf"local ([\w,\s]+?) =\s*{reader}", body(name))
        assert read is not None
        names = re.split(r",\s*", read[1].strip())
        of_the_verb = [one for one in documented[1].split(", ") if one not in EVERY_VERBS]
        assert of_the_verb == names
        assert int(read[2] or 3) == len(names)


@pytest.mark.parametrize("name", ["charge", "grant", "refund", "set_tier"])
def test_guards_stand_before_the_first_write(name: str) -> None:
    after_guards = body(name).rindex("refuse('")

    for write in ("post(", "journalled(", "remember(", "add("):
        for match in re.finditer(rf"^  .*\b{re.escape(write)}", body(name), re.MULTILINE):
            assert match.start() > after_guards


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_builds_a_key_or_leaves_the_floor(name: str) -> None:
    whole = source(name)

    assert not re.search(r"redis\.call\(\s*'\w+',\s*['\"]", whole), "a key is written out"
    assert not re.search(r"redis\.call\(\s*'\w+',\s*[^,)]*\.\.", whole), "a key is put together"
    for word in (
        "#!lua",
        "cmsgpack",
        "struct.",
        "bit.",
        "redis.sha1hex",
        "redis.pcall",
        "math.random",
    ):
        assert word not in whole
    assert not re.search(r"^function ", whole, re.MULTILINE), "a function is global"


def test_every_file_is_a_verb_and_every_verb_a_file() -> None:
    assert sorted(path.stem for path in LUA.glob("*.lua")) == [*SCRIPTS]


def test_every_shared_file_is_included_somewhere() -> None:
    included = {
        name for script in SCRIPTS for name in re.findall(r'@include "(\w+)"', text(script))
    }

    assert {path.stem for path in (LUA / "shared").glob("*.lua")} == included


def test_the_readme_lists_every_script_and_every_field() -> None:
    readme = (LUA / "README.md").read_text(encoding="utf-8")

    assert [*SCRIPTS] == sorted(
        re.findall(r"^\| `(\w+)` \| .* \| (?:a batch|one)", readme, re.MULTILINE)
    )
    account = source("charge") + source("load")
    for field in re.findall(r"`([a-z])`", readme.split("**account**")[1].split("**record**")[0]):
        assert f"'{field}'" in account
    meta = source("open") + source("load") + source("trim")
    for field in re.findall(r"`(\w+)`", readme.split("**meta**:")[1].split("**account**")[0]):
        assert f"'{field}'" in meta


def test_the_key_map_is_the_one_of_the_code() -> None:
    from credits_fast.keys import Partitions

    keys = Partitions("ns", 1)[0]
    readme = (LUA / "README.md").read_text(encoding="utf-8")
    families = {name.decode().split("}:")[1][0] for name in (keys.meta, keys.journal)}
    families |= {
        name.decode().split("}:")[1][0]
        for name in (keys.account(b"u"), keys.record(b"u", b"k"), keys.refunded(b"t"))
    }
    assert families == set(re.findall(r"^\| `\{ns:p\.salt\}:(\w)", readme, re.MULTILINE))


def test_the_probe_uses_every_command_of_every_script() -> None:
    def commands(name: str) -> set[str]:
        return {*re.findall(r"redis\.call\(\s*'(\w+)'", source(name))}

    used = {command for name in SCRIPTS if name != "probe" for command in commands(name)}

    assert used == commands("probe")
