"""What the engine asks of SQL, the source of record."""
