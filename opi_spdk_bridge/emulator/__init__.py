"""A stateful emulation of `spdk_tgt` 26.09 behind SPDK's JSON-RPC socket.

The package imports nothing of the rest of opi_spdk_bridge, so that what it says about SPDK is independent of what the
bridge believes. The rules it follows come from SPDK's sources (lib/jsonrpc, lib/bdev, lib/nvmf, lib/vhost,
module/bdev, module/keyring) and from recordings of a real target (tests/data/transcripts).

server       sockets, the pace of the target, starting and stopping
connection   one client: framing, batches, answers
framing      where one JSON value ends in a stream of bytes
schema       typed decoding of parameters
registry     the table of methods and their errors
reactor      the order in which a target does what it cannot do at once
target       the state of one target, composed of the families below
bdev/        the block device layer and its modules
nvmf/        the NVMe-oF target side
nvme/        the NVMe-oF host side (bdev_nvme)
accel, keyring, vhost, notifications, framework, config    the other families
faults, io   the emulator_* methods, which no real target has
"""
