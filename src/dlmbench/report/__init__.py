"""The report of a finished run, from the files of the run alone: offline, without torch."""

from dlmbench.report.conclude import Conclusion, conclude, missing_packages, write, write_reports

__all__ = ["Conclusion", "conclude", "missing_packages", "write", "write_reports"]
