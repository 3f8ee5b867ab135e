"""The facts that a record holds beside its config, and their kinds."""

import math
from typing import Any

LARGEST = 1e100  # of a recorded number; its square is still a number
KINDS: dict[str, type] = {  # of the facts in a record, where they are there
    "epochs_done": int,
    "best_epoch": int,
    "num_parameters": int,
    "num_processes": int,
    "num_threads": int,
    "seed": int,
    "duration_s": float,
    "images_per_s": float,
    "partial": bool,
    "pruned": bool,
    "dirty": bool,
    "started": str,
    "device": str,
    "cpu": str,
    "precision": str,
    "selected_on": str,
    "split_hash": str,
    "data_hash": str,
    "commit": str,
    "note": str,
    "error": str,
    "versions": dict,
    "weights": dict,
}


def known(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what is not of its kind."""
    kept = {k: v for k, v in data.items() if k not in KINDS or v is None or _is_kind(v, KINDS[k])}
    attempts = [attempt for attempt in data["attempts"] if isinstance(attempt, dict)]
    kept["attempts"] = [
        {k: v for k, v in attempt.items() if k != "seconds" or _is_kind(v, float)}
        for attempt in attempts
    ]
    kept["scores"] = {
        name: value if isinstance(value, float) or abs(value) < LARGEST else math.nan
        for name, value in data["scores"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return kept


def _is_kind(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind not in (int, float):
        return isinstance(value, kind) and (kind is bool) == isinstance(value, bool)
    return isinstance(value, (int, kind)) and 0 <= value < LARGEST
