"""The worker: it carries the journal into the ledger, exactly once."""
