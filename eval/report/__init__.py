"""Looking at runs: one page that opens anywhere, a Markdown table, and everything as JSON."""

from fourfold.eval.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
