"""The SSISDB catalog of one server, over TDS."""

from ssis_exporter.sources.catalog.source import CatalogSource

__all__ = ["CatalogSource"]
