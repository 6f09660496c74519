"""Devices that QEMU plugs into a virtual machine and out of it."""
