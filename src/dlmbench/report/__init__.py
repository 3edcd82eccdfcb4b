"""The report of a finished run, from the files of the run alone: offline, without torch."""

from dlmbench.report.conclude import Conclusion, conclude, write

__all__ = ["Conclusion", "conclude", "write"]
