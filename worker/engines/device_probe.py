"""Whether torch can compute on the device that this process sees; run in a process of its own, before workers fork.

`python -m worker.engines.device_probe` prints one line of JSON. A process that has started CUDA cannot fork children
that use it, so the worker's main process never asks by itself.
"""

import json


def look() -> dict[str, str]:
    """Return `problem` (`no_cuda`, `no_device`, `no_driver` or empty), `torch` and `detail`: one line, or the name.

    `cuda` is the version of CUDA that torch was built for, empty for a build without it.
    """
    import torch

    told = {"torch": torch.__version__, "cuda": torch.version.cuda or "", "problem": "", "detail": ""}
    if torch.version.cuda is None and torch.version.hip is None:
        return told | {"problem": "no_cuda"}
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's own
        torch.ones(1, device="cuda").add_(1).item()  # an old driver, a busy or unknown device fail here, not before
        return told | {"detail": torch.cuda.get_device_name(0)}
    except (RuntimeError, AssertionError) as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        # What torch says when CUDA_VISIBLE_DEVICES names nothing that is there.
        missing = "No CUDA GPUs are available" in detail or "invalid device ordinal" in detail
        return told | {"problem": "no_device" if missing else "no_driver", "detail": detail}


if __name__ == "__main__":
    print(json.dumps(look()))
