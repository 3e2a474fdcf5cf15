"""The GPU service of visionq: importing this package loads nothing heavy."""
