"""The `unlearn` command.

`main.py` chooses the command, `parser.py` has all flags and their help; a command is carried out by
the file of its name. They share `arguments.py`, `inputs.py` and `output.py`.
"""

from unlearnlib.cli.main import main as main
