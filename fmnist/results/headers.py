"""The comment on top of an experiment's YAML file that says what it measured."""

import textwrap
from pathlib import Path

from fmnist.compare.statistics import summarize
from fmnist.compare.texts import duration
from fmnist.results import plan
from fmnist.results.store import Entry

TITLE = "# Result, written by `make results` from docs/results.json; do not edit:"
WIDTH = 104


def render(name: str, entry: Entry | None, is_older: bool = False) -> list[str]:
    """Return the lines of the result's block; `is_older`: its recipe is not that of the file."""
    if entry is None:
        return [TITLE, f"#   not measured; to fill it: make results ARGS={name}"]
    scores = [_score(split, entry) for split in ("val", "test") if entry.values(f"{split}_acc")]
    n = len(entry.runs)
    kind = "mean +- sd, " if n > 1 else ""
    selected = "" if entry.selected_on == "val" else f", selected_on: {entry.selected_on}"
    facts = (
        f"{', '.join(scores)} ({kind}n = {n}){selected}; {_epochs(entry)}, "
        f"{duration(entry.run_s)} a run on {entry.machine}, {entry.precision}, {entry.date}, "
        f"commit {entry.commit[:7]}"
    )
    texts = [f"of an older recipe than this: {facts}" if is_older else facts]
    texts += [plan.NOTES[name]] if name in plan.NOTES else []
    lines = [line for text in texts for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False)]
    return [TITLE, f"#   {entry.command}", *(f"#   {line}" for line in lines)]


def replace(text: str, block: list[str]) -> str:
    """Return a file's text with `block` as the end of its leading comment; nothing else changes."""
    lines = text.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    begin = next((i for i, line in enumerate(lines[:end]) if line.rstrip() == TITLE), end)
    head = "".join(lines[:begin])
    if head and not head.endswith("\n"):
        head += "\n"
    return head + "".join(f"{line}\n" for line in block) + "".join(lines[end:])


def update(path: Path, entry: Entry | None, is_older: bool = False) -> str:
    """Return what the file at `path` has to hold."""
    with path.open(encoding="utf-8", newline="") as file:  # as it is, whatever ends its lines
        return replace(file.read(), render(path.stem, entry, is_older))


def _epochs(entry: Entry) -> str:
    return "1 epoch" if entry.epochs == "1" else f"{entry.epochs} epochs"


def _score(split: str, entry: Entry) -> str:
    found = summarize(list(entry.values(f"{split}_acc").values()))
    spread = "" if found.sd is None else f" +- {100 * found.sd:.2f}"
    return f"{split} {100 * found.mean:.2f}{spread} %"
