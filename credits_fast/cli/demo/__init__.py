"""The demo: a seeded day of LLM requests on real servers, and the proof that every sum agrees."""
