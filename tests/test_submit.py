"""What is handed to SLURM, and what of it is not handed over again; nothing here is a cluster."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from omegaconf import OmegaConf

from fmnist import config
from fmnist.command import read_command
from fmnist.errors import UsageError, UserError
from fmnist.sweeps import receipt, scheduler, script, slurm
from fmnist.sweeps.scheduler import UnheardError
from fmnist.sweeps.script import Line
from fmnist.sweeps.slurm import Submitter

SWEEP = Path("sweeps/s")
HOSTILE = [
    "note='$(touch hacked)'",
    'note="`touch hacked` ; touch hacked # \\""',
    "note='TASKS'",
    "note='a\tb | c > hacked && \\ $HOME ${HOME} !! * ? ~'",
    "--flag",
    "'",
    "",
    "\N{SNOWMAN} \x1b[31m",
]


@pytest.fixture
def fake(tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "bin", monkeypatch)
    made.answers("scontrol", "MaxArraySize            = 3\n")
    return made


def settings(*words: str) -> dict[str, Any]:
    command = read_command(["hydra/launcher=slurm", *words])
    values = OmegaConf.to_container(command.hydra.launcher)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "_target_"}


def submitter(*words: str, trainer: dict[str, Any] | None = None, **options: Any) -> Submitter:
    given = trainer or {"accelerator": "cpu", "devices": 1}
    return Submitter(options.get("folder", SWEEP), settings(*words), given, ["-m", "seed=0,1"])


def lines(number: int, *words: str) -> list[Line]:
    return [Line([f"seed={i}", *words], SWEEP / f"seed={i}", None) for i in range(number)]


def options(text: str) -> list[str]:
    return [line[8:] for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_a_script_holds_the_options_and_the_lines() -> None:
    (text,) = submitter(
        *["hydra.launcher.partition=gpu", "hydra.launcher.account=lab", "hydra.launcher.qos=low"],
        *["hydra.launcher.time_min=30", "hydra.launcher.memory_gb=7.5", "hydra.launcher.gpus=2"],
        *["hydra.launcher.throttle=4", "hydra.launcher.extra=['--constraint=a100&ib']"],
        "hydra.launcher.setup=['module load cuda','export A=b']",
    ).preview(lines(3))
    found = options(text)
    assert found[:4] == ["--job-name=s", "--partition=gpu", "--account=lab", "--qos=low"]
    expected = ["--time=30", "--mem=7680M", "--gpus-per-node=2", "--array=0-2%4", "--requeue"]
    assert set(expected) < set(found)
    assert found[-1] == "--constraint=a100&ib"
    assert "--signal=B:USR1@60" in found
    assert "\nmodule load cuda\nexport A=b\nexec " in text
    assert script.again(text) == "python scripts/train.py -m seed=0,1"
    assert [script.line(words) for words in script.tasks(text)] == lines(3)


@pytest.mark.parametrize(
    ("trainer", "words", "expected"),
    [
        ({"accelerator": "cpu", "devices": 1}, [], ["--nodes=1", "--ntasks-per-node=1"]),
        ({"accelerator": "gpu", "devices": 1}, [], ["--gpus-per-node=1", "--ntasks-per-node=1"]),
        (
            {"accelerator": "gpu", "devices": 4, "num_nodes": 2, "strategy": "ddp"},
            [],
            ["--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"],
        ),
        ({"accelerator": "auto", "devices": "auto"}, ["hydra.launcher.gpus=1"], ["--nodes=1"]),
    ],
)
def test_places_follow_from_the_trainer(
    trainer: dict[str, Any], words: list[str], expected: list[str]
) -> None:
    (text,) = submitter(*words, trainer=trainer).preview(lines(1))
    assert set(expected) < set(options(text))
    several = trainer.get("num_nodes", 1) * (4 if "strategy" in trainer else 1) > 1
    assert (script.tasks(text)[0][0] == "srun") == several


def test_a_container_stands_before_python() -> None:
    words = ["hydra.launcher.container=[apptainer,exec,--nv,image.sif]", "hydra.launcher.python=py"]
    (text,) = submitter(*words).preview(lines(1))
    assert script.tasks(text)[0][:5] == ["apptainer", "exec", "--nv", "image.sif", "py"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_no_word_of_a_line_is_run_or_expanded_by_the_shell(workdir: Path) -> None:
    asked = [Line([word], SWEEP / str(i), None) for i, word in enumerate(HOSTILE)]
    made = Submitter(SWEEP, settings(), {"devices": 1}, ["-m", *HOSTILE])
    (text,) = made.preview(asked)
    reader = (
        f"exec {shlex.quote(sys.executable)} -c 'import sys; print(sys.stdin.read(), end=\"\")'"
    )
    shown = "\n".join(
        reader + " <<'TASKS'" if x.startswith("exec ") else x for x in text.split("\n")
    )
    done = subprocess.run(["bash"], input=shown, capture_output=True, text=True, check=True)
    found = [script.line(shlex.split(line)) for line in done.stdout.splitlines()]
    assert [line.overrides for line in found] == [[word] for word in HOSTILE]
    assert not (workdir / "hacked").exists()


def test_a_line_break_is_refused(fake: FakeSlurm) -> None:
    with pytest.raises(UsageError, match="is one line, got a line break in"):
        submitter().submit([Line(["note='a\nb'"], SWEEP / "a", None)])
    assert not [call for call in fake.calls if call.startswith("sbatch")]


@pytest.mark.parametrize(
    "word",
    [
        "hydra.launcher.partition='a b'",
        "hydra.launcher.qos='a\n#SBATCH --uid=0'",
        "hydra.launcher.extra=['-p low']",
        "hydra.launcher.extra=['--wrap=$(id)']",
        "hydra.launcher.setup=['a\nb']",
        "hydra.launcher.time_min=0",
        "hydra.launcher.cpus=none",
        "hydra.launcher.stop_s=5",
        "hydra.launcher.max_restarts=-1",
        "hydra.launcher.patience=1",
    ],
)
def test_wrong_settings_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"hydra\.launcher\."):
        read_command(["hydra/launcher=slurm", word])


def test_a_slot_must_be_longer_than_its_end() -> None:
    with pytest.raises(UsageError, match=r"stop_s must be less than a slot.*time_min=1 minutes"):
        submitter("hydra.launcher.time_min=1", "hydra.launcher.stop_s=60")


def test_large_sweeps_are_several_arrays(fake: FakeSlurm) -> None:
    done = submitter().submit(lines(7))
    assert done.ids == ["77", "77", "77"]
    assert len(list((SWEEP / ".slurm").glob("*.sh"))) == 3
    assert "Submitted 7 tasks of sweeps/s as 77 77 77." in "\n".join(done.lines())


@pytest.mark.parametrize("is_there", [True, False])
def test_submitting_needs_no_scontrol(fake: FakeSlurm, is_there: bool) -> None:
    if is_there:
        fake.fails("scontrol", "slurm_load_ctl_conf error: Access denied")
    else:
        (fake.folder / "scontrol").write_text("#!/nowhere\n")
    assert submitter().submit(lines(7)).ids == ["77"]


def test_what_waits_or_runs_is_not_submitted_again(fake: FakeSlurm) -> None:
    submitter().submit(lines(3))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    mark = f"fmnist-{path.stem}"
    fake.answers(
        "squeue",
        f"{mark}|77|0|RUNNING|n1|None\n{mark}|77|2|PENDING||Priority\n"
        "fmnist-other|78|0|RUNNING|n1|None\n(null)|79|N/A|RUNNING|n2|None\n",
    )
    done = submitter().submit(lines(4))
    assert (done.num_submitted, done.num_active) == (2, 2)
    (new,) = {*(SWEEP / ".slurm").glob("*.sh")} - {path}
    assert [script.line(w) for w in script.tasks(new.read_text())] == [lines(4)[1], lines(4)[3]]
    assert "2 tasks wait or run already." in "\n".join(done.lines())


def test_what_ends_or_is_held_is_told_apart(fake: FakeSlurm) -> None:
    submitter().submit(lines(3))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    states = ["COMPLETING|n1|None", "PENDING||launch failed requeued held", "PENDING||Priority"]
    known = [f"fmnist-{path.stem}|77|{i}|{state}" for i, state in enumerate(states)]
    fake.answers("squeue", "\n".join(known))
    assert list(submitter().submit(lines(3)).lines()) == [
        "1 task waits or runs already.",
        "1 task is ending: type the line again in a minute.",
        "1 task is held (launch failed requeued held). To release: scontrol release 77",
        "Status: python scripts/status.py sweeps/s",
    ]


def test_waiting_tells_what_for(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "POLL_S", (0.01, 0.01))
    monkeypatch.setattr(receipt, "SAME_S", 0.0)
    submitter().submit(lines(3))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    states = ["RUNNING|n1|None", "PENDING||Priority", "PENDING||JobHeldUser"]
    known = [f"fmnist-{path.stem}|77|{i}|{state}" for i, state in enumerate(states)]
    fake.answers("squeue", "\n".join(known))
    program = (fake.folder / "squeue").read_text()
    tail = f"[ $(wc -l < '{fake.folder}/calls') -gt 8 ] && : > '{fake.folder}/squeue.out'\nexit 0"
    (fake.folder / "squeue").write_text(program.replace("exit 0", tail))
    slurm.wait(SWEEP)
    assert capsys.readouterr().err.splitlines() == [
        "Waiting for 1 task (Priority).",
        "1 task is held (JobHeldUser). To release: scontrol release 77",
    ], "once"


def test_workers_of_a_search_are_counted(fake: FakeSlurm) -> None:
    workers = [Line(["hydra/launcher=local"], None, None)] * 3
    submitter().submit(workers)
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    fake.answers("squeue", f"fmnist-{path.stem}|77|0|RUNNING|n1|None\n")
    assert submitter().submit(workers).num_submitted == 2


def test_a_refusal_names_what_was_submitted(fake: FakeSlurm) -> None:
    fake.fails("sbatch", "sbatch: error: Batch job submission failed: Invalid partition\n")
    with pytest.raises(
        UserError, match=r"Invalid partition Nothing was submitted\. .*type the line again"
    ):
        submitter().submit(lines(2))
    assert not SWEEP.exists()


def test_a_submission_that_is_stopped_leaves_no_folder(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "queue", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submitter().submit(lines(2))
    assert not SWEEP.exists()


def test_where_nothing_is_left_slurm_is_not_asked(fake: FakeSlurm) -> None:
    assert not list(submitter().preview([]))
    told = list(submitter().submit([]).lines())
    assert told == ["Nothing is left to submit.", "Status: python scripts/status.py sweeps/s"]
    assert fake.calls == []
    assert not SWEEP.exists()


def test_what_ended_while_it_was_planned_is_not_submitted(fake: FakeSlurm) -> None:
    (SWEEP / "seed=1").mkdir(parents=True)
    done = {"schema": 1, "status": "finished", "config": {}, "scores": {}, "overrides": []}
    record = {**done, "attempts": [], "epochs_done": 1, "duration_s": 1.0}
    (SWEEP / "seed=1" / "run.json").write_text(json.dumps(record))
    assert submitter().submit(lines(3)).num_submitted == 2
    text = (fake.folder / "script").read_text()
    assert [script.line(words) for words in script.tasks(text)] == [lines(3)[0], lines(3)[2]]


def test_without_slurm_it_says_where_to_go(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="squeue is not installed here"):
        submitter().submit(lines(1))
    assert list(submitter().preview(lines(1))), "the script is shown all the same"


def test_logs_lie_beside_the_script_whatever_the_folder_is_called(
    fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "100% odd 'folder'"
    odd.mkdir()
    monkeypatch.chdir(odd)
    submitter().submit(lines(2))
    (call,) = [call for call in fake.calls if call.startswith("sbatch")]
    assert f"--chdir={odd}" in call
    assert f"--output={str(odd.resolve()).replace('%', '%%')}/sweeps/s/.slurm/" in call
    assert call.endswith("_%a.log")


def test_a_single_run_is_no_array(fake: FakeSlurm) -> None:
    folder = Path("runs/a")
    one = Line(["seed=1"], folder, None)
    assert submitter(folder=folder).submit([one]).ids == ["77"]
    assert not [call for call in fake.calls if call.startswith("scontrol")]
    text = (fake.folder / "script").read_text()
    assert not script.is_array(text)
    (path,) = (folder / ".slurm").glob("*.sh")
    fake.answers("squeue", f"fmnist-{path.stem}|77|N/A|PENDING||Priority\n")
    (known,) = slurm.known(folder)
    assert (known.line, known.entry.id) == (one, "77")
    assert config.compose(known.line.overrides).seed == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_JOB_ID": "5"}, ("5", 0, 0)),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "2"}, ("5", 0, 2)),
        (
            {"SLURM_JOB_ID": "6", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1"},
            ("5_1", 1, 0),
        ),
    ],
)
def test_place_in_a_job(variables: dict[str, str], expected: tuple[str, int, int]) -> None:
    assert scheduler.place(variables) == expected


def test_an_unanswered_question_ends(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "TIMEOUT_S", 0.2)
    (fake.folder / "squeue").write_text("#!/bin/sh\nexec sleep 5\n")
    with pytest.raises(UnheardError, match="squeue gave no answer"):
        scheduler.queue()


def test_waiting_outlasts_a_slurm_that_is_away(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "POLL_S", (0.01, 0.01))
    away = "echo away >&2; exit 1"
    (fake.folder / "squeue").write_text(
        f"#!/bin/sh\n[ -e '{fake.folder}/back' ] && exit 0\ntouch '{fake.folder}/back'; {away}\n"
    )
    slurm.wait(SWEEP)
    assert (fake.folder / "back").exists()
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.0)
    (fake.folder / "squeue").write_text(f"#!/bin/sh\n{away}\n")
    with pytest.raises(UserError, match="squeue failed: away"):
        slurm.wait(SWEEP)


@pytest.mark.parametrize(
    "said",
    [
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Unable to contact slurm controller (receive failure)",
        None,
    ],
)
def test_a_script_that_may_have_been_taken_stays_known(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    """The queue may show its job only later."""
    program = (fake.folder / "sbatch").read_text()
    if said:
        fake.fails("sbatch", said)
    else:
        (fake.folder / "sbatch").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(UserError, match=r"taken all the same: wait a minute, then type the line"):
        submitter().submit(lines(1))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    (fake.folder / "sbatch").write_text(program)
    (fake.folder / "sbatch.err").unlink(missing_ok=True)
    fake.answers("squeue", f"fmnist-{path.stem}|77|0|PENDING||None\n")
    assert submitter().submit(lines(1)).num_submitted == 0


def test_a_script_whose_refusal_is_not_true_stays_known(fake: FakeSlurm) -> None:
    fake.fails("sbatch", "a site's own sbatch fails after it submitted")
    program = (fake.folder / "squeue").read_text()
    known = f"for f in {SWEEP}/.slurm/*.sh; do echo fmnist-$(basename $f .sh)'|77|0|PENDING||None'"
    (fake.folder / "squeue").write_text(program.replace("exit 0", f"{known}; done\nexit 0"))
    with pytest.raises(UserError, match="after it submitted"):
        submitter().submit(lines(1))
    (fake.folder / "sbatch.err").unlink()
    assert submitter().submit(lines(1)).num_submitted == 0


def test_the_queue_is_seen_whole(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SQUEUE_PARTITION", "low")
    scheduler.queue()
    assert not [name for name in fake.variables("squeue") if name.startswith("SQUEUE_")]
    assert "-a" in fake.calls[0].split(), "or jobs in hidden partitions are left out"


def test_jobs_of_other_kinds_are_passed_over(fake: FakeSlurm) -> None:
    fake.answers("squeue", "a\nb|3|N/A|RUNNING|n1|None\nfmnist-x|4\n")
    assert scheduler.queue() == []


def test_a_job_that_submits_hands_nothing_of_itself_on(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND"]
    reaching = ["SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"]
    for name in own + reaching:
        monkeypatch.setenv(name, "1")
    submitter().submit(lines(1))
    found = fake.variables("sbatch")
    assert {name for name in own + reaching if name in found} == set(reaching)


def test_what_is_chosen_wins_over_the_environment(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sbatch itself the environment wins over the script, its own words over both."""
    never = ["SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_CPUS_PER_GPU"]
    of_gpus = ["SBATCH_GPUS", "SBATCH_GPUS_PER_TASK", "SBATCH_GRES"]
    for name in [*never, *of_gpus, "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_WAIT_ALL_NODES"]:
        monkeypatch.setenv(name, "gpu:1")
    words = ["hydra.launcher.partition=low", "hydra.launcher.extra=['--constraint=a&b']"]
    submitter(*words).submit(lines(1))
    (call,) = [call for call in fake.calls if call.startswith("sbatch")]
    chosen = options((fake.folder / "script").read_text())
    assert {"--partition=low", "--constraint=a&b", "--requeue", "--array=0-0"} < set(chosen)
    assert set(chosen) < set(call.split())
    found = fake.variables("sbatch")
    assert not [name for name in never if name in found]
    assert {"SBATCH_ACCOUNT", "SBATCH_WAIT_ALL_NODES", *of_gpus} < set(found), "a site's defaults"
    submitter("hydra.launcher.gpus=1").submit(lines(1))
    assert not [name for name in of_gpus if name in fake.variables("sbatch")]


@pytest.mark.parametrize("option", ["--comment=x", "--array=0-9", "--no-requeue", "--time=5"])
def test_what_the_script_sets_is_no_extra_option(option: str) -> None:
    with pytest.raises(UsageError, match=r"hydra\.launcher\.extra must not hold --"):
        submitter(f"hydra.launcher.extra=['{option}']")


def test_a_worker_is_one_process() -> None:
    trainer = {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
    (text,) = submitter(trainer=trainer).preview([Line(["seed=1"], None, None)])
    assert "--nodes=1" in options(text)
    assert script.tasks(text)[0][0] == sys.executable


def test_trust_travels_with_the_line() -> None:
    line = Line(["seed=1"], SWEEP / "a", Path("mine"), trust=True)
    words = line.words(["python", "scripts/train.py"])
    assert words[:5] == ["python", "scripts/train.py", "--folder", "sweeps/s/a", "--trust"]
    assert script.line(words) == line
