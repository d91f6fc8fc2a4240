"""Freed memory is kept for the next map; in processes of their own, because the setting holds for a whole process."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from prsmed.models.allocation import keep_freed_memory
done = {call}
def one_picture():
    maps = torch.zeros(16 * 2**20)  # 64 MB
    for _ in range(4):
        maps = maps + 1
for _ in range(3):
    one_picture()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    one_picture()
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> tuple[bool, int]:
    """What the call gave, and page faults of five pictures after the first three."""
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, check=True, text=True
    )
    done, count = output.stdout.split()
    return done == "True", int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's mallopt is Linux's")
def test_a_freed_map_is_used_again():
    done, kept = faults("keep_freed_memory()")
    if not done:
        pytest.skip("this C library has no mallopt, or does not take its settings")
    _, returned = faults("False")
    assert kept < 0.1 * returned, (kept, returned)


SCATTERED = """
import numpy as np
from prsmed.models.allocation import keep_freed_memory, return_freed_memory
def resident_mb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
done = keep_freed_memory()
arrays = [np.ones(2**18) for _ in range(200)]  # 2 MB each, every second one stays
arrays = arrays[::2]
before = resident_mb()
return_freed_memory()
print(done, before, resident_mb(), sum(array.sum() for array in arrays) == 100 * 2**18)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's malloc_trim is Linux's")
def test_freed_memory_between_used_memory_is_returned():
    output = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, check=True, text=True).stdout
    done, before, after, whole = output.split()
    if done == "False":
        pytest.skip("this C library has no mallopt, or does not take its settings")
    assert float(before) - float(after) > 150 and whole == "True", output
