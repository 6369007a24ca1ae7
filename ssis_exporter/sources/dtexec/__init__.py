"""Packages that run in processes of this machine: `dtexec`, and `dtshost` that is not under one."""

from ssis_exporter.sources.dtexec.source import DtexecSettings, DtexecSource

__all__ = ["DtexecSettings", "DtexecSource"]
