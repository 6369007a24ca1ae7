"""The managed API from Python: loads one release of it and reads its running packages. Only the helper imports this."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ssis_exporter.sources.dts.hresults import ACCESS_DENIED
from ssis_exporter.sources.dts.protocol import NO_IDENTITY, Row, Trouble

ASSEMBLY = "Microsoft.SqlServer.ManagedDTS"
MICROSOFT_TOKEN = "89845dcd8080cc91"  # noqa: S105 - the public half of a strong name, no secret

# Wrappers of COM objects are let go by .NET's collector; left alone, thousands stay open between collections.
LISTINGS_BETWEEN_COLLECTIONS = 60


class ApiMissing(Exception):
    """No release that was asked for can be loaded."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


class Ambiguous(Exception):
    """An InstanceID names more than one package."""


def trouble_of(exc: BaseException) -> Trouble:
    """An exception of either side as it travels."""
    # A constructor called by reflection wraps what went wrong.
    if type(exc).__name__ == "TargetInvocationException":
        exc = getattr(exc, "InnerException", None) or exc
    hresult = getattr(exc, "HResult", 0)
    code = int(hresult) & 0xFFFFFFFF if isinstance(hresult, int) else 0
    message = getattr(exc, "Message", None) or str(exc)
    return Trouble(type=type(exc).__name__, hresult=code, message=" ".join(str(message).split())[:500])


class ManagedApi:
    """One loaded release of Microsoft.SqlServer.Dts.Runtime; used by one thread."""

    def __init__(self, releases: Sequence[int], *, public_key_token: str, runtime: str) -> None:
        """
        Loads the first of `releases` (160 is SQL Server 2022) that is there, by its exact version.

        Raises `ApiMissing`.
        """
        self._system = _load_runtime(runtime)
        self.release, self._assembly = self._load(releases, public_key_token)
        self._application: Any = None
        self._sent: set[str] = set()
        self._listings = 0

    @property
    def assembly_name(self) -> str:
        """The full name of what was really loaded (a publisher policy may redirect a version)."""
        return str(self._assembly.FullName)

    @property
    def machine(self) -> str:
        """The machine's name as .NET tells it."""
        return str(self._system.Environment.MachineName)

    def running(self, server: str) -> tuple[list[str], list[Row]]:
        """All running packages by InstanceID, and the rows that were not handed out before."""
        try:
            return self._list_once(server)
        except Exception as exc:  # .NET exceptions derive from Exception only
            # A package that ended between the listing and the reading may fail; a new listing does not have it. A
            # connection to a service that was restarted stays broken; a new Application makes a new one.
            self._application = None
            if trouble_of(exc).code in ACCESS_DENIED:
                # Asked again, it would be refused again, and Windows would write one more event 10016.
                raise
            return self._list_once(server)

    def stop(self, server: str, instance: str) -> bool:
        """
        Asks the package with this InstanceID to stop, once; False when none runs under it.

        Raises `Ambiguous` where it names more than one package, and stops none.
        """
        try:
            found = self._find(server, instance)
        except Exception:  # noqa: BLE001 - as in `running`; nothing was asked yet
            self._application = None
            found = self._find(server, instance)
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} packages run under {instance}")
        for package in found:
            package.Stop()
        return bool(found)

    def probe(self, server: str) -> dict[str, Any]:
        """Raw values and types of what the API answers here, for an administrator to look at."""
        packages = []
        for package in self._listing(server):
            values: dict[str, Any] = {}
            for name in (
                "InstanceID",
                "PackageID",
                "PackageName",
                "PackageDescription",
                "UserName",
                "ExecutionStartTime",
                "ExecutionDuration",
            ):
                try:
                    value = _property(package, name)
                except Exception as exc:  # noqa: BLE001 - a property that fails is what a probe is for
                    values[name] = {"error": _plain(trouble_of(exc))}
                    continue
                kind = "null" if value is None else type(value).__name__
                values[name] = {"type": kind, "value": None if value is None else str(value)}
                if name == "ExecutionStartTime" and value is not None:
                    values[name] |= {"ticks": int(value.Ticks), "kind": str(value.Kind)}
            packages.append(values)
        version = str(self._system.Environment.Version)
        bits = 64 if sys.maxsize > 2**32 else 32
        return {"assembly": self.assembly_name, "runtime": version, "bits": bits, "packages": packages}

    def _find(self, server: str, instance: str) -> list[Any]:
        return [package for package in self._listing(server) if str(package.InstanceID) == instance]

    def _list_once(self, server: str) -> tuple[list[str], list[Row]]:
        running: list[str] = []
        rows: list[Row] = []
        sent = self._sent
        for package in self._listing(server):
            instance = str(package.InstanceID)
            running.append(instance)
            if instance not in sent:
                rows.append(_row(package, instance))
        self._sent = sent.intersection(running) | {row.instance for row in rows if row.name}
        self._sent.discard(NO_IDENTITY)
        self._collect_sometimes()
        return running, rows

    def _listing(self, server: str) -> Iterable[Any]:
        if self._application is None:
            self._application = self._assembly.CreateInstance("Microsoft.SqlServer.Dts.Runtime.Application")
        listing: Iterable[Any] = self._application.GetRunningPackages(server)
        return listing

    def _collect_sometimes(self) -> None:
        self._listings += 1
        if self._listings % LISTINGS_BETWEEN_COLLECTIONS == 0:
            self._system.GC.Collect()
            self._system.GC.WaitForPendingFinalizers()

    def _load(self, releases: Sequence[int], token: str) -> tuple[int, Any]:
        last: Trouble | None = None
        for release in releases:
            name = f"{ASSEMBLY}, Version={release // 10}.0.0.0, Culture=neutral, PublicKeyToken={token}"
            try:
                # By its exact name: a partial one silently takes the highest version there is.
                return release, self._system.Reflection.Assembly.Load(name)
            except Exception as exc:  # noqa: BLE001 - .NET exceptions derive from Exception only
                last = last or trouble_of(exc)
        raise ApiMissing(last or Trouble(type="ValueError", message="no release of SQL Server was named"))


