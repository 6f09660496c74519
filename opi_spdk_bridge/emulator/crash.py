"""The death of a target that uses freed memory."""

import os
import resource
import signal
import sys
from typing import NoReturn


def segmentation_fault(why: str) -> NoReturn:
    """Says why on standard error and ends the process as a segmentation fault does, without a core file."""
    print(f"emulator: segmentation fault, as a real target would have it: {why}", file=sys.stderr, flush=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(128 + signal.SIGSEGV)  # where the signal is blocked
