"""The loop of a process that takes turns with another: a request a line in, an answer a line out.

Needs the standard library only: a peer with an environment of its own runs it, too.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Handler = Callable[..., dict[str, Any]]


def use_cores(count: int) -> None:
    """Keeps this process and its threads on the first `count` of its cores, where the system can.

    To be called before libraries start their threads.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))


def seconds_of(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns the result of a call, and its wall and CPU seconds as 'wall' and 'cpu'."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def peak_mib() -> float:
    """Returns the largest resident memory that this process has had.

    `getrusage` would count the process that started it, too.
    """
    try:
        with Path("/proc/self/status").open(encoding="utf-8") as status:
            lines = [line.split() for line in status]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return next(int(line[1]) for line in lines if line[0] == "VmHWM:") / 2**10


def serve(handlers: Mapping[str, Handler]) -> int:
    """Answers requests {'do': name, …arguments} from standard input until it ends.

    An error's answer is {'error': one line}; its traceback goes to standard error, as everything
    does that libraries print.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0
