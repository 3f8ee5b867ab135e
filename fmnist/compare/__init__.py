"""Run folders as tables, tests, curves and pages. Torch-free."""
