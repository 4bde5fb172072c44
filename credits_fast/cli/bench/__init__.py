"""The benchmark as a command: it runs the harness, shows its figures, and writes its reports."""
