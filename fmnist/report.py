"""Records as tables for people. Torch-free."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fmnist.record import Record


def print_summary(run: Record) -> None:
    """Print the scores of a finished run and where its results are, on stdout."""
    scores, data = run.scores, run.data
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("accuracy", justify="right")
    table.add_column("loss", justify="right")
    for split in ("train", "val", "test"):
        if f"{split}/acc" in scores:
            table.add_row(split, f"{scores[f'{split}/acc']:.2%}", f"{scores[f'{split}/loss']:.4f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    epochs = f"epoch {data['best_epoch']} of {data['epochs_done']}"
    console.print(
        f"{epochs}, selected on {data['selected_on']}; {data['duration_s']:.1f} s, "
        f"{data['images_per_s']:,.0f} images/s on {_device(data)}, "
        f"{data['num_parameters']:,} parameters"
    )
    if data["partial"]:
        console.print("Only a part of the data was used: these scores say that it runs, no more.")
    console.print(f"Results:     {run.folder}")
    if data["config"]["logger"]["kind"] == "tensorboard":
        console.print(f"TensorBoard: tensorboard --logdir {run.folder.parent}")
    if not data["config"]["name"]:
        console.print(f"Again:       python scripts/resume.py {run.folder}")


def _device(data: Mapping[str, Any]) -> str:
    number = data["num_processes"]
    return f"{number} x {data['device']}" if number > 1 else str(data["device"])
