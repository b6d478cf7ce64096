"""What is inside the executable, as a table for a person: bytes as they are when used, and as they are stored."""

from build.contents import Contents, Item

_SMALL_BYTES = 20_000


def text(contents: Contents) -> str:
    """Groups by what they take, each with its biggest parts."""
    groups: dict[str, list[Item]] = {}
    for item in contents.items:
        groups.setdefault(item.group, []).append(item)
    lines = [f"{'':<60}{'in use':>12}{'stored':>12}"]
    for name, items in sorted(groups.items(), key=lambda group: -_stored(group[1])):
        lines.append(_line(name, sum(item.raw for item in items), _stored(items)))
        if len(items) > 1:
            lines += [_line(f"    {item.name}", item.raw, item.stored) for item in items if item.stored > _SMALL_BYTES]
    size = contents.executable.stat().st_size
    lines.append(_line("bootloader and tables", 0, size - _stored(contents.items)))
    lines.append(_line(contents.executable.name, sum(item.raw for item in contents.items), size))
    return "\n".join(lines)


def _stored(items: list[Item]) -> int:
    return sum(item.stored for item in items)


def _line(name: str, raw: int, stored: int) -> str:
    return f"{name:<60}{raw:>12,}{stored:>12,}"
