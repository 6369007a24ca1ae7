"""Makes up the packages of the demo estate: their names, how often and how long they run, how they misbehave."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from enum import Enum

MINUTE = 60.0
HOUR = 60 * MINUTE

# Folder and project, the account its packages run as, the account that starts them, what the packages are about.
PROJECTS: tuple[tuple[str, str, str, str, tuple[str, str, str, str, str]], ...] = (
    ("Finance", "GeneralLedger", "svc_etl_fin", "svc_agent", ("Journal", "Balance", "CostCenter", "Account", "Budget")),
    (
        "DataWarehouse",
        "Facts",
        "svc_etl_dw",
        "svc_agent",
        ("FactSales", "FactStock", "FactCost", "FactVisit", "FactOrder"),
    ),
    ("Sales", "Orders", "svc_etl_sales", "svc_agent", ("Order", "OrderLine", "Quote", "Discount", "Return")),
    ("Logistics", "Warehouse", "svc_etl_log", "svc_agent", ("Stock", "Pallet", "Bin", "Pick", "Inventory")),
    (
        "HumanResources",
        "Payroll",
        "svc_etl_hr",
        "svc_agent",
        ("Payroll", "PayrollTax", "Absence", "Bonus", "TimeSheet"),
    ),
    (
        "DataWarehouse",
        "Dimensions",
        "svc_etl_dw",
        "svc_agent",
        ("DimCustomer", "DimProduct", "DimStore", "DimDate", "DimStaff"),
    ),
    ("Finance", "Invoicing", "svc_etl_fin", "svc_agent", ("Invoice", "CreditNote", "Dunning", "Payment", "TaxReport")),
    (
        "Interfaces",
        "BankFiles",
        "svc_etl_if",
        "svc_agent",
        ("BankStatement", "DirectDebit", "Transfer", "CardFile", "FxRate"),
    ),
    ("Sales", "CRM", "svc_etl_sales", "m.rivera", ("Customer", "Contact", "Campaign", "Lead", "Visit")),
    ("Logistics", "Shipping", "svc_etl_log", "svc_agent", ("Shipment", "Route", "Carrier", "Freight", "Customs")),
    ("HumanResources", "Staff", "svc_etl_hr", "j.okafor", ("Employee", "Training", "Contract", "Badge", "Review")),
    (
        "Interfaces",
        "PartnerFeeds",
        "svc_etl_if",
        "svc_agent",
        ("PriceList", "Catalogue", "Availability", "Rating", "Feed"),
    ),
)
VERBS = ("Load", "Extract", "Stage", "Merge", "Export", "Rebuild", "Archive")
DOMAIN = "CORP"
MACHINES = ("ETL01", "ETL02", "ETL03")


class Habit(Enum):
    """What a package tends to do beside running well."""

    STEADY = "runs well"
    RUNAWAY = "runs far longer than usual"
    STICKY = "is asked to stop and sticks"
    ORPHANING = "loses its host process"
    QUEUEING = "waits long before it begins"
    FAILING = "fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package of the estate; spans are simulated seconds."""

    index: int
    folder: str
    project: str
    name: str
    package_id: str
    user_name: str
    caller: str
    environment: str
    machine: str
    host: str
    usual: float
    """How long a run usually takes."""

    period: float
    """From one scheduled start to the next."""

    habit: Habit
    """The way in which some of its runs go wrong."""


# Ten packages in turn, so that an estate of any size has something of everything.
_HABITS = (
    Habit.STEADY,
    Habit.RUNAWAY,
    Habit.RUNAWAY,
    Habit.STICKY,
    Habit.ORPHANING,
    Habit.QUEUEING,
    Habit.FAILING,
    Habit.STEADY,
    Habit.STEADY,
    Habit.STEADY,
)
_SHORT = {0}
_LONG = {1, 7}


def stream(seed: int, *what: object) -> random.Random:
    """A stream of numbers of its own for each thing, equal on every platform and in every Python."""
    # A string as the seed goes through SHA-512, never through `hash`, which differs between processes.
    return random.Random(":".join(map(str, (seed, *what))))  # noqa: S311 - makes up an estate; nothing here is secret


def make_packages(seed: int, count: int) -> tuple[Package, ...]:
    """The first `count` packages; a larger estate begins with the packages of a smaller one."""
    return tuple(_make_package(seed, index) for index in range(count))


def package_name(index: int) -> str:
    """A name that no other package of the same project has."""
    turn, place = divmod(index, len(PROJECTS))
    nouns = PROJECTS[place][4]
    # 5 nouns and 7 verbs have no common divisor, so the pair comes again only after 35 turns.
    series, _ = divmod(turn, len(nouns) * len(VERBS))
    name = VERBS[(turn + place) % len(VERBS)] + nouns[turn % len(nouns)]
    return name if series == 0 else f"{name}{series + 1}"


def _make_package(seed: int, index: int) -> Package:
    numbers = stream(seed, "package", index)
    folder, project, user, caller, _ = PROJECTS[index % len(PROJECTS)]
    place = index % len(_HABITS)
    if place in _SHORT:
        usual = numbers.uniform(8, 25)
        period = numbers.uniform(40, 60)
    elif place in _LONG:
        usual = numbers.uniform(1, 5) * HOUR
        period = usual * numbers.uniform(1.4, 2.5)
    else:
        usual = numbers.uniform(2, 12) * MINUTE
        period = usual * numbers.uniform(2, 6)
    in_catalog = numbers.random() < 0.75
    return Package(
        index=index,
        folder=folder,
        project=project,
        name=package_name(index),
        package_id="{" + str(uuid.UUID(int=numbers.getrandbits(128), version=4)).upper() + "}",
        user_name=f"{DOMAIN}\\{user}",
        caller=f"{DOMAIN}\\{caller}",
        environment="Production" if in_catalog else "",
        machine=numbers.choice(MACHINES),
        host="ISServerExec" if in_catalog else "dtexec",
        usual=usual,
        period=period,
        habit=_HABITS[place],
    )
