"""Settings of the test run."""

import os

# scikit-learn's suite runs one more check with it; SciPy reads it when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import torch  # noqa: E402

# The networks of the tests are small: more threads than one only wait for each other, and for
# whatever else the machine is doing.
torch.set_num_threads(1)
