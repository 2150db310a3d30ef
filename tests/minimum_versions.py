"""The lower end of every version range in pyproject.toml, as constraints for `make test-minimum`."""

import re
import tomllib
from pathlib import Path
from typing import Any


def minimum_versions(project: dict[str, Any]) -> list[str]:
    """Return a line `name==version` for each requirement of a project and its extras.

    Raises:
        ValueError: If a requirement has no lower end.
    """
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    lines = []
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):  # its own extras, which are there already
            continue
        found = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no lower end.")
        lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(minimum_versions(tomllib.loads(text)["project"])))
