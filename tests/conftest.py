"""What every test runs under: fixed seeds, few threads, no network, and markers that explain.

A test that is marked `slow`, `gpu`, `network` or `browser` is skipped, with the option that runs
it as the reason, unless that option is given: `pytest --slow`, and so on.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy
import pytest
from hypothesis import settings

OPTIONS = {
    "slow": "takes longer than a few seconds",
    "gpu": "needs a CUDA device",
    "network": "fetches from the internet",
    "browser": "drives a web browser over the built book",
}
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
SEED = 20240223

# Two runs of the suite must try the same examples; and a loaded machine is not a failing test.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, meaning in OPTIONS.items():
        parser.addoption(
            f"--{name}", action="store_true", help=f"also run tests marked {name}: {meaning}"
        )


def pytest_configure(config: pytest.Config) -> None:
    # Before any test module imports torch or transformers, which read these once, on import.
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MPLBACKEND", "agg")
    if not config.getoption("--network"):
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[variable] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name, meaning in OPTIONS.items():
        if config.getoption(f"--{name}"):
            continue
        skip = pytest.mark.skip(reason=f"{meaning}: run with --{name}")
        for item in items:
            if item.get_closest_marker(name) is not None:
                item.add_marker(skip)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or not item.config.getoption("--gpu"):
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """Seeds every generator and bounds the threads, so that the order of tests changes nothing."""
    import torch

    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)


@pytest.fixture
def unlearn(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: (exit code, stdout, stderr)."""
    from unlearnlib.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
