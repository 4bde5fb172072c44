"""A design: which ingredients of the protocol are there. Leaving one out shows what it is for.

`WHOLE` has everything: what the scripts and the worker do, and one cure that is not built, the promotion
in a server's identity. `TODAY` is what is built.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Literal

__all__ = ["INGREDIENTS", "TODAY", "WHOLE", "Design"]


@dataclass(frozen=True, slots=True)
class Design:
    """The ingredients; each is there or not.

    Attributes:
        admission_fence: A script compares the server's identity with the one its partition was opened for.
        identity: What that identity is: of the `process`, of its `promotion` too, asked for in every
            call, or `hidden`.
        opening_compares: A partition is opened only where its journal holds what the ledger recorded last.
        opening_creates_absent: Opening creates only what the comparison found to be absent.
        opening_fences: Opening takes the partition from its worker first, and with it the batch in hand.
        batch_under_claim: A batch is written only under the claim it was read under.
        overlap_read: A read begins with the last recorded entry, and compares it.
        whole_stamp: What is compared is all of the entry, not its transaction's id alone.
        worker_fence: A commit compares who owns the partition.
        compare_and_set: A commit compares where the partition's position is.
        chain: A commit compares the user's sequence and balance with those before the batch.
        conditional_trim: Trimming compares the recorded entry in the script that trims.
        load_once: Loading leaves an account alone that is there already.
        load_generation: Loading is refused where an account was evicted since the ledger was read.
        generation_is_new: An eviction's generation was never there before, on no server.
        evict_recorded: Only an account whose last change is recorded is evicted.
        unique_transaction: The ledger has a transaction's id once.
        key_records: The ledger remembers which key was used.
        reversal: A late duplicate is recorded and reversed by a compensating transaction.
        repairs: A partition that lost history is repaired; else it stays as it is.
        repair_closes: The repair closes the partition before it reads the journal.
        repair_records: It records what Redis has and the ledger lacks.
        repair_applies: It gives Redis what the ledger has and Redis lost.
        repair_remembers: It puts the records of finished operations back.
        repair_compares: Each of its steps compares the epoch of the repair it belongs to.
        repair_on_one_server: All its steps are done on the server that was closed; elsewhere it ends.
        fork_closes: Where a comparison fails and nothing is repaired, the partition is closed.
    """

    admission_fence: bool = True
    identity: Literal["process", "promotion", "hidden"] = "promotion"
    opening_compares: bool = True
    opening_creates_absent: bool = True
    opening_fences: bool = True
    batch_under_claim: bool = True
    overlap_read: bool = True
    whole_stamp: bool = True
    worker_fence: bool = True
    compare_and_set: bool = True
    chain: bool = True
    conditional_trim: bool = True
    load_once: bool = True
    load_generation: bool = True
    generation_is_new: bool = True
    evict_recorded: bool = True
    unique_transaction: bool = True
    key_records: bool = True
    reversal: bool = True
    repairs: bool = True
    repair_closes: bool = True
    repair_records: bool = True
    repair_applies: bool = True
    repair_remembers: bool = True
    repair_compares: bool = True
    repair_on_one_server: bool = True
    fork_closes: bool = True

    def without(self, *ingredients: str) -> Design:
        """The same without some ingredients."""
        return replace(self, **dict.fromkeys(ingredients, False))  # type: ignore[arg-type]


WHOLE: Final = Design()
TODAY: Final = Design(identity="process")
INGREDIENTS: Final = tuple(field.name for field in fields(Design) if field.name != "identity")
