"""`python -m engine` is the same command as `acctops`."""

from engine.cli import entry

if __name__ == "__main__":
    entry()
