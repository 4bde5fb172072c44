"""Looks at what is there: is the set-up sound, and do Redis, journal and ledger agree?"""
