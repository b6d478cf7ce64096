"""The tables in docs/ say what the code says."""

import ast
import os
import re
from pathlib import Path

import msgspec

from shimmy.cli.options import ENGINE_FLAGS
from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ShimmyError
from shimmy.core.request import MAX_CONSTRAINT_BYTES, MAX_TEMPLATE_VARIABLES_BYTES, TEMPLATE_VARIABLES, Sampling
from shimmy.core.settings import Settings
from shimmy.protocols.openai.template import MAX_DEPTH
from shimmy.worker.chat import template
from shimmy.worker.constraints import schema
from shimmy.worker.constraints.compile import MAX_GRAMMAR_BYTES
from tests.test_imports import ALLOWED

ROOT = Path(__file__).parent.parent
BAR, MARKED_BAR = "|", "\\|"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table in docs/`page` whose first column is headed `heading`, without their backquotes."""
    lines = iter((ROOT / "docs" / page).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return table


def classes(cls: type[ShimmyError]) -> list[type[ShimmyError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in classes(sub))]


def test_errors() -> None:
    listed = [(name, int(status), code) for name, status, code, _ in rows("errors.md", "class")]
    own = [cls for cls in classes(ShimmyError) if cls.__module__ == "shimmy.core.errors"]
    assert sorted(listed) == sorted((cls.__name__, cls.status, cls.code) for cls in own)


def test_settings() -> None:
    listed = [(name, default) for name, default, _ in rows("settings.md", "setting")]
    settings = Settings()
    assert listed == [(name, repr(getattr(settings, name))) for name in Settings.__struct_fields__]


def test_the_engine_table() -> None:
    table = rows("settings.md", "name")
    assert [name for name, *_ in table] == [field.encode_name for field in msgspec.structs.fields(EngineSettings)]
    flags = {flag[2:] for _, flag, *_ in table if flag.startswith("--")}
    assert flags == set(ENGINE_FLAGS)


def test_sampling() -> None:
    table = rows("sampling.md", "field")
    listed = {name for names, *_ in table for name in re.findall(r"\w+", names)}
    assert listed == {*Sampling.__struct_fields__, "repeat_penalty"} - {"explicit"}
    for names, default, *_ in table:
        for name, shown in zip(re.findall(r"\w+", names), default.split(", "), strict=False):
            if re.fullmatch(r"-?[\d.]+", shown):
                assert float(shown) == getattr(Sampling(), name)


def test_templates() -> None:
    text = (ROOT / "docs" / "templates.md").read_text()
    listed = text.split("Variables, chosen")[1].split("\n\n")[0].split(":", 1)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == TEMPLATE_VARIABLES
    assert f"at most {MAX_TEMPLATE_VARIABLES_BYTES >> 10} KiB of JSON, nested at most {MAX_DEPTH} times" in text
    assert f"take {template.FUEL_PER_RENDER // 10**6} million\nsteps" in text


def test_structured_output() -> None:
    listed = {name for names, _ in rows("structured-output.md", "keyword") for name in re.findall(r"[\w$]+", names)}
    known = {*schema._VALUES, *schema._SCHEMA, *schema._SCHEMA_LISTS, *schema._SCHEMA_MAPS, "items"}
    assert listed == known
    text = (ROOT / "docs" / "structured-output.md").read_text()
    assert [name for name in {*schema._ANNOTATIONS, *schema._FORMATS} if f"`{name}`" not in text] == []
    numbers = [schema.MAX_NODES, schema.MAX_DEPTH, schema.MAX_PROPERTIES, schema.MAX_PATTERN_PROPERTIES]
    numbers += [schema.MAX_PATTERN_CHARS, MAX_GRAMMAR_BYTES >> 10, MAX_CONSTRAINT_BYTES >> 10]
    assert [number for number in numbers if f"{number:,}" not in text] == []


def test_environment_variables() -> None:
    listed = {name for name, *_ in rows("settings.md", "variable")}
    paths = [path for folder in ("shimmy", "build") for path in (ROOT / folder).rglob("*.py")]
    sources = "\n".join(path.read_text() for path in paths)
    assert {name for name in listed if name.startswith("SHIMMY_")} == set(re.findall(r"\"(SHIMMY_[A-Z_]+)", sources))
    assert [name for name in listed if f'"{name}"' not in sources] == []


def test_every_page_that_is_linked_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert named == targets


def test_who_may_import_whom() -> None:
    listed = {package: set(re.findall(r"`([a-z._]+)`", f"`{names}`")) for package, names in rows("map.md", "package")}
    allowed: dict[str, set[str]] = {package: set() for package in listed}
    for module, names in ALLOWED.items():
        if (package := module.split(".")[1:2]) and package[0] in listed:
            allowed[package[0]] |= {name.removeprefix("shimmy.") for name in names if name.startswith("shimmy.")}
    assert listed == {package: names - {package} for package, names in allowed.items()}
    assert set(listed) == {path.parent.name for path in (ROOT / "shimmy").glob("*/__init__.py")}


def summary(module: Path) -> str:
    """The first sentence of its docstring."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return re.split(r"(?<=\w\w\.) |(?<=\)\.) ", " ".join(text.partition("\n\n")[0].split()))[0]


def modules_page() -> str:
    """docs/modules.md as the code has it."""
    page = (ROOT / "docs" / "modules.md").read_text().partition("\n## ")[0].rstrip() + "\n"
    for package in sorted((ROOT / "shimmy").rglob("__init__.py")):
        page += f"\n## {package.parent.relative_to(ROOT)}/\n{summary(package)}\n"
        modules = sorted(path for path in package.parent.glob("*.py") if path != package)
        # Within a cell a bar must be marked, in backquotes too.
        cells = [f"| `{module.name}` | {summary(module).replace(BAR, MARKED_BAR)} |\n" for module in modules]
        page += "".join(["\n| module | |\n| --- | --- |\n", *cells]) if cells else ""
    return page


def test_every_module_is_listed_with_what_it_says_of_itself() -> None:
    """`REGENERATE=1 python -m pytest tests/test_docs.py` writes the list anew."""
    page = ROOT / "docs" / "modules.md"
    if "REGENERATE" in os.environ:
        page.write_text(modules_page())
    text = page.read_text()
    assert text == modules_page()
    listed = re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "shimmy").rglob("*.py") if path.name != "__init__.py")


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in (ROOT / "shimmy").rglob("*.py") if not summary(path)] == []
