"""The GPU service of visionq: importing this package loads nothing heavy."""

__version__ = "0.1.0"
