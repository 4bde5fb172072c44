"""Credits that are held for a charge to come, during a block or a stream."""
