"""The NVMe-oF host side (module/bdev/nvme): controllers of other targets, and their namespaces as bdevs."""
