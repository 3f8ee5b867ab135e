"""Which of several processes that were started together this one is. Reads the environment only."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from fmnist.errors import UsageError, shortened

TEAM_VARIABLE = "FMNIST_TEAM"  # from the first process of a run to those that it starts
LOCAL = "127.0.0.1"
NUM_PORTS = 16


class Launch(NamedTuple):
    """One of `size` processes on `num_nodes` machines; `rank` 0 leads."""

    kind: Literal["local", "torchrun", "srun"]
    rank: int
    size: int
    local_rank: int
    node: int
    num_nodes: int
    address: str  # of process 0
    ports: tuple[int, ...]  # where process 0 may listen, the likeliest first
    mark: str  # of these processes, and of no others that live

    @property
    def words(self) -> str:
        return f"{self.size} processes started by {self.kind}"


def find(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return what torchrun, srun or a first process of ours say of this one; None if it is alone.

    A SLURM job without srun is one process, however many tasks it asked for. Raises UsageError for
    a variable that cannot be what they set.
    """
    given = os.environ if environment is None else environment
    if TEAM_VARIABLE in given:
        return _team(given[TEAM_VARIABLE])
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= given.keys():
        found = _torchrun(given)
    elif "SLURM_STEP_ID" in given or _number(given, "SLURM_PROCID") > 0:
        found = _srun(given)
    else:
        return None
    return found if found.size > 1 else None


def _team(text: str) -> Launch:
    try:
        values = json.loads(text)
        launch: Launch | None = Launch(**{**values, "ports": tuple(values["ports"])})
    except (ValueError, TypeError, LookupError, RecursionError):
        launch = None
    if launch is None or not _is_plain(launch):
        raise _mistake(TEAM_VARIABLE, text, "what the first process of a run sets")
    return launch


def _is_plain(launch: Launch) -> bool:
    numbers = (*launch[1:6], *launch.ports)
    texts = (launch.kind, launch.address, launch.mark)
    is_text = all(isinstance(text, str) for text in texts)
    return is_text and all(type(number) is int for number in numbers)


def job_name(environment: Mapping[str, str] | None = None) -> str | None:
    """Return a name that a job keeps when its scheduler starts it again; None where it has none.

    That of an array's task is its own. What a person types in an allocation is no job.
    """
    given = os.environ if environment is None else environment
    job = given.get("SLURM_JOB_ID")
    if job and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return f"slurm-{job}"
    run = given.get("TORCHELASTIC_RUN_ID", "none")
    restarts = given.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if run not in ("", "none") and (restarts or not _is_uuid(run)):
        return f"torchrun-{run}"
    return None


def _torchrun(given: Mapping[str, str]) -> Launch:
    """Read what torchrun sets, and other launchers that follow it."""
    size = _whole(given, "WORLD_SIZE", least=1)
    local_size = _number(given, "LOCAL_WORLD_SIZE", size, least=1)
    num_nodes = _number(given, "GROUP_WORLD_SIZE", max(size // local_size, 1), least=1)
    address, port = given["MASTER_ADDR"], given["MASTER_PORT"]
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    mark = "/".join(["torchrun", address, port, str(size), *(given.get(n, "") for n in names)])
    rank = _whole(given, "RANK", most=size - 1)
    return Launch(
        "torchrun",
        rank=rank,
        size=size,
        local_rank=_number(given, "LOCAL_RANK", rank % local_size),
        node=_number(given, "GROUP_RANK", rank // local_size),
        num_nodes=num_nodes,
        address=LOCAL if num_nodes == 1 else address,
        ports=_ports(mark),
        mark=mark,
    )


def _srun(given: Mapping[str, str]) -> Launch:
    size = _number(given, "SLURM_STEP_NUM_TASKS", _number(given, "SLURM_NTASKS", 1))
    num_nodes = _number(given, "SLURM_STEP_NUM_NODES", _number(given, "SLURM_NNODES", 1))
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    mark = "/".join(["srun", *(given.get(name, "") for name in names)])
    nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST") or LOCAL
    address = given.get("MASTER_ADDR") or (LOCAL if num_nodes == 1 else first_node(nodes))
    return Launch(
        "srun",
        rank=_number(given, "SLURM_PROCID"),
        size=size,
        local_rank=_number(given, "SLURM_LOCALID"),
        node=_number(given, "SLURM_NODEID"),
        num_nodes=num_nodes,
        address=address,
        ports=(_whole(given, "MASTER_PORT", least=1, most=65_535),)
        if "MASTER_PORT" in given
        else _ports(mark),
        mark=mark,
    )


def first_node(nodes: str) -> str:
    """Return the first name of a list as SLURM writes it, such as gpu[03-05,9]-ib,cpu1."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _ports(mark: str) -> tuple[int, ...]:
    """Return ports that few other launches try first, below those of outgoing connections."""
    digest = hashlib.sha256(mark.encode()).digest()
    numbers = (int.from_bytes(digest[i : i + 2], "big") for i in range(0, 2 * NUM_PORTS, 2))
    return tuple(20_000 + number % 12_000 for number in numbers)


def _number(given: Mapping[str, str], name: str, default: int = 0, least: int = 0) -> int:
    """Return a variable's number, or `default` for one that is absent or empty."""
    return _whole(given, name, least) if given.get(name) else default


def _whole(given: Mapping[str, str], name: str, least: int = 0, most: int = 2**31 - 1) -> int:
    text = given[name]
    is_number = text.isascii() and text.isdecimal() and len(text) <= 10
    if not is_number or not least <= int(text) <= most:
        raise _mistake(name, text, f"an integer in {least}..{most}")
    return int(text)


def _mistake(name: str, text: str, rule: str) -> UsageError:
    return UsageError(
        f"The environment variable {name} must be {rule}, got {shortened(repr(text))}. Start by "
        f"torchrun or srun, which set it, or type `unset {name}` first."
    )


def _is_uuid(text: str) -> bool:
    try:
        return bool(uuid.UUID(text))
    except ValueError:
        return False


def environment_of(launch: Launch) -> dict[str, Any]:
    """Return the variables of a process that the first one starts; RANK is for libraries' logs."""
    return {
        TEAM_VARIABLE: json.dumps(launch._asdict()),
        "RANK": str(launch.rank),
        "LOCAL_RANK": str(launch.local_rank),
    }
