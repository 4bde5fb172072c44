"""Charges, grants and refunds that commit with the application's own SQL transaction."""