def _row(package: Any, instance: str) -> Row:
    start = package.ExecutionStartTime
    return Row(
        instance=instance,
        package=str(package.PackageID),
        name=_property(package, "PackageName"),
        description=_property(package, "PackageDescription"),
        user=_property(package, "UserName"),
        start_ticks=None if start is None else int(start.Ticks),
        start_utc=start is not None and str(start.Kind) == "Utc",
        raw_duration=package.ExecutionDuration,
    )


def _property(package: Any, name: str) -> Any:
    """
    The value of a property.

    A text with half a surrogate pair in it is none to Python, and pythonnet raises where it would make one: that half
    is U+FFFD here, and does not spoil the whole listing.
    """
    try:
        return getattr(package, name)
    except UnicodeError:
        return _well_formed(package, name)


def _well_formed(package: Any, name: str) -> str:
    import System  # noqa: PLC0415 - there once the runtime is loaded
    from System.Collections.Generic import IEnumerable, List  # noqa: PLC0415

    # As a sequence of characters it stays .NET's until it is well-formed: the encoder puts U+FFFD for what it cannot
    # encode.
    getter = System.Delegate.CreateDelegate(System.Func[IEnumerable[System.Char]], package, f"get_{name}")
    return bytes(System.Text.Encoding.UTF8.GetBytes(List[System.Char](getter()).ToArray())).decode()


def _plain(trouble: Trouble) -> dict[str, Any]:
    return {"type": trouble.type, "hresult": f"0x{trouble.code:08X}", "message": trouble.message}


def _load_runtime(runtime: str) -> Any:
    """Starts the CLR in this process: `netfx` (the .NET Framework, which the API is made for) or `mono`."""
    try:
        import clr_loader  # noqa: PLC0415
        import pythonnet  # noqa: PLC0415

        pythonnet.set_runtime(clr_loader.get_mono() if runtime == "mono" else clr_loader.get_netfx())
        pythonnet.load()
        import System  # noqa: PLC0415
        import System.Reflection  # noqa: PLC0415
    except ImportError as exc:
        text = "the helper needs pythonnet, which is not installed; run: pip install 'ssis-exporter[dts]'"
        if exc.name not in ("clr_loader", "pythonnet"):
            text += f" ({exc})"
        raise ApiMissing(Trouble(type="MissingExtra", message=text)) from exc
    except Exception as exc:  # whatever a loader of native code raises
        raise ApiMissing(
            Trouble(type=type(exc).__name__, message=f"the CLR ({runtime}) cannot be loaded: {exc}")
        ) from exc
    return System
