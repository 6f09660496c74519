"""`python -m opi_spdk_bridge`."""

from opi_spdk_bridge.cli import main

main()
