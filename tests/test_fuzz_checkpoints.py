"""Thousands of damaged and hostile checkpoints: each is read, or refused in words; none runs."""

import copy
import json
import math
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from conftest import Run
from fuzzing import Tally, counts, seed

from fmnist import build, checkpoint, record, run
from fmnist.model import load_model
from fmnist.restoring import resume_point

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("workdir")]

SUBSTITUTES: list[Any] = [
    *(None, True, -1, 2**70, 1e308, math.nan, math.inf, "", "text", [], {}, [[1]], {"a": {}}),
    *(torch.zeros(3), torch.full((8, 784), math.nan), torch.zeros(0), torch.zeros(8, 784).half()),
    *(torch.zeros(1).expand(1 << 20), torch.zeros(8, 784, dtype=torch.int64), torch.zeros(784, 8)),
]


def made(content: bytes, state: dict[str, Any], draw: random.Random) -> bytes:
    """Return a damaged or hostile checkpoint, of a kind drawn at random."""
    kind = draw.randrange(8)
    if kind < 2:
        return hostile.torn(content, draw)
    if kind == 2:
        return hostile.repacked(
            content,
            lambda name, part: (
                hostile.torn(part, draw) if part and name.endswith("data.pkl") else part
            ),
        )
    if kind == 3:
        packing = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
        return hostile.repacked(
            content,
            lambda _, part: hostile.torn(part, draw) if part and draw.random() < 0.2 else part,
            packing,
        )
    state = copy.deepcopy(state)
    if kind == 4:
        hostile.spoil(state, draw, [hostile.exploits(draw)])
        if draw.random() < 0.3:
            return pickle.dumps(state, protocol=draw.choice(hostile.PROTOCOLS))
    else:
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            hostile.spoil(state, draw, SUBSTITUTES)
    return hostile.saved(state, _use_new_zipfile_serialization=draw.random() < 0.8)


def test_no_checkpoint_crashes_or_runs(half_way: Path) -> None:
    draw, tally, folder = random.Random(seed()), Tally("checkpoints"), half_way
    module = build.classifier(record.read(folder).data["config"])
    path = folder / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    state = torch.load(path, weights_only=True)
    (folder / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
    for i in range(counts(4740)):
        path.write_bytes(made(content, state, draw))
        with tally.trying(i, checkpoint.CheckpointError):
            found = checkpoint.read_own(path, module)
            module.load_state_dict(found["state_dict"])
    best = folder / "checkpoints" / "best.ckpt"
    for i in range(counts(100)):
        best.write_bytes(made(content, state, draw))
        with tally.trying(("best", i)):
            load_model(folder)
    for i in range(counts(100)):
        path.write_bytes(made(content, state, draw))
        with tally.trying(("point", i)):
            resume_point(folder, module, lambda _: None)
    tally.tell()
    assert not hostile.CANARY.exists()


def test_a_run_goes_on_from_any_checkpoint_or_says_why_not(half_way: Path) -> None:
    """What passes for a checkpoint is trained from, to the end."""
    draw, tally, folder = random.Random(seed() + 1), Tally("checkpoints resumed"), half_way
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rest = {key: value for key, value in state.items() if key != "state_dict"}
    num_gone_on = 0
    for i in range(counts(60)):
        shutil.rmtree("runs/b", ignore_errors=True)
        shutil.copytree(folder, "runs/b")
        spoilt = copy.deepcopy(rest)
        where = [hostile.spoil(spoilt, draw, SUBSTITUTES) for _ in range(draw.choice([1, 1, 2]))]
        torch.save({**spoilt, "state_dict": state["state_dict"]}, "runs/b/checkpoints/last.ckpt")
        with tally.trying((i, where)):
            assert run.resume("runs/b").status == "finished"
            num_gone_on += 1
    tally.tell()
    assert num_gone_on >= 5
    assert not hostile.CANARY.exists()


ATTACKS: dict[str, Callable[[bytes, dict[str, Any]], bytes]] = {
    "code": lambda _, state: hostile.saved({**state, "x": hostile.Exploit(*hostile.CALLS[0])}),
    "bomb": lambda content, _: hostile.bomb(content),
    "cut": lambda content, _: content[:1000],
    "pickle": lambda *_: pickle.dumps({"a": hostile.Exploit(*hostile.CALLS[1])}),
}


@pytest.mark.parametrize("name", ["resume.py", "eval.py", "predict.py", "export.py"])
def test_the_scripts_refuse_hostile_checkpoints(half_way: Path, script: Run, name: str) -> None:
    folder = half_way
    data = json.loads((folder / "run.json").read_text())
    data["status"] = "interrupted" if name == "resume.py" else "finished"
    (folder / "run.json").write_text(json.dumps(data))
    content = (folder / "checkpoints" / "last.ckpt").read_bytes()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    attack = list(ATTACKS)[["resume.py", "eval.py", "predict.py", "export.py"].index(name)]
    for path in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        (folder / "checkpoints" / path).write_bytes(ATTACKS[attack](content, state))
    Path("a.png").write_bytes(b"")
    done = script(name, str(folder), *["a.png"] * (name == "predict.py"))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "checkpoints" in done.stderr
    assert not hostile.CANARY.exists()


def test_the_reference_attack_works_where_code_is_allowed(workdir: Path) -> None:
    """The canary fires under weights_only=False: that it does not elsewhere says something."""
    torch.save(hostile.Exploit(*hostile.CALLS[0]), "a.pt")
    torch.load("a.pt", weights_only=False)
    assert hostile.CANARY.exists()
