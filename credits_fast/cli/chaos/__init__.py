"""The proof kit as a command: it plays scenarios, shows what came of them, and writes the document."""
