"""The headers of the scripts are contracts: what they say is what the text does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from credits_fast import errors
from credits_fast.protocol.refusals import REFUSALS, UNPRICED
from credits_fast.servers.scripts import SCRIPTS, source

LUA = Path(__file__).parents[2] / "lua"

BATCHED = ("capture", "charge", "extend", "grant", "refund", "release", "reserve", "set_tier")
"""The verbs whose items `shared/batch.lua` reads."""
EVERY_VERBS = ("fingerprint", "ttl_ms", "life_ms", "audited")
"""The terms that all verbs have; `terms_of` reads them."""
NOT_ERRORS = {
    *("back_pressure", "cold", "cold_charge", "overdue", "unknown_hold"),
    *("fenced", "unopened", "incompatible"),
}
"""Replies that the library acts upon itself."""
ADMINISTRATIVE = {"stale", "forked", "missing", "partitions", "epoch", "unclosed"}
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
    found = re.findall(r"return (?:nil, )?refusal\(.*?, tail, '(\w+)'", body(name))
    words = "cold|cold_charge|overdue|unknown_hold|missing|forked|unclosed"
    found += re.findall(rf"return '({words})'", body(name))
    found += re.findall(r"closed = '(stale)'", body(name))
    found += re.findall(r"return '(back_pressure|incompatible|partitions|epoch)\\0'", body(name))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_header_begins_with_the_verb_and_what_it_does(name: str) -> None:
    assert header(name).startswith(f"{name}: ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_refusal_stands_in_the_header_and_the_reverse_in_the_same_order(name: str) -> None:
    def place(code: str) -> tuple[int, int]:
        """Where it is decided; for what a function of its own decides, where that one is called."""
        match = re.search(rf"(?:tail, |return |closed = )'{code}\b", body(name))
        assert match is not None
        for function in re.finditer(
            r"^local function (\w+).*?^end$", body(name), re.MULTILINE | re.DOTALL
        ):
            if function.start() < match.start() < function.end():
                call = body(name).rindex(f"{function[1]}(")
                if call > function.end():
                    return call, match.start()
        return match.start(), match.start()

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
        for line in re.findall(r"^local (.+)$", body(name) + shared(name), re.MULTILINE):
            names, _, values = line.partition(" = ")
            for variable, value in zip(names.split(", "), values.split(", "), strict=False):
                for index in re.findall(rf"{array}\[(\d+)\]", value):
                    bound[index] = variable.strip()
        assert dict(documented) == bound


def shared(name: str) -> str:
    """What the verb includes to read its arguments."""
    return text("shared/batch") if name in BATCHED else ""


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("of", ["PARTITION", "ITEM"])
def test_a_verb_brings_as_many_keys_as_its_header_says(name: str, of: str) -> None:
    keys = re.search(r"^KEYS(.+?)\n\n", header(name), re.MULTILINE | re.DOTALL)
    assert keys is not None
    documented = re.search(rf"^ +([\w, ]+?) +for each {of.lower()}$", keys[1], re.MULTILINE)
    said = re.search(rf"^local KEYS_OF_{of} = (\d)$", body(name), re.MULTILINE)

    assert documented is not None
    assert said is not None
    assert len(documented[1].split(", ")) == int(said[1])


@pytest.mark.parametrize("name", BATCHED)
def test_a_verb_brings_as_many_arguments_an_item_as_its_header_says(name: str) -> None:
    documented = re.findall(r"^ +([\w, ]+?) +for each item$", header(name), re.MULTILINE)
    said = re.search(r"^local ARGUMENTS_OF_ITEM = (\d)$", body(name), re.MULTILINE)

    assert said is not None
    assert len(documented[-1].split(", ")) == int(said[1])


@pytest.mark.parametrize("name", BATCHED)
def test_the_terms_of_an_item_are_read_in_the_order_of_the_header(name: str) -> None:
    documented = re.search(r"^ +([\w, ]+?) +at the place terms names", header(name), re.MULTILINE)
    assert documented is not None
    terms = documented[1].split(", ")
    of_all = re.search(r"terms = \{(.*?)own_at = at \+ (\d)", text("shared/batch"), re.DOTALL)
    assert of_all is not None
    read = re.findall(r"(\w+) = ARGV\[at(?: \+ (\d))?\]", of_all[1])
    assert [*EVERY_VERBS] == terms[: int(of_all[2])] == [one for one, _ in read]
    assert ["", "1", "2", "3"] == [place for _, place in read]

    own = re.search(r"local ([\w, ]+) = own_terms\(terms, (\d+)\)", body(name))
    of_verb = terms[len(EVERY_VERBS) :]
    if "option_of(" in body(name):  # which reads the number of options by itself
        assert "options" == of_verb.pop()
    if own is None:
        assert [] == of_verb
        return
    assert of_verb == own[1].split(", ")
    assert int(own[2]) == len(own[1].split(", "))


@pytest.mark.parametrize("name", BATCHED)
def test_guards_stand_before_the_first_write(name: str) -> None:
    after_guards = body(name).rindex("return refusal(")

    for write in ("post(", "journalled(", "add("):
        for match in re.finditer(rf"^  .*\b{re.escape(write)}", body(name), re.MULTILINE):
            assert match.start() > after_guards


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_builds_a_key_or_leaves_the_floor(name: str) -> None:
    whole = source(name)

    assert not re.search(r"call\(\s*'\w+',\s*['\"]", whole), "a key is written out"
    assert not re.search(r"call\(\s*'\w+',\s*[^,)]*\.\.", whole), "a key is put together"
    for word in (
        "#!lua",
        "cmsgpack",
        "struct.",
        "bit.",
        "redis.sha1hex",
        "math.random",
    ):
        assert word not in whole
    assert not re.search(r"^function ", whole, re.MULTILINE), "a function is global"


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_error_is_looked_at_or_is_one_of_taking_back(name: str) -> None:
    """What is denied while writes are taken back cannot be helped; anything else is told."""
    function = ""
    for line in source(name).splitlines():
        if found := re.match(r"(?:local function (\w+)|end$)", line):
            function = found[1] or ""
        if "redis.pcall(" in line and not function.startswith("take_back"):
            looked_at = re.search(r"denial\(|return redis|(entry|outcome) = redis", line)
            assert looked_at, f"an error is passed over: {line.strip()}"


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
    fields = re.findall(r"`(\w+)`", readme.split("**account**:")[1].split("**hold**")[0])
    assert " ".join(fields) in text("shared/account")
    fields = re.findall(r"`(\w+)`", readme.split("**hold**:")[1].split("**record**")[0])
    assert " ".join(fields) in text("shared/hold")
    fields = re.findall(r"`(\w+)`", readme.split("**gate**:")[1].split("**meta**")[0])
    assert " ".join(fields) in text("shared/gate")
    meta = source("open") + source("load") + source("trim")
    for field in re.findall(r"`(\w+)`", readme.split("**meta**:")[1].split("**account**")[0]):
        assert f"'{field}'" in meta


def test_the_key_map_is_the_one_of_the_code() -> None:
    from credits_fast.protocol.keys import Partitions

    keys = Partitions("ns", 1)[0]
    readme = (LUA / "README.md").read_text(encoding="utf-8")
    named = (keys.gate, keys.meta, keys.journal, keys.holds, keys.mark)
    families = {name.split(b"}:")[1][:1].decode() for name in named}
    families |= {
        name.split(b"}:")[1][:1].decode()
        for name in (
            keys.account(b"u"),
            keys.record(b"u", b"k"),
            keys.refunded(b"t"),
        )
    }
    assert families == set(re.findall(r"^\| `\{ns:p\.salt\}:(\w)", readme, re.MULTILINE))


def test_the_probe_uses_every_command_of_every_script() -> None:
    def commands(name: str) -> set[str]:
        return {*re.findall(r"call\(\s*'(\w+)'", source(name))}

    used = {command for name in SCRIPTS if name != "probe" for command in commands(name)}

    assert used - {"MSETEX"} == commands("probe")  # which is not needed, and older servers lack
