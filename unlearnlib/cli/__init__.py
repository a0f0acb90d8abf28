"""The `unlearn` command."""

from unlearnlib.cli.main import main as main
