"""`python -m opi_spdk_bridge`."""

from opi_spdk_bridge.cli.main import main

main()
