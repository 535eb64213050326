"""Section "memory": the peak above the resident memory before the call, in its own process."""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from tests.tools.benchmarks.problems import Contender, Size, make_problem
from tests.tools.benchmarks.products import PRODUCTS, runnable
from tests.tools.benchmarks.spectra import ANALYSES
from tests.tools.benchmarks.tables import Table

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Freed memory goes back to the system at once, so that earlier calls do not hide what one needs.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def contenders(size: Size, max_gb: float) -> tuple[dict[str, Contender], list[str]]:
    """Return every contender by "operator: name", and remarks on those left out."""
    by_name, remarks = {}, []
    for operator, group in PRODUCTS.items():
        able, why = runnable(group, size, max_gb)
        by_name |= {f"{operator}: {name}": contender for name, contender in able.items()}
        remarks += why
    return by_name | {name: v.prepare for name, v in ANALYSES.items()}, remarks


def memory(size: Size, max_gb: float) -> Table:
    """Measure every contender in a fresh process of its own."""
    q_mb = 4e-6 * size.probes * size.trials * size.steps * size.hidden
    table = Table(
        f"Memory: {size.label()}, k={size.probes}; q takes {q_mb:.4g} MB",
        ("contender", "call, x q", "call, MB", "preparation, MB", "kept from it, MB"),
    )
    able, table.remarks = contenders(size, max_gb)
    for name in able:
        megabytes = _in_child(name, size)
        if isinstance(megabytes, str):
            table.remarks.append(f"{name}: failed, {megabytes}")
        else:
            table.add(name, megabytes[0] / q_mb, *megabytes)
    return table


def _in_child(name: str, size: Size) -> list[float] | str:
    task = json.dumps({"name": name, "size": asdict(size), "threads": torch.get_num_threads()})
    command = [sys.executable, "-m", "tests.tools.benchmarks", "--child", task]
    done = subprocess.run(
        command, env={**os.environ, **_ALLOCATOR}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def child(task: str) -> None:
    """Measure one contender in this process and print the numbers that `memory` reads.

    They are the peaks of the call and of the preparation above the resident memory before each,
    and the memory that the preparation keeps, in MB.
    """
    about = json.loads(task)
    torch.set_num_threads(about["threads"])
    size = Size(**about["size"])
    prepare = contenders(size, float("inf"))[0][about["name"]]
    prepare(make_problem(size.tiny()))()
    problem = make_problem(size)
    gc.collect()
    start = _reset_peak()
    run = prepare(problem)
    gc.collect()
    prepared = _peak() - start
    before = _reset_peak()
    result = run()
    megabytes = [_peak() - before, prepared, before - start]
    del result
    print(json.dumps([max(0.0, v) for v in megabytes]))


def _reset_peak() -> float:
    """Forget the peak so far and return what is resident, in MB."""
    if not _can_reset():
        return _peak()
    _CLEAR.write_text("5", encoding="ascii")
    return _read("VmRSS")


def _peak() -> float:
    """Return the largest resident size since the last reset, or ever where none can be made."""
    if _can_reset():
        return _read("VmHWM")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _can_reset() -> bool:
    """Return whether the system lets a process forget its peak, as Linux does."""
    return os.access(_CLEAR, os.W_OK) and "VmHWM" in _STATUS.read_text()


def _read(entry: str) -> float:
    match = re.search(rf"{entry}:\s+(\d+) kB", _STATUS.read_text())
    return 1.024e-3 * int(match[1]) if match else 0.0
