"""The OPI storage API served over SPDK: desired state kept durably, the target made to agree with it."""

__version__ = "0.1.0"
