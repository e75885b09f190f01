"""Processes whose clock is wrong, as on a host whose clock somebody sets: the monotonic clock goes as it should.

A few lines of C in front of the C library. libfaketime was tried: with Python 3.11 it either moves the monotonic clock
too, and waits with a limit never end, or leaves it alone, and time.sleep fails with EINVAL.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {  /* read anew each time: whoever writes the file sets the clock */
    char text[32] = {0};
    const char *path = getenv("CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atol(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int) syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    (void) zone;
    if (clock_gettime(CLOCK_REALTIME, &fine)) return -1;
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}
"""


class WrongClock:
    """The clock of whoever is started with LD_PRELOAD=`preload` and CLOCK_FILE=`file`.

    `set_to` changes it in the run, for all of them.
    """

    def __init__(self, folder: Path, *, off_by_s: int) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler to make a wrong clock with")
        self._file, library = folder / "clock", folder / "clock.so"
        (folder / "clock.c").write_text(SOURCE)
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(folder / "clock.c")]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"a wrong clock cannot be compiled here: {made.stderr[-300:]}")
        self.set_to(off_by_s)
        self.preload, self.file = str(library), str(self._file)

    def set_to(self, off_by_s: int) -> None:
        """So far from the right time, from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(off_by_s))
        fresh.replace(self._file)
