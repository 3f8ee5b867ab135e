"""What a person reads at the end of a training. Torch-free."""

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from fmnist.errors import clean
from fmnist.record import Record
from fmnist.schema import flatten

_FORMS = {  # how the facts of a record are told
    "best_epoch": "{}",
    "epochs_done": "{}",
    "selected_on": "{}",
    "duration_s": "{:.1f}",
    "images_per_s": "{:,.0f}",
    "device": "{}",
    "num_parameters": "{:,}",
}


def print_summary(run: Record) -> None:
    """Print the scores of a finished run and where its results are, on stdout."""
    scores, data = run.scores, run.data
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    grid.add_column("accuracy", justify="right")
    grid.add_column("loss", justify="right")
    for split in ("train", "val", "test"):
        if f"{split}/acc" in scores:
            loss = scores.get(f"{split}/loss", math.nan)
            grid.add_row(split, f"{scores[f'{split}/acc']:.2%}", f"{loss:.4f}")
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(grid)
    console.print(clean(_told(data)))
    if run.status == "pruned":
        console.print("Pruned: its search ended it early.")
    if data.get("partial"):
        console.print("Only a part of the data was used: these scores say that it runs, no more.")
    folder, flat = clean(str(run.folder)), flatten(data["config"])
    console.print(f"Results:     {folder}")
    if flat.get("logger.kind") == "tensorboard":
        console.print("TensorBoard: python scripts/board.py")
    if not flat.get("name"):
        console.print(f"Again:       python scripts/resume.py {folder}")


def _told(data: Mapping[str, Any]) -> str:
    """Put what a record tells of a run into a line; `?` stands for what it does not tell."""
    known = {
        key: form.format(data[key]) for key, form in _FORMS.items() if data.get(key) is not None
    }
    fact = dict.fromkeys(_FORMS, "?") | known
    number = data.get("num_processes") or 1
    device = f"{number} x {fact['device']}" if number > 1 else fact["device"]
    return (
        f"epoch {fact['best_epoch']} of {fact['epochs_done']}, "
        f"selected on {fact['selected_on']}; {fact['duration_s']} s, "
        f"{fact['images_per_s']} images/s on {device}, {fact['num_parameters']} parameters"
    )
