"""Sweeps: what their jobs are, where they run, and what became of them."""
