"""How far a search has come, as its journal says, without Optuna: it takes a second to import."""

import json
from pathlib import Path
from typing import Any

from fmnist.reading import open_bounded

JOURNAL = "study.journal"
MAX_JOURNAL = 1 << 30  # bytes; a trial of ten epochs has 4 kB
GOAL = "n_trials"  # how many trials a study has been asked for, at most
SET_STUDY, CREATE, SET_STATE = 2, 4, 6  # operations, as Optuna numbers them
ENDED = (1, 2, 3)  # states: complete, pruned, fail


def num_left(folder: Path) -> int | None:
    """Return how many trials of the search in `folder` are still to be run.

    Those that are to be proposed, and those that have begun. None where the journal does not tell:
    there is none, it is damaged, or older code made it.
    """
    try:
        return _count(folder / JOURNAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _count(path: Path) -> int | None:
    goal, has_ended = None, list[bool]()
    for log in _logs(path):
        if log["op_code"] == SET_STUDY:
            goal = log["user_attr"].get(GOAL, goal)
        elif log["op_code"] == CREATE:
            has_ended.append(log.get("state") in ENDED)
        elif log["op_code"] == SET_STATE and log["state"] in ENDED:
            has_ended[log["trial_id"]] = True
    return None if goal is None else max(goal, len(has_ended)) - sum(has_ended)


def _logs(path: Path) -> list[dict[str, Any]]:
    with open_bounded(path, MAX_JOURNAL) as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]  # the last may be torn
