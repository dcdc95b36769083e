"""The table of types in docs/values.md: name, an example, and how it travels."""

from __future__ import annotations

import re
from pathlib import Path

ROWS = re.findall(
    r"^\| `?([^|`]+)[^|]*\| `?(.*?)`? ?\| ([^|]*) \|$",
    (Path(__file__).parents[2] / "docs" / "values.md").read_text(),
    re.MULTILINE,
)[2:]

MODULES = [
    "array",
    "collections",
    "datetime",
    "decimal",
    "fractions",
    "ipaddress",
    "os",
    "pathlib",
    "re",
    "types",
    "uuid",
    "zoneinfo",
]
