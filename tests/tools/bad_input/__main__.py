"""The command: python -m tests.tools.bad_input tries every hostile value and prints the counts.

Faults are printed when they occur, and the exit code is their number. A pattern such as
"KPFlowAnalyzer*" restricts the run to matching cases.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections import Counter

os.environ.setdefault("MPLBACKEND", "Agg")


def main() -> int:
    """Run the cases and return the number of faults, at most 100."""
    import torch

    from tests.tools.bad_input.registry import cases

    parser = argparse.ArgumentParser("python -m tests.tools.bad_input", description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names (default: all)")
    chosen = parser.parse_args().patterns
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    callables, parameters, faults, slowest = set(), set(), 0, (0.0, "")
    for case in cases():
        if not any(fnmatch.fnmatchcase(case.name, pattern) for pattern in chosen):
            continue
        start = time.perf_counter()
        verdict = case.run()
        slowest = max(slowest, (time.perf_counter() - start, case.name))
        callables.add(case.entry.callable)
        parameters.add((case.entry.callable, case.parameter))
        counts[verdict.outcome] += 1
        if not verdict.is_right:
            faults += 1
            print(f"FAULT {case.name}: {' '.join(verdict.fault.split())}", flush=True)
    print("| callables | parameters | inputs tried | right answers | clear errors | faults |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(callables)} | {len(parameters)} | {counts.total()} | {counts['answer']} | "
        f"{counts['error']} | {faults} |"
    )
    print(f"slowest: {slowest[1]}, {slowest[0]:.1f} s", file=sys.stderr)
    return min(faults, 100)


if __name__ == "__main__":
    sys.exit(main())
