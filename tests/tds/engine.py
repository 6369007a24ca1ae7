"""Executes the T-SQL that the server is sent: translated by sqlglot, run by SQLite over the estate's tables."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, field
from typing import Any

import sqlglot
from sqlglot import exp

from tests.tds.tables import OBJECT_IDS, PRODUCTS, TABLES, Account, Estate, table_name
from tests.tds.wire import Parameter, stamp

LOCK_TIMEOUT = 1222


class SqlError(Exception):
    """An error that the client is told: number, text, severity, state."""

    def __init__(self, number: int, text: str, *, severity: int = 16, state: int = 1) -> None:
        super().__init__(f"{number}: {text}")
        self.number = number
        self.text = text
        self.severity = severity
        self.state = state


@dataclass
class Session:
    """One connection's state."""

    account: Account
    integrated: bool
    application: str = ""
    settings: dict[str, str] = field(
        default_factory=lambda: {"ISOLATION": "READ COMMITTED", "LOCK_TIMEOUT": "-1", "DEADLOCK_PRIORITY": "NORMAL"}
    )


@dataclass(frozen=True)
class Result:
    """The rows of one SELECT."""

    columns: tuple[tuple[str, str], ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Prepared:
    """One translated SELECT."""

    sql: str
    columns: tuple[tuple[str, str], ...]
    reads_executions: bool
    scans: str
    """What reads, or could make a server read, all of `catalog.executions`; empty when nothing does."""


_TRANSLATED: dict[tuple[str, bool, int, str], Prepared] = {}
"""By text, whether all rows are shown, release and edition: the same for every engine."""

# What a SELECT may call, and the type of what it gives. Nothing here is younger than SQL Server 2012; a function
# that is not here is refused with error 195, as an old server refuses a new function.
FUNCTIONS: dict[str, str] = {
    "IS_MEMBER": "int",
    "IS_SRVROLEMEMBER": "int",
    "DB_ID": "int",
    "DB_NAME": "sysname",
    "OBJECT_ID": "int",
    "HAS_DBACCESS": "int",
    "ORIGINAL_LOGIN": "sysname",
    "SUSER_SNAME": "sysname",
    "USER_NAME": "sysname",
    "SERVERPROPERTY": "nvarchar(128)",
    "CONNECTIONPROPERTY": "nvarchar(128)",
}
GLOBALS: dict[str, str] = {"SERVERNAME": "sysname", "SPID": "int"}
BUILT_IN = (
    exp.Count,
    exp.Sum,
    exp.Max,
    exp.Min,
    exp.Cast,
    exp.Substring,
    exp.Coalesce,
    exp.Case,
    exp.If,
    exp.ObjectId,
    exp.CurrentTimestampLTZ,
    exp.And,
    exp.Or,
    exp.Not,
    exp.Paren,
    exp.Anonymous,
    exp.Neg,
)

_SET = re.compile(
    r"^SET\s+(?:(?P<iso>TRANSACTION\s+ISOLATION\s+LEVEL)\s+(?P<level>[A-Z ]+)|(?P<name>[A-Z_]+)\s+(?P<value>[-\w]+))$",
    re.IGNORECASE,
)
_SETTINGS = {"LOCK_TIMEOUT", "DEADLOCK_PRIORITY", "NOCOUNT", "ANSI_NULLS", "QUOTED_IDENTIFIER"}


class Engine:
    """Runs batches for sessions; one at a time, under the estate's lock."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self._session: Session | None = None
        database = estate.db
        for name in (
            "IS_MEMBER",
            "IS_SRVROLEMEMBER",
            "SERVERPROPERTY",
            "CONNECTIONPROPERTY",
            "OBJECT_ID",
            "HAS_DBACCESS",
        ):
            database.create_function(name, 1, getattr(self, f"_{name.lower()}"))
        database.create_function("DB_ID", -1, lambda *_: 5)
        database.create_function("DB_NAME", 0, lambda: "SSISDB")
        database.create_function("ORIGINAL_LOGIN", 0, lambda: self._current.account.name)
        database.create_function("SUSER_SNAME", 0, lambda: self._current.account.name)
        database.create_function("USER_NAME", 0, lambda: self._current.account.user or self._current.account.name)
        database.create_function("SERVER_NOW", 0, lambda: stamp(self.estate.now()))
        database.create_function("GLOBAL_SERVERNAME", 0, lambda: self.estate.server_name)
        database.create_function("GLOBAL_SPID", 0, lambda: 51)
        database.create_function("BIG_ENDIAN", 1, _big_endian, deterministic=True)
        database.create_function("SEES_RECOVERY", 0, lambda: int(self._current.account.sees_recovery))
        database.create_function("SEES", 2, self._sees)

    @property
    def _current(self) -> Session:
        assert self._session is not None
        return self._session

    def run(
        self, session: Session, text: str, parameters: list[Parameter]
    ) -> tuple[list[Result | SqlError], list[str]]:
        """
        The results of a batch, and what it scanned. A lock that was not let go ends its statement only.

        Raises `SqlError` for what a server refuses.
        """
        results: list[Result | SqlError] = []
        scanned: list[str] = []
        with self.estate.lock:
            self._session = session
            for statement in split(text):
                if statement[:4].upper() == "SET ":
                    _change_setting(session, statement)
                    continue
                prepared = self._prepare(session, statement, parameters)
                if prepared.scans:
                    scanned.append(prepared.scans)
                try:
                    results.append(self._select(session, prepared, parameters))
                except SqlError as exc:
                    if exc.number != LOCK_TIMEOUT:
                        raise
                    results.append(exc)
        return results, scanned

    def _select(self, session: Session, prepared: Prepared, parameters: list[Parameter]) -> Result:
        values = {parameter.name.lstrip("@"): parameter.value for parameter in parameters}
        try:
            rows = self.estate.db.execute(prepared.sql, values).fetchall()
        except sqlite3.Error as exc:
            raise SqlError(102, f"the test server cannot run {prepared.sql}: {exc}", severity=15) from exc
        committed = session.settings["ISOLATION"] != "READ UNCOMMITTED"
        if prepared.reads_executions and committed and self.estate.locked:
            names = [name for name, _ in prepared.columns]
            for row in rows:
                if "execution_id" in names and row[names.index("execution_id")] in self.estate.locked:
                    raise SqlError(LOCK_TIMEOUT, "Lock request time out period exceeded.", state=51)
        return Result(prepared.columns, rows)

    def _prepare(self, session: Session, text: str, parameters: list[Parameter]) -> Prepared:
        key = (text, session.account.sees_all(self.estate.release), self.estate.release, self.estate.edition)
        if key not in _TRANSLATED:
            _TRANSLATED[key] = self._translate(session, text, parameters)
        return _TRANSLATED[key]

    def _translate(self, session: Session, text: str, parameters: list[Parameter]) -> Prepared:
        try:
            tree = sqlglot.parse_one(text, read="tsql")
        except sqlglot.ParseError as exc:
            raise SqlError(102, f"Incorrect syntax: {exc}", severity=15) from exc
        if not isinstance(tree, exp.Select):
            raise SqlError(262, f"permission denied: the exporter may only read, and sent {text[:80]!r}")
        if "LIMIT" in {token.upper() for token in text.split()}:
            raise SqlError(102, "Incorrect syntax near 'LIMIT'.", severity=15)
        declared = {parameter.name.lstrip("@"): parameter.type_name for parameter in parameters}
        # MAXDOP and the like are for the server alone.
        tree.set("options", None)
        tables = self._check_tables(tree)
        self._check_names(tree, tables, declared)
        self._check_functions(tree)
        columns = tuple(
            (projection.alias_or_name, self._type(projection, tree, declared)) for projection in tree.expressions
        )
        for name, _ in columns:
            if columns.count((name, _)) > 1 and name:
                raise SqlError(8156, f"the column {name} was specified twice")
        sees_all = session.account.sees_all(self.estate.release)
        sql = tree.transform(lambda node: _for_sqlite(node, sees_all=sees_all, declared=declared)).sql(dialect="sqlite")
        reads = any(name == "catalog.executions" for name in tables)
        return Prepared(sql, columns, reads, _joined(tree) or self._scan(sql, declared) if reads else "")

    def _scan(self, sql: str, declared: dict[str, str]) -> str:
        plan = self.estate.db.execute(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(declared, 0)).fetchall()
        for *_, step in plan:
            if re.match(r"SCAN (catalog_executions|e\b|executions\b)", step) and "COVERING" not in step:
                return f"{step} in {sql}"
        return ""

    def _check_tables(self, tree: exp.Expr) -> list[str]:
        ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        names = []
        for table in tree.find_all(exp.Table):
            name = _qualified(table)
            if name in ctes:
                continue
            if name not in TABLES or (name == "sys.database_recovery_status" and self.estate.edition == "5"):
                raise SqlError(208, f"Invalid object name '{name}'.")
            names.append(name)
        return names

    def _check_names(self, tree: exp.Expr, tables: list[str], declared: dict[str, str]) -> None:
        known = {column for table in tables for column in self.estate.columns_of(table)}
        known |= {alias.alias.lower() for alias in tree.find_all(exp.Alias)}
        for column in tree.find_all(exp.Column):
            if column.name.lower() not in known:
                raise SqlError(207, f"Invalid column name '{column.name}'.")
        for parameter in tree.find_all(exp.Parameter):
            if isinstance(parameter.parent, exp.Parameter) or _global(parameter):
                continue
            if parameter.name not in declared:
                raise SqlError(137, f'Must declare the scalar variable "@{parameter.name}".', severity=15)

    def _check_functions(self, tree: exp.Expr) -> None:
        for function in tree.find_all(exp.Func):
            if isinstance(function, exp.Anonymous):
                if isinstance(function.parent, exp.Table) or function.name.upper() in FUNCTIONS:
                    continue
            elif isinstance(function, BUILT_IN):
                continue
            name = function.name if isinstance(function, exp.Anonymous) else function.sql_name()
            raise SqlError(195, f"'{name}' is not a recognized built-in function name.", severity=15)

    def _type(self, node: exp.Expr, tree: exp.Expr, declared: dict[str, str]) -> str:  # noqa: PLR0912 - one a kind of node
        if isinstance(node, (exp.Alias, exp.Paren, exp.Max, exp.Min, exp.Coalesce)):
            return self._type(node.this, tree, declared)
        if isinstance(node, exp.Subquery):
            return self._type(node.this.expressions[0], node.this, declared)
        if isinstance(node, exp.Column):
            return self._column_type(node, tree, declared)
        if isinstance(node, exp.Cast):
            return node.to.sql(dialect="tsql").lower()
        if isinstance(node, exp.Count):
            return "bigint" if node.args.get("big_int") else "int"
        if isinstance(node, exp.Sum):
            return self._type(node.this, tree, declared)
        if isinstance(node, exp.Binary):
            kinds = [self._type(node.left, tree, declared), self._type(node.right, tree, declared)]
            return "bigint" if "bigint" in kinds else kinds[0]
        if isinstance(node, exp.Case):
            return self._type(node.args["ifs"][0].args["true"], tree, declared)
        if isinstance(node, exp.CurrentTimestampLTZ):
            return "datetimeoffset"
        if isinstance(node, exp.Anonymous):
            return FUNCTIONS[node.name.upper()]
        if isinstance(node, exp.Parameter):
            return GLOBALS[_global(node)] if _global(node) else declared[node.name]
        if isinstance(node, exp.Literal):
            return "nvarchar(4000)" if node.is_string else "int"
        if isinstance(node, exp.ObjectId):
            return "int"
        raise SqlError(102, f"the test server cannot tell the type of {node.sql(dialect='tsql')}", severity=15)

    def _column_type(self, node: exp.Column, tree: exp.Expr, declared: dict[str, str]) -> str:
        for alias in tree.find_all(exp.Alias):
            if alias.alias == node.name and alias.this is not node:
                return self._type(alias.this, tree, declared)
        for name in self._check_tables(tree.root()):
            columns = self.estate.columns_of(name)
            if node.name.lower() in columns:
                return columns[node.name.lower()]
        raise SqlError(207, f"Invalid column name '{node.name}'.")

    def _is_member(self, role: str) -> int | None:
        if role == "ssis_logreader" and self.estate.release < 2016:
            return None
        return int(role in self._current.account.roles)

    def _is_srvrolemember(self, role: str) -> int:
        return int(role in self._current.account.server_roles)

    def _serverproperty(self, name: str) -> str | None:
        return {
            "productversion": PRODUCTS[self.estate.release][1],
            "processid": str(self.estate.engine_pid),
            "servername": self.estate.server_name,
            "machinename": self.estate.machine_name,
            "computernamephysicalnetbios": self.estate.machine_name,
            "engineedition": self.estate.edition,
        }.get(name.lower())

    def _connectionproperty(self, name: str) -> str | None:
        scheme = "NTLM" if self._current.integrated else "SQL"
        return {"auth_scheme": scheme, "net_transport": "TCP"}.get(name.lower())

    def _object_id(self, name: str) -> int | None:
        return OBJECT_IDS.get(name.lower())

    def _has_dbaccess(self, _name: str) -> int:
        return int(self._current.account.has_user)

    def _sees(self, execution_id: int, caller: str | None) -> int:
        account = self._current.account
        return int(execution_id in account.readable or (caller or "").casefold() == account.name.casefold())


def split(text: str) -> list[str]:
    """The statements of a batch."""
    pieces = re.findall(r"(?:'(?:[^']|'')*'|\[[^\]]*\]|[^;'\[])+", text)
    return [piece.strip() for piece in pieces if piece.strip()]


def _change_setting(session: Session, statement: str) -> None:
    match = _SET.match(statement)
    if match is None or (match["name"] and match["name"].upper() not in _SETTINGS):
        raise SqlError(195, f"{statement!r} is not a recognized SET option.", severity=15)
    if match["iso"]:
        session.settings["ISOLATION"] = " ".join(match["level"].upper().split())
    else:
        session.settings[match["name"].upper()] = match["value"].upper()


def _global(node: exp.Parameter) -> str:
    """The name of an `@@NAME`; empty for an ordinary parameter."""
    inner = node.this
    return inner.this.name.upper() if isinstance(inner, exp.Parameter) else ""


def _qualified(table: exp.Table) -> str:
    inner = table.this
    name = inner.name if isinstance(inner, exp.Anonymous) else table.name
    return f"{table.db}.{name}".lower() if table.db else name.lower()


def _joined(tree: exp.Expr) -> str:
    """A join with the view: it is itself a join, and a server may make the whole of it first (no plan seen for it)."""
    for join in tree.find_all(exp.Join):
        if isinstance(join.this, exp.Table) and _qualified(join.this) == "catalog.executions":
            return f"a join with catalog.executions in {tree.sql(dialect='tsql')}"
    return ""


def _applied(node: exp.Join, *, sees_all: bool) -> exp.Expr:
    """APPLY with the one row of an id, which SQLite lacks, as the join that gives the same rows."""
    inner, alias = node.this.this.this, node.this.alias
    limit, where = inner.args.get("limit"), inner.args.get("where")
    source = inner.args["from_"].this
    if limit is None or limit.expression.name != "1" or where is None or not isinstance(where.this, exp.EQ):
        raise SqlError(102, f"the test server knows no such APPLY: {node.sql(dialect='tsql')}", severity=15)
    condition = where.this.copy()
    for column in condition.find_all(exp.Column):
        if column.table == source.alias:
            column.set("table", exp.to_identifier(alias))
    table = exp.Table(this=source.this.copy(), db=source.args["db"].copy(), alias=exp.TableAlias(this=alias))
    side = None if node.this.args["cross_apply"] else "LEFT"
    return exp.Join(this=_table_for_sqlite(table, sees_all=sees_all), side=side, on=condition)


def _for_sqlite(node: exp.Expr, *, sees_all: bool, declared: dict[str, str]) -> exp.Expr:
    if isinstance(node, exp.Join) and isinstance(node.this, exp.Lateral):
        return _applied(node, sees_all=sees_all)
    if isinstance(node, exp.National):
        return exp.Literal.string(node.name)
    if isinstance(node, exp.CurrentTimestampLTZ):
        return exp.Anonymous(this="SERVER_NOW")
    if isinstance(node, exp.ObjectId):
        return exp.Anonymous(this="OBJECT_ID", expressions=[exp.Literal.string(node.this.name)])
    if isinstance(node, exp.Parameter) and _global(node):
        return exp.Anonymous(this=f"GLOBAL_{_global(node)}")
    if isinstance(node, exp.Cast) and isinstance(node.this, exp.Substring):
        source = node.this.this
        if isinstance(source, exp.Parameter) and declared.get(source.name, "").startswith("varbinary"):
            return exp.Anonymous(this="BIG_ENDIAN", expressions=[node.this])
    if isinstance(node, exp.Table) and node.db:
        return _table_for_sqlite(node, sees_all=sees_all)
    return node


def _table_for_sqlite(node: exp.Table, *, sees_all: bool) -> exp.Expr:
    name = _qualified(node)
    alias = node.alias or name.split(".")[-1]
    plain = table_name(name)
    if name == "catalog.executions" and not sees_all:
        return _filtered(plain, "SEES(execution_id, caller_name)", alias)
    if name == "sys.database_recovery_status":
        return _filtered(plain, "SEES_RECOVERY()", alias)
    if isinstance(node.this, exp.Anonymous):
        argument = node.this.expressions[0].sql(dialect="sqlite")
        return _filtered(plain, f"execution_id = {argument}", alias)
    return exp.to_table(plain).as_(alias)


def _filtered(table: str, condition: str, alias: str) -> exp.Expr:
    inner = sqlglot.parse_one(f"SELECT * FROM {table} WHERE {condition}", read="sqlite")
    return exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier(alias)))


def _big_endian(data: bytes | None) -> int | None:
    return None if data is None else int.from_bytes(data, "big", signed=len(data) == 8)
