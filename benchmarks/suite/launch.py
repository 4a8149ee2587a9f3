"""Run one command and say what it took; a program of its own, which needs no package.

    python -I -S benchmarks/suite/launch.py SECONDS COMMAND ...

A process starts with the size of the one that starts it as its peak of resident memory (Linux
keeps it over `exec`). So a command is started from here, where next to nothing is loaded, and not
from a process with torch in it. The last line on standard error is one JSON object: exit code,
seconds of wall and CPU time, bytes of resident memory at the peak. A command that takes longer than
SECONDS is ended.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Dict, Sequence, Union

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of `ru_maxrss` (getrusage(2))."""


def cost_of(command: Sequence[str], limit_s: int) -> Dict[str, Union[int, float]]:
    """Run it to its end, or to the limit."""
    # who starts this may have told its children to leave Ctrl-C alone: a measurement ends with it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    started = time.perf_counter()
    child = subprocess.Popen(command)
    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    signal.alarm(limit_s)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - started
    signal.alarm(0)
    child.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    return {
        "exit_code": child.returncode,
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * _MAXRSS_BYTES,
    }


if __name__ == "__main__":
    print("\n" + json.dumps(cost_of(sys.argv[2:], int(sys.argv[1]))), file=sys.stderr)
