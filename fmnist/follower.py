"""A process that a first one started for trainer=ddp: `python -m fmnist.follower`."""

from fmnist import run, team


def main() -> None:
    with team.exit_codes():
        run.follow()


if __name__ == "__main__":
    main()
