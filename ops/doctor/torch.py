"""torch: whether it loads, which CUDA it was built for, and whether the driver can serve that."""

import importlib.util
from collections.abc import Iterator, Mapping

from audit.errors import Unavailable
from ops.doctor.child import PROBE, told_by
from ops.doctor.lines import Line, ok, warning, wrong
from ops.doctor.nvml import Driver, NvmlFault, read_driver

BESIDE = ("torchvision", "torchaudio")
"""transformers imports these where they are installed; one that does not fit torch keeps every model from loading."""
REINSTALL = "install the torch of requirements.lock; on a machine with GPUs its build for CUDA (docs/gpu.md)"


def torch_lines(environ: Mapping[str, str], devices: list[str], *, limit_s: float) -> Iterator[Line]:
    """Import it in a process of its own, and compare; `devices` are the CUDA devices that slots would use."""
    try:
        told = told_by(PROBE, environ={**environ, "CUDA_VISIBLE_DEVICES": ""}, limit_s=limit_s)
    except Unavailable as error:
        yield wrong("torch", f"does not load: {error.detail}", means="no model can be loaded", cure=REINSTALL)
        return
    built = f"built for CUDA {told['cuda']}" if told["cuda"] else "a build without CUDA"
    yield ok("torch", f"{told['torch']}, {built}")
    try:
        driver = read_driver()
    except NvmlFault as error:
        yield wrong("driver", str(error), means="no GPU can be used", cure=error.cure)
    else:
        yield driver_line(told["cuda"], driver, devices)
    for name in BESIDE:
        if importlib.util.find_spec(name) is not None:
            yield _beside(name, environ, limit_s=limit_s)


def driver_line(cuda: str, driver: Driver | None, devices: list[str]) -> Line:
    """Whether torch's CUDA (empty: none), the driver and the devices that are wanted go together."""
    shown = f"{driver.version}, for CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver else "no NVIDIA driver"
    problem, cure = "", ""
    if driver is None:
        problem, cure = "nothing on this machine drives a GPU", "install NVIDIA's driver, or set AUDIT_DEVICES=cpu"
    elif not cuda:
        problem, cure = "torch has no CUDA", REINSTALL
    # A driver serves every CUDA of its own major version, and older ones ("CUDA compatibility", NVIDIA's guide).
    elif int(cuda.partition(".")[0]) > driver.cuda[0]:
        problem = f"torch is built for CUDA {cuda}, which this driver does not know"
        cure = "update the driver, install a torch for an older CUDA, or set AUDIT_DEVICES=cpu"
    if not problem:
        return ok("driver", shown, means=f"it serves torch's CUDA {cuda}")
    if not devices:
        return ok("driver", shown, means=f"{problem}, and no slot needs it: models run on the CPU")
    means = f"slots are to use {', '.join(devices)}, but {problem}"
    return wrong("driver", shown, means=means, cure=cure)


def _beside(name: str, environ: Mapping[str, str], *, limit_s: float) -> Line:
    try:
        told_by("worker.engines.beside_torch", name, environ=environ, limit_s=limit_s)
    except Unavailable as error:
        means = "it does not fit this torch, and transformers imports it: no model can be loaded"
        return wrong(name, f"does not load: {error.detail}", means=means, cure=f"pip uninstall {name}")
    means = "nothing here uses it, and one of another build keeps every model from loading"
    return warning(name, "installed", means=means, cure=f"pip uninstall {name}")
