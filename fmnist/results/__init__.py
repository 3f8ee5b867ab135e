"""The recorded experiments: run them, keep what they measured, and show it. Torch-free."""
