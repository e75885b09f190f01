"""NVIDIA's management library as a driver would bring it, for machines without one: a few lines of C, named so.

Whoever is started with LD_LIBRARY_PATH=`folder` finds it under the name that NVML has.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#include <stdio.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;
int nvmlInitWithFlags(unsigned flags) { return INIT; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "the fake's error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54.15"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = CUDA; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(size_t)(index + 1);
    return index == 0 || !LOST ? 0 : 15;  /* 15: the GPU is lost */
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    snprintf(text, size, "GPU-%zu000", (size_t)handle - 1); return 0;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned size) { snprintf(text, size, "Fake H200"); return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    memory->total = 100000000000ULL; memory->used = USED; memory->free = memory->total - USED; return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *found) {
    if (*count < 1) { *count = 1; return 7; }  /* 7: more room is wanted */
    memset(found, 0, sizeof *found); found->pid = PID; *count = 1; return 0;
}
"""


class FakeNvml:
    """A driver for CUDA `cuda` (12040: 12.4) with two GPUs, of whose 100 GB `used` bytes are used by process `pid`.

    `init` is what starting NVML answers: 0, or one of its errors. With `lost` the second GPU does not answer.
    """

    def __init__(
        self, folder: Path, *, pid: int, cuda: int = 12040, used: int = 10**9, init: int = 0, lost: bool = False
    ) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler to make a driver's library with")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nvml.c").write_text(SOURCE)
        values = {"CUDA": cuda, "USED": f"{used}ULL", "PID": pid, "INIT": init, "LOST": int(lost)}
        given = [f"-D{name}={value}" for name, value in values.items()]
        library = str(folder / "libnvidia-ml.so.1")
        subprocess.run([compiler, "-shared", "-fPIC", *given, "-o", library, str(folder / "nvml.c")], check=True)
        self.folder = str(folder)
