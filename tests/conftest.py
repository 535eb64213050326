"""Settings of the test run."""

import torch

# The networks of the tests are small: more threads than one only wait for each other, and for
# whatever else the machine is doing.
torch.set_num_threads(1)
