"""Servers and connections to them: which leads to a partition, and what it has to be like."""
