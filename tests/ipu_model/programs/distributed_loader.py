"""What each of three processes would load: equal, disjoint parts; one order for all."""

import poptorch
import torch


def parts(processes, shuffle, epochs=2):
    data = torch.utils.data.TensorDataset(torch.arange(100))
    result = []
    for process in range(processes):
        options = poptorch.Options().deviceIterations(2).randomSeed(9)
        options.Distributed.configureProcessId(process, processes)
        assert options.Distributed.processId == process
        assert options.Distributed.numProcesses == processes
        loader = poptorch.DataLoader(options, data, batch_size=4, shuffle=shuffle)
        assert loader.combinedBatchSize == 8
        result.append([[int(i) for (batch,) in loader for i in batch] for _ in range(epochs)])
    return result


class Stream(torch.utils.data.IterableDataset):
    """Partitioned by hand, as an iterable must be."""

    def __init__(self, process, processes):
        self.start, self.step = process, processes

    def __iter__(self):
        return iter(torch.arange(self.start, 30, self.step))


def main():
    for shuffle in (False, True):
        loaded = parts(3, shuffle)
        for epoch in range(2):
            samples = [sample for process in loaded for sample in process[epoch]]
            assert len(samples) == len(set(samples)) == 3 * 32
        assert loaded == parts(3, shuffle), "the same seed must give the same order"
    second = parts(3, False)[1][0]
    assert second == list(range(second[0], second[0] + 32))
    assert parts(3, True)[0][0] != parts(3, True)[0][1]

    options = poptorch.Options()
    options.Distributed.configureProcessId(1, 3)
    loader = poptorch.DataLoader(
        options, Stream(1, 3), batch_size=5, auto_distributed_partitioning=False
    )
    assert [batch.tolist() for batch in loader] == [[1, 4, 7, 10, 13], [16, 19, 22, 25, 28]]
    try:
        plain = poptorch.Options()
        plain.Distributed.configureProcessId(0, 2)
        poptorch.DataLoader(plain, torch.utils.data.TensorDataset(torch.arange(8)), shuffle=True)
    except AssertionError as error:
        assert "randomSeed" in str(error)
    else:
        raise SystemExit("shuffling over processes without a seed was accepted")
    print("each process has its part")


if __name__ == "__main__":
    main()
