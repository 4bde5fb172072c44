"""What travels: keys, script arguments and replies, journal entries, refusals. Pure."""
