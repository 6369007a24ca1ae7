"""The kind `demo`: an estate made up in memory, so that everything can be tried without a SQL Server."""

from ssis_exporter.sources.demo.source import DemoSettings, DemoSource

__all__ = ["DemoSettings", "DemoSource"]
