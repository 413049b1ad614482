"""Measuring: metrics, benchmarks, statistics, reports."""
