"""An inference service: asynchronous loading, several iterations a call, latencies, profiling."""

import poptorch
import torch
from torch import nn


class Images(torch.utils.data.Dataset):
    def __init__(self, count):
        self.images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, images, indices):
        return self.fc(self.net(images).mean(dim=(2, 3))), indices


def main():
    torch.manual_seed(0)
    model = Model().eval()
    dataset = Images(48)
    options = poptorch.Options().deviceIterations(3).modelName("service")
    options.setAvailableMemoryProportion({"IPU0": 0.25})
    loader = poptorch.DataLoader(
        options,
        dataset,
        batch_size=4,
        num_workers=1,
        mode=poptorch.DataLoaderMode.Async,
        async_options={"buffer_size": 2, "early_preload": True},
    )
    executor = poptorch.inferenceModel(model, options)
    executor.compile(torch.zeros(12, 3, 16, 16), torch.zeros(12, dtype=torch.long))
    channel = poptorch.profiling.Channel("service")
    seen = []
    for images, indices in loader:
        with channel.tracepoint("request"):
            scores, returned = executor(images, indices)
        with torch.no_grad():
            expected, _ = model(images, indices)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        assert returned.dtype == torch.int32
        assert returned.tolist() == indices.tolist()
        seen += indices.tolist()
    loader.terminate()
    assert seen == list(range(48))
    for latency in (executor.getHostIpuLatency(), executor.getComputeLatency(),
                    executor.getIpuHostLatency(), executor.getLatency()):  # fmt: skip
        low, high, mean = latency
        assert 0 <= low <= mean <= high
    counters = executor.getPerfCounters()
    assert set(counters) == {"input", "input_complete", "output", "output_complete"}
    print("latency min, max, mean in s:", executor.getLatency())
    executor.detachFromDevice()


if __name__ == "__main__":
    main()
