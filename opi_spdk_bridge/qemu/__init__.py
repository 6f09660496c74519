"""QEMU over its monitor (QMP, the extra `qemu`): devices come to a virtual machine and go while it runs."""
