"""What lies in folders beside data and is none: hidden files, editors' backups, locks, files about files."""

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase

CHAFF = (
    *("*~", "#*#", "~$*", "*.bak", "*.orig", "*.rej", "*.swp", "*.swo", "*.tmp", "*.temp"),
    *("*.part", "*.partial", "*.crdownload", "*.lock", "*.lck", "*.crc"),
    *("Thumbs.db", "desktop.ini", "_SUCCESS", "_metadata", "_common_metadata", "_committed_*", "_started_*"),
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
)
"""Patterns of names that editors, downloads, systems and data libraries leave."""
CHAFF_FOLDERS = frozenset({"__MACOSX", "__pycache__", "lost+found"})
TABLES = (".parquet", ".arrow")
"""Ends of names of tables, which a folder may hold with what is said about them."""
ABOUT_TABLES = ("readme*", "license*", "citation*", "*.json")
"""Patterns, in small letters, of what is said about the tables of a folder."""
SHOWN = 3


class Left:
    """What was seen and is not read: how much by reason, and the first names of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Count a file or folder (whose name ends in "/")."""
        self.counts[reason] += 1
        if len(names := self.names.setdefault(reason, [])) < SHOWN:
            names.append(name)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def lines(self) -> Iterable[str]:
        """One for each reason: how many, and the first names."""
        for reason, count in self.counts.items():
            more = ", ..." if count > SHOWN else ""
            yield f"{count:,} {reason} ({', '.join(self.names[reason])}{more})"


def is_hidden(name: str) -> bool:
    """Whether a path's last part is hidden."""
    return _last(name).startswith(".")


def is_chaff(name: str) -> bool:
    """Whether a path is of a file or folder (ending in "/") that nobody means as data."""
    last = _last(name)
    return last in CHAFF_FOLDERS if name.endswith("/") else any(fnmatchcase(last, pattern) for pattern in CHAFF)


def is_about_tables(name: str) -> bool:
    """Whether a file beside tables is about them."""
    last = _last(name).lower()
    return not last.endswith(TABLES) and any(fnmatchcase(last, pattern) for pattern in ABOUT_TABLES)


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
