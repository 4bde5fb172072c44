"""Mutants: defects that somebody could have made, each by a few words of the library's text. Pure.

A proof kit that finds nothing may be blind. So each of these is played in a process of its own, on a
scenario that is said here, and has to break the invariant that is said here. The library knows nothing
of it: the text is changed when it is imported (`credits_fast.chaos.mutating`), and only there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["MUTANTS", "Edit", "Mutant"]


class Edit(NamedTuple):
    """A change of the library's text.

    Attributes:
        file: The file, as seen from the package's folder.
        old: What stands there, exactly once.
        new: What stands there instead.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A defect.

    Attributes:
        name: Its name on the command line.
        defect: What is wrong with it; one sentence.
        scenario: The scenario that catches it.
        breaks: The invariant that is broken there.
        edits: What makes the defect.
    """

    name: str
    defect: str
    scenario: str
    breaks: str
    edits: tuple[Edit, ...]


_NO_OVERLAP: Final = (
    Edit(
        "sync/journal.py",
        "    if not found or found[0][0].decode() != look.last_id:\n",
        "    if not found or found[0][0].decode() != look.last_id:\n        return found\n    if False:\n",
    ),
    Edit(
        "sync/journal.py",
        "    if stamp(look.last_id, found[0][1]) != look.last_stamp:\n",
        "    if False:\n",
    ),
)
"""The worker takes what stands behind its position for what follows it."""
_NO_COMPARISON: Final = (
    Edit(
        "calls/admission.py",
        "    return bool(entries) and stamp(position.last_id, entries[0][1]) == position.last_stamp\n",
        "    return True\n",
    ),
)
"""Whoever opens a partition does not compare."""

_NOT_UNDONE: Final = Edit(
    "sync/ledger.py", "            await connection.execute(insert(reversals), noted)\n", ""
)
"""What a key did twice is not noted, and so not undone."""

_NO_FINGERPRINT: Final = Mutant(
    name="no-fingerprint",
    defect="A key that is used for something else gets the first answer.",
    scenario="script-flush",
    breaks="I11",
    edits=(Edit("lua/shared/replay.lua", "if first ~= fingerprint then", "if false then"),),
)
_NO_REPLAY: Final = Mutant(
    name="no-replay",
    defect="What was done already is done again.",
    scenario="reply-eater",
    breaks="I3",
    edits=(Edit("lua/shared/replay.lua", "if not record then", "if true then"),),
)
_RECORD_WITHOUT_JOURNAL: Final = Mutant(
    name="record-without-journal",
    defect="Accounts and records are written although the journal took no entry.",
    scenario="acl-hole",
    breaks="I5",
    edits=(
        Edit("lua/shared/batch.lua", "write_accounts(written)", "write_accounts(sections)"),
        Edit("lua/shared/batch.lua", "write_records(written)", "write_records(sections)"),
        Edit(
            "lua/shared/journal.lua",
            "section.entry .. account",
            "(section.entry or '1-0') .. account",
        ),
    ),
)
_HALF_JOURNALLED: Final = Mutant(
    name="half-journalled",
    defect="Of items that are decided together the first is not journalled.",
    scenario="script-flush",
    breaks="I5",
    edits=(
        Edit(
            "lua/shared/journal.lua",
            "table.concat(items, '\\0', from, to)",
            "table.concat(items, '\\0', from < to and from + 1 or from, to)",
        ),
    ),
)
_MAXLEN_TRIM: Final = Mutant(
    name="maxlen-trim",
    defect="The journal is kept short by its length, not by what is recorded.",
    scenario="pg-down",
    breaks="I4",
    edits=(
        Edit(
            "lua/shared/journal.lua",
            "'XADD', journal, epoch",
            "'XADD', journal, 'MAXLEN', '=', '20', epoch",
        ),
    ),
)
_NO_FLOOR: Final = Mutant(
    name="no-floor",
    defect="A charge does not ask what is available.",
    scenario="hot-account",
    breaks="I6",
    edits=(
        Edit(
            "lua/charge.lua",
            "  if available < option.amount then\n    local held",
            "  if false then\n    local held",
        ),
    ),
)
_CLIENT_CLOCK: Final = Mutant(
    name="client-clock",
    defect="Callers bring the time, by clocks that are days apart.",
    scenario="hydrate-race",
    breaks="I3",
    edits=(
        Edit(
            "calls/dispatch.py",
            "        self._clock = clock\n",
            "        import time\n"
            '        Dispatcher.made = made = getattr(Dispatcher, "made", 0) + 1\n'
            "        self._clock = lambda: time.time_ns() // 1_000 + made * 2 * 86_400_000_000\n",
        ),
    ),
)
_UNGUARDED_LOAD: Final = Mutant(
    name="unguarded-load",
    defect="A load overwrites the account that another load has brought.",
    scenario="hydrate-race",
    breaks="I5",
    edits=(
        Edit("lua/load.lua", "if found and account_of(found, epoch) then", "if false then"),
        Edit("lua/load.lua", "(not found and call('EXISTS', key) == 0)", "true"),
    ),
)
_EPOCH_NOT_COMPARED: Final = Mutant(
    name="epoch-not-compared",
    defect="An account of a history that was lost counts.",
    scenario="failover-lag",
    breaks="I5",
    edits=(
        Edit(
            "lua/shared/account.lua",
            "if entry_epoch ~= epoch and entry_epoch ~= '' then",
            "if not entry_epoch then",
        ),
    ),
)
_NO_COMPARE_AND_SET: Final = Mutant(
    name="no-compare-and-set",
    defect="A commit moves the position from wherever it is.",
    scenario="pg-commit-ambiguous",
    breaks="I12",
    edits=(Edit("sync/on_postgresql.py", "       AND known.last_id = new.previous\n", ""),),
)
_TWO_WORKERS: Final = Mutant(
    name="two-workers-no-lease",
    defect="A worker takes what another one carries, and both write under one fence.",
    scenario="zombie-worker",
    breaks="I7",
    edits=(
        Edit(
            "sync/lease.py",
            "columns.lease_until_ms < database_now_ms(),\n        )\n        is_recovered",
            "columns.fence >= 0,\n        )\n        is_recovered",
        ),
        Edit(
            "sync/lease.py",
            "Claim(row.partition, row.fence + 1,",
            "Claim(row.partition, row.fence,",
        ),
    ),
)
_UNTARGETED_CONFLICT: Final = Mutant(
    name="untargeted-on-conflict",
    defect="Rows in the way of new ones are passed over, so that a history that was lost is not noticed.",
    scenario="failover-lag",
    breaks="I4",
    edits=(
        *_NO_OVERLAP,
        *_NO_COMPARISON,
        Edit("sync/on_postgresql.py", "       AND users.sequence = step.previous\n", ""),
        Edit(
            "sync/on_postgresql.py",
            "       AND users.credits = step.balance_before * 0.000001\n",
            "",
        ),
        Edit(
            "sync/on_postgresql.py",
            "    await copy_rows(connection, table, COLUMNS[table], pieces)\n",
            '    if table != "transactions":\n'
            "        return await copy_rows(connection, table, COLUMNS[table], pieces)\n"
            '    like = "CREATE TEMPORARY TABLE new_rows (LIKE transactions) ON COMMIT DROP"\n'
            "    await connection.execute(text(like))\n"
            '    await copy_rows(connection, "new_rows", COLUMNS[table], pieces)\n'
            '    names = ", ".join(COLUMNS[table])\n'
            '    into = f"INSERT INTO transactions ({names}) SELECT {names} FROM new_rows"\n'
            '    await connection.execute(text(into + " ON CONFLICT DO NOTHING"))\n',
        ),
    ),
)
_TRIM_BEFORE_COMMIT: Final = Mutant(
    name="trim-before-commit",
    defect="Entries are dropped before the ledger has them.",
    scenario="pg-down",
    breaks="I4",
    edits=(
        Edit(
            "sync/worker.py",
            "        if not batches:\n            return []\n        try:\n",
            "        if not batches:\n            return []\n"
            "        for batch in batches:\n"
            "            await self._journal.trim(batch, batch.ends[0])\n"
            "        try:\n",
        ),
    ),
)
_KEYS_FORGOTTEN: Final = Mutant(
    name="repair-forgets-keys",
    defect="A repair does not put the records of keys back, and what comes of it is not undone.",
    scenario="flushall-under-load",
    breaks="I3",
    edits=(
        Edit(
            "sync/worker.py",
            "            await self._repair.remember(works, self._clock())\n",
            "",
        ),
        _NOT_UNDONE,
    ),
)
_NEW_ID: Final = Mutant(
    name="retry-with-new-id",
    defect="A repeated call is another operation.",
    scenario="reply-eater",
    breaks="I3",
    edits=(
        Edit(
            "calls/courier.py",
            "lambda: self.send(pending, via, receipt)",
            "lambda: self.send(pending._replace(call=_renamed(pending.call)), via, receipt)",
        ),
        Edit(
            "calls/courier.py",
            "class Courier:",
            "def _renamed(call):\n"
            "    from credits_fast.ids import operation_id\n"
            "    from credits_fast.resp import bulk\n"
            "    new = operation_id()\n"
            "    key = call.partition.record(new.encode(), b'id:' + new.encode())\n"
            "    head = call.head.replace(call.operation_id.encode(), new.encode())\n"
            "    return call._replace(operation_id=new, head=head, record=bulk(key))\n\n\n"
            "class Courier:",
        ),
    ),
)
_FOREIGN_REPLY: Final = Mutant(
    name="foreign-reply",
    defect="When a caller has gone, its answer goes to the next one.",
    scenario="cancel-storm",
    breaks="I4",
    edits=(
        Edit(
            "calls/dispatch.py",
            "    def _answer(self, replies: Sequence[bytes]) -> None:\n"
            "        for (_, _, answer, _), reply in zip(self.waiting, replies, strict=True):\n",
            "    def _answer(self, replies: Sequence[bytes]) -> None:\n"
            "        still = [one for one in self.waiting if not one[2].done()]\n"
            "        for (_, _, answer, _), reply in zip(still, replies):\n",
        ),
    ),
)

_NO_FENCE: Final = Mutant(
    name="no-fence",
    defect="A script acts on whatever server it finds itself.",
    scenario="failover-id-reuse",
    breaks="I6",
    edits=(Edit("lua/shared/gate.lua", "if run ~= RUN then", "if false then"),),
)
_OPENS_UNCOMPARED: Final = Mutant(
    name="opening-compares-nothing",
    defect="A partition is opened on a new server without a look at its journal.",
    scenario="failover-id-reuse",
    breaks="I6",
    edits=_NO_COMPARISON,
)
_NO_OVERLAP_READ: Final = Mutant(
    name="no-overlap-read",
    defect="The worker knows how far it is and not what stands there.",
    scenario="journal-deleted",
    breaks="I4",
    edits=_NO_OVERLAP,
)
_GATE_LEFT_OPEN: Final = Mutant(
    name="repair-leaves-the-gate-open",
    defect="A repair does not close the partition first.",
    scenario="journal-deleted",
    breaks="I4",
    edits=(Edit("sync/repair.py", '        await lane.execute(b"UNLINK", keys.gate)\n', ""),),
)
_JOURNAL_FORGOTTEN: Final = Mutant(
    name="repair-forgets-the-journal",
    defect="A repair does not record what the journal has and the ledger lacks.",
    scenario="journal-deleted",
    breaks="I4",
    edits=(Edit("sync/repair.py", "            if lacking:\n", "            if False:\n"),),
)

_WATERMARK_ONLY: Final = Mutant(
    name="watermark-only",
    defect="What comes after the position is new, and nothing else is; nobody compares.",
    scenario="clock-back",
    breaks="I4",
    edits=(
        *_NO_COMPARISON,
        Edit(
            "sync/journal.py",
            "    if look.last_id == NOTHING_YET:\n        return found[: look.entries_max]\n",
            "    last = look.last_id.encode()\n"
            "    return found[1:] if found and found[0][0] == last else found[: look.entries_max]\n",
        ),
    ),
)
_RETAINS_NOTHING: Final = Mutant(
    name="retains-nothing",
    defect="What is recorded is dropped at once, whatever the configuration says.",
    scenario="pg-restore-old",
    breaks="I12",
    edits=(
        Edit(
            "sync/retention.py",
            "return self._recorded[0].last_id",
            "return self._recorded[-1].last_id",
        ),
    ),
)
_SETTLES_NOTHING: Final = Mutant(
    name="settles-nothing",
    defect="A recovery that trusts Redis leaves the ledger's balances as they are.",
    scenario="pg-restore-beyond",
    breaks="I1",
    edits=(
        Edit(
            "sync/settlement.py",
            "    delta = redis.balance - ledger.account.balance\n",
            "    delta = 0\n",
        ),
    ),
)

_RELEASE_GIVES_MORE: Final = Mutant(
    name="release-gives-more",
    defect="A hold that is given up is given back to the balance, which never lacked it.",
    scenario="held-credits",
    breaks="I5",
    edits=(
        Edit(
            "lua/release.lua",
            "  local result = table.concat({ text(held), balance_text, text(total - held) }, '\\0')\n",
            "  balance_text = text(balance + held)\n"
            "  local result = table.concat({ text(held), balance_text, text(total - held) }, '\\0')\n",
        ),
    ),
)

_FIRST_CAPTURE_FORGOTTEN: Final = Mutant(
    name="first-capture-forgotten",
    defect="A capture whose answer was lost finds its hold finished, and is refused.",
    scenario="reply-eater",
    breaks="I10",
    edits=(
        Edit(
            "calls/carrying.py",
            "return first if first is not None else await self._refuse_finished(pending)",
            "return await self._refuse_finished(pending)",
        ),
    ),
)
_HOLD_STAYS_OPEN: Final = Mutant(
    name="captured-hold-stays-open",
    defect="The capture that finishes a hold leaves it open, and may be done again.",
    scenario="reply-eater",
    breaks="I5",
    edits=(
        Edit("lua/capture.lua", "hold_after = hold_after,", "hold_after = hold,"),
        Edit(
            "lua/capture.lua",
            "reserved_after = reserved_text(kept, lapses, open - 1),",
            "reserved_after = reserved,",
        ),
    ),
)

_NOTHING_TAKEN_BACK: Final = Mutant(
    name="takes-nothing-back",
    defect="What a script has written stays when a later write is denied.",
    scenario="acl-torn",
    breaks="I5",
    edits=(Edit("lua/shared/batch.lua", "  take_back(written, accounts_before())\n", ""),),
)
_NO_REVERSAL: Final = Mutant(
    name="no-reversal",
    defect="What is booked once more under a key the ledger remembers stays.",
    scenario="marker-expiry-retry",
    breaks="I3",
    edits=(_NOT_UNDONE,),
)

MUTANTS: Final = {
    mutant.name: mutant
    for mutant in (
        _NO_FINGERPRINT,
        _NO_REPLAY,
        _RECORD_WITHOUT_JOURNAL,
        _HALF_JOURNALLED,
        _MAXLEN_TRIM,
        _NO_FLOOR,
        _CLIENT_CLOCK,
        _UNGUARDED_LOAD,
        _EPOCH_NOT_COMPARED,
        _NO_COMPARE_AND_SET,
        _TWO_WORKERS,
        _UNTARGETED_CONFLICT,
        _TRIM_BEFORE_COMMIT,
        _KEYS_FORGOTTEN,
        _NEW_ID,
        _FOREIGN_REPLY,
        _NO_FENCE,
        _OPENS_UNCOMPARED,
        _NO_OVERLAP_READ,
        _GATE_LEFT_OPEN,
        _JOURNAL_FORGOTTEN,
        _WATERMARK_ONLY,
        _RETAINS_NOTHING,
        _SETTLES_NOTHING,
        _NOTHING_TAKEN_BACK,
        _NO_REVERSAL,
        _RELEASE_GIVES_MORE,
        _FIRST_CAPTURE_FORGOTTEN,
        _HOLD_STAYS_OPEN,
    )
}
"""All of them, by name."""
