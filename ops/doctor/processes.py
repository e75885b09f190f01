"""Other processes, for people: a number and a name, and whether they are caption-audit's."""

import os


def describe(pid: int) -> str:
    """The number and the name; arguments are not shown, since they may hold passwords."""
    import psutil

    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"process {pid}, which is not seen from here"


def is_ours(pid: int) -> bool:
    """Whether it runs caption-audit, as far as its command tells."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return any(os.path.basename(word) == "caption-audit" or word == "ops.cli" for word in words)
