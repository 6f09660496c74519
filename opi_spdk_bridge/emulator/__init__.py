"""A stateful emulation of `spdk_tgt` 26.09 behind SPDK's JSON-RPC socket.

The package imports nothing of the rest of opi_spdk_bridge, so that what it says about SPDK is independent of what the
bridge believes. The rules it follows come from SPDK's sources (lib/jsonrpc, lib/bdev, lib/nvmf, lib/vhost,
module/bdev, module/keyring) and from recordings of a real target (tests/data/transcripts).

server       sockets, the pace of the target, starting and stopping
target       the state of one target, composed of the families below, and the layers over them
connection   one client: framing, batches, answers
requests     JSON-RPC requests and answers as bytes
framing      where one JSON value ends in a stream of bytes
startup      executing a configuration at the start
config       what save_config writes

Families: each is its own state and the methods on it; none knows the target.
bdev/        the block device layer and its modules
nvmf/        the NVMe-oF target side
nvme/        the NVMe-oF host side (bdev_nvme)
fabric/      what these two share
accel, keyring, vhost, notifications, settings, framework    the others

Layers: what is laid over the families, and answers, refuses or delays calls in their place.
dispatch     what a layer is
catalogue    the methods of a release, and when they may be called
faults, activity, io    the emulator_* methods, which no real target has

What all stand on:
schema       typed decoding of parameters
registry     tables of methods and their errors
reactor      the order in which a target does what it cannot do at once
"""
