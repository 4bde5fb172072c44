"""A call on its way: checked, sent, repeated, past all that is cold or closed, to its outcome."""
