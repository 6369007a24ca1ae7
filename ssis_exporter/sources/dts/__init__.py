"""Running packages through Microsoft's managed API, held by a helper process."""

from ssis_exporter.sources.dts.source import DtsSettings, DtsSource

__all__ = ["DtsSettings", "DtsSource"]
