"""Both event loops, as for the tests of the worker."""

from tests.worker.conftest import run as run
