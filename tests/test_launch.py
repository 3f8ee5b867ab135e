import pytest

from fmnist import launch
from fmnist.errors import UsageError
from fmnist.launch import Launch, find, first_node, job_name

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train.sh",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}


def place(found: Launch | None) -> tuple[object, ...] | None:
    return found and (found.kind, *found[1:7])


def test_torchrun_is_recognised() -> None:
    assert place(find(TORCHRUN)) == ("torchrun", 5, 8, 1, 1, 2, "gpu1")


def test_srun_is_recognised_and_its_first_node_leads() -> None:
    assert place(find(SRUN)) == ("srun", 3, 4, 1, 1, 2, "gpu07")
    assert place(find({**SRUN, "MASTER_ADDR": "10.0.0.7"})) == (
        *("srun", 3, 4, 1, 1, 2),
        "10.0.0.7",
    )


def test_an_own_port_is_the_only_one() -> None:
    found = find({**SRUN, "MASTER_PORT": "5000"})
    assert found is not None
    assert found.ports == (5000,)


def test_processes_of_one_start_agree_and_those_of_another_do_not() -> None:
    def mark(**changes: str) -> object:
        found = find({**SRUN, **changes})
        return found and (found.mark, found.ports, found.address)

    assert mark(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0") == mark()
    changed = [mark(SLURM_RESTART_COUNT="1"), mark(SLURM_STEP_ID="1"), mark(SLURM_JOB_ID="78")]
    assert len({mark(), *changed}) == 4
    restarted = find({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert restarted is not None
    assert restarted != find(TORCHRUN)


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    found = find(SRUN)
    assert found is not None
    assert len(set(found.ports)) > 10
    assert all(20_000 <= port < 32_000 for port in found.ports)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},  # sbatch, one task
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # sbatch without srun
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"},  # salloc
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun -n 1 in a larger job
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_a_process_alone_is_one(environment: dict[str, str]) -> None:
    assert find(environment) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[03-05,9]-ib,cpu1", "gpu03-ib"),
        ("a-b[7]", "a-b7"),
    ],
)
def test_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (SRUN, "slurm-77"),
        ({**SRUN, "SLURM_JOB_NAME": "interactive"}, None),
        (TORCHRUN, None),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "mine"}, "torchrun-mine"),
        ({"TORCHELASTIC_RUN_ID": "5b2e7a3c-8d0f-4c0e-9a57-0f6a3c1b2d4e"}, None),
        ({"TORCHELASTIC_RUN_ID": "mine", "TORCHELASTIC_MAX_RESTARTS": "2"}, "torchrun-mine"),
        ({}, None),
    ],
)
def test_a_job_that_starts_again_has_the_same_name(
    environment: dict[str, str], name: str | None
) -> None:
    assert job_name(environment) == name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "RANK": "a"}, r"RANK must be an integer in 0\.\.7, got 'a'\. Start"),
        ({**TORCHRUN, "RANK": "8"}, r"RANK must be an integer in 0\.\.7, got '8'"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, "WORLD_SIZE must be an integer in 1"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be an integer in 1"),
        ({**TORCHRUN, "LOCAL_RANK": "-1"}, "LOCAL_RANK must be an integer in 0"),
        ({**SRUN, "SLURM_PROCID": "\u00b2"}, "SLURM_PROCID must be an integer in 0"),
        ({**SRUN, "SLURM_NTASKS": "9" * 5000}, "SLURM_NTASKS must be an integer in 0"),
        ({**SRUN, "MASTER_PORT": "x"}, r"MASTER_PORT must be an integer in 1\.\.65535, got 'x'"),
        ({"FMNIST_TEAM": "x"}, "FMNIST_TEAM must be what the first process of a run sets, got 'x'"),
        ({"FMNIST_TEAM": "{}"}, "FMNIST_TEAM must be .* type `unset FMNIST_TEAM` first"),
        ({"FMNIST_TEAM": "[1]"}, "FMNIST_TEAM must be"),
        ({"FMNIST_TEAM": "[" * 100_000}, "FMNIST_TEAM must be"),
    ],
)
def test_a_variable_that_no_launcher_sets_is_named(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        find(environment)


def test_a_place_of_other_kinds_of_values_is_none() -> None:
    given = Launch("local", 2, 3, 2, 0, 1, launch.LOCAL, (4000,), "m")
    text = launch.environment_of(given)["FMNIST_TEAM"]
    for before, after in (('"rank": 2', '"rank": "2"'), ("[4000]", "[0.5]"), ('"m"', "7")):
        assert before in text
        with pytest.raises(UsageError, match="FMNIST_TEAM must be"):
            find({"FMNIST_TEAM": text.replace(before, after)})


def test_a_started_process_finds_its_place() -> None:
    given = Launch("local", 2, 3, 2, 0, 1, launch.LOCAL, (4000,), "m")
    assert find(launch.environment_of(given)) == given
