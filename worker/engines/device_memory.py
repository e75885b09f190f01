"""How much memory of its device this process holds, when torch is here and has one."""

import sys


def device_bytes() -> int:
    """Bytes that torch has reserved on the current CUDA device; 0 without one. Imports and starts nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())
