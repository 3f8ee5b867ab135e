import socket
import subprocess
import sys

import pytest
from board_server import serving
from conftest import PROJECT


def test_make_tensorboard_answers_this_machine_alone() -> None:
    # -o and PY: as if set-up had made this environment. MAKEFLAGS: `make test` may have started us.
    command = ["env", "-u", "MAKEFLAGS", "make", "-o", ".venv/.installed", "tensorboard"]
    with serving([*command, f"PY={sys.executable}", "ARGS=--port 0"], PROJECT) as url:
        port = int(url.rsplit(":")[-1].strip("/"))
        assert url == f"http://localhost:{port}/"
        assert answers("localhost", port)
        others = {"127.0.0.2", own_address()} - {"127.0.0.1", "localhost"}
        assert {address for address in others if answers(address, port)} == set()


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def own_address() -> str:
    """Return the address by which others reach this machine, if any; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # not connected to anything
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    "words",
    [
        ["--bind_all"],
        ["--bind"],
        ["--host", "0.0.0.0"],
        ["--host=::"],
        ["--hos=192.0.2.1"],
        ["--host"],
    ],
)
def test_showing_it_to_other_machines_is_refused(words: list[str]) -> None:
    script = [sys.executable, str(PROJECT / "scripts" / "board.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "TensorBoard is for this machine only. Use ssh -L." in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--port", "-5"], ["--port=65536"], ["--port", "x"]])
def test_a_port_that_is_none_is_refused(words: list[str]) -> None:
    script = [sys.executable, str(PROJECT / "scripts" / "board.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: --port must be 0 to 65535, got ")
    assert len(done.stderr.splitlines()) == 1
