"""The history of the schema: frozen revisions, which import nothing of the library."""
