"""Shared by all tests: where outside data is, which tests are slow, and fresh seeds that a failing
run prints.

FLEXMDM_GOLDEN   folder of numbers computed by the original LLaDA code (llada_tiny/, flexmdm_tiny/,
                 ...)
FLEXMDM_DATA     folder of data sets (gsm8k/, humaneval/, llada_tokenizer/, text/, code/, ...)
FLEXMDM_SEED     repeat a run's random inputs (printed at the head of every run)
"""

import os
import random
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests/helpers")]
SEED = int(os.environ.get("FLEXMDM_SEED", random.SystemRandom().randrange(2**31)))


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="also run the tests marked `full` (too slow for every change)",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "full: too slow for every change; runs with --full")


def pytest_report_header():
    return f"fresh random inputs from FLEXMDM_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        for item in items:
            if "full" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --full"))


@pytest.fixture(autouse=True)
def fresh_seed(request):
    """Every test starts from its own seed, which depends on the run's seed and the test's name
    only.
    """
    random.seed(f"{SEED}/{request.node.nodeid}")
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(random.randrange(2**31))


def _folder(variable):
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} does not name a folder")
    return Path(value)


@pytest.fixture
def golden_dir():
    return _folder("FLEXMDM_GOLDEN")


@pytest.fixture
def golden(golden_dir):
    """golden("flexmdm_tiny/golden.safetensors") -> dict of tensors."""
    from safetensors.torch import load_file

    return lambda name: load_file(golden_dir / name)


@pytest.fixture
def data_dir():
    return _folder("FLEXMDM_DATA")


@pytest.fixture(autouse=True)
def signal_handlers():
    """Runs in a test's own process install handlers and leave them in place, as a script may; a
    forked worker of a later test could then not be ended by SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
