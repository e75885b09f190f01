"""Whether a weights file has the tensors of its architecture; run in a process of its own, which imports torch.

`python -m worker.engines.shape_probe DIRECTORY FILE` prints a line of JSON: `problem` (empty: they fit), `tensors`.
Names and shapes alone are read, so it takes seconds and no memory worth mentioning, whatever the model's size.
"""

import json
import sys
from pathlib import Path

from audit.errors import ModelRefused


def look(directory: Path, file: str) -> dict[str, str]:
    """Compare the file with what config.json says."""
    from worker.engines.ofa_spec import read_json, read_spec
    from worker.engines.weights_file import inspect_weights

    try:
        spec = read_spec(directory, read_json(directory / "configuration.json"))
        weights = inspect_weights(directory / file)

        from worker.engines.ofa_weights import check_shapes  # torch: not for what the texts tell already

        return {"problem": "", "tensors": str(check_shapes(directory, spec.config, weights))}
    except ModelRefused as error:
        return {"problem": error.detail, "tensors": ""}


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1]), sys.argv[2])))
