"""The proof kit itself: its checker against planted violations, its proxy, its smoke set."""
