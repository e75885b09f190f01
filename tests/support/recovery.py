"""How soon work goes on after a fault, noted for docs/results/faults.md when FAULTS_LOG names a file."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def recovery(fault: int, what: str, *, within_s: float | None) -> Iterator[None]:
    """Begin the block as the fault is over (or done, for a kill), and end it once work goes on.

    `fault` is its number in docs/faults.md, `within_s` the time promised there (None: none is). A slow machine is no
    failure: nothing is asserted here, the wait inside of the block has a timeout of its own.
    """
    began = time.monotonic()
    yield
    took_s = round(time.monotonic() - began, 2)
    log = os.environ.get("FAULTS_LOG")
    if log:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        line = {"fault": fault, "what": what, "took_s": took_s, "within_s": within_s, "test": test}
        with Path(log).open("a") as file:
            file.write(json.dumps(line) + "\n")
