"""The command: python -m tests.tools.mutants breaks one formula at a time and runs the tests.

Each mutant is made in a copy of the code. It survives if no test fails; the exit code is the
number of survivors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tools.mutants.formulas import MUTANTS, Mutant

ROOT = Path(__file__).parents[3]
COPIED = ("kpflow_sklearn", "tests", "conftest.py", "setup.cfg")


def is_killed(mutant: Mutant) -> tuple[bool, str]:
    """Return whether a test fails on the mutant, and the first one that does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            copy_one = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy_one(ROOT / name, copy / name)
        file = copy / "kpflow_sklearn" / mutant.file
        source = file.read_text(encoding="utf-8")
        if source.count(mutant.right) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.file} does not hold {mutant.right!r} once")
        file.write_text(source.replace(mutant.right, mutant.wrong), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "slow or not slow"]
        command += [f"tests/{name}.py" for name in mutant.tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 1, failed[0].split(" - ")[0] if failed else ""


def main() -> int:
    """Run the mutants and return the number of survivors."""
    parser = argparse.ArgumentParser("python -m tests.tools.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="names of mutants (default: all)")
    chosen = parser.parse_args().names
    survivors = 0
    for mutant in MUTANTS:
        if chosen and mutant.name not in chosen:
            continue
        killed, by = is_killed(mutant)
        survivors += not killed
        print(f"{'killed' if killed else 'SURVIVED'}: {mutant.name}  {by}", flush=True)
    print(f"{survivors} survived")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
