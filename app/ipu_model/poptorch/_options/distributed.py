"""``Options.Distributed``: which of several processes this one is.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

import os

from app.ipu_model.poptorch._options.base import OptionsDict


class _DistributedOptions(OptionsDict):
    """Number of processes and this one's index, at first those Open MPI's variables state."""

    def __init__(self) -> None:
        super().__init__(num_distributed_processes=1, distributed_process_id=0, ipuof_configs={})
        # not through the public methods: a subclass may refuse them
        self._read_environment("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")

    def disable(self) -> "_DistributedOptions":
        """One process, whatever the environment says."""
        self.set(num_distributed_processes=1, distributed_process_id=0)
        return self

    def setEnvVarNames(self, var_num_processes: str, var_process_id: str) -> "_DistributedOptions":
        """Read number of processes and index from these environment variables.

        Raises:
            ValueError: a variable is set to something else than a whole number.
        """
        self._read_environment(var_num_processes, var_process_id)
        return self

    def configureProcessId(self, process_id: int, num_processes: int) -> "_DistributedOptions":
        """State this process's index and the number of processes."""
        self.set(distributed_process_id=process_id, num_distributed_processes=num_processes)
        return self

    @property
    def processId(self) -> int:
        """Index of this process."""
        return int(self.distributed_process_id)

    @property
    def numProcesses(self) -> int:
        """Number of processes."""
        return int(self.num_distributed_processes)

    def _read_environment(self, var_num_processes: str, var_process_id: str) -> None:
        self.set(
            num_distributed_processes=int(os.environ.get(var_num_processes, "1")),
            distributed_process_id=int(os.environ.get(var_process_id, "0")),
        )
