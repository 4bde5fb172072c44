"""What an action costs, and who may act at all. Pure."""
