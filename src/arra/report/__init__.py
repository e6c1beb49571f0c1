"""The report of a run, for programs and for people."""

from arra.report.format import (
    PARTS,
    Interval,
    Pictures,
    Report,
    check_report,
    labels,
)
from arra.report.write import write_report

__all__ = ["PARTS", "Interval", "Pictures", "Report", "check_report", "labels", "write_report"]
