"""Damage files as programs, disks and people do, with a seeded generator, so that every input can be reproduced."""

import json
import random
from pathlib import Path
from typing import Any


# Values that no field, or hardly any, should have.
WRONG = [
    None, True, -1, 0, 1, 7, 10**9, 10**30, -(10**19), 0.5, 1e-300, 1e300, float("nan"), float("inf"), "", "text", "7",
    "\0", "../..", "\u202e\ud83d", [], [[]], [None], [1, "a"], [0.5] * 50, {}, {"a": []}, {"0": {"1": 2}},
]  # fmt: skip
JUNK = [
    b"", b"\0", b"\n", b"{}", b"[]", b"null", b"[" * 5000, b"version https://git-lfs\n", b"\xff\xfe",
    b"<!DOCTYPE html><html>Not found</html>", b"PK\x03\x04", b"\x80\x02}q\0.", b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"fLaC", b"OggS", b"\0" * 999, b"frame,class\n", b",,,,,\n",
    b"- &a [*a]\n", b"a: &a [1]\nb: [*a, *a]\n", b"!!python/none",
]  # fmt: skip
CELLS = [
    "", " ", "nan", "inf", "-inf", "-1", "-0", "1e400", "1e18", "99999999999999999999", "0x10", "0.5", "1_000", "١",
    "a", "'", '"', "\0", "é", "3600000", "-361", "91", "1;2", "1\t2", "1,2", "[]", "{}", "[1, 2", "!!float x", "*a",
    "&a", "~", "true", "2024-01-01", "???", "- 1", "a: b", "%", "@", "`", "[9, 1]", "[-1, 1]", "[0, 0]", "1e9",
    "10000000", "0",
]  # fmt: skip


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Truncate, flip, splice, overwrite or otherwise damage bytes."""
    ways = [_cut, _flip, _overwrite, _splice, _number_in_header, _repeat, _junk]
    return generator.choice(ways)(content, generator) if content else _junk(content, generator)


def _cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _flip(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 8, 64])):
        changed[_place(content, generator)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, generator: random.Random) -> bytes:
    start, length = _place(content, generator), generator.randrange(1, 40)
    return content[:start] + generator.randbytes(length) + content[start + length :]


def _splice(content: bytes, generator: random.Random) -> bytes:
    start, other, length = _place(content, generator), _place(content, generator), generator.randrange(1, 400)
    return content[:start] + content[other : other + length] + content[start + generator.choice([0, length]) :]


def _number_in_header(content: bytes, generator: random.Random) -> bytes:
    start, width = generator.randrange(min(len(content), 80)), generator.choice([1, 2, 4, 8])
    number = generator.choice([0, 1, 2**7, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2 ** (8 * width) - 8])
    return content[:start] + (number % 2 ** (8 * width)).to_bytes(width, "little") + content[start + width :]


def _repeat(content: bytes, generator: random.Random) -> bytes:
    return content + content[: generator.randrange(1, len(content) + 1)]


def _junk(_: bytes, generator: random.Random) -> bytes:
    return generator.choice([generator.choice(JUNK), generator.randbytes(generator.choice([1, 100, 5000]))])


def _place(content: bytes, generator: random.Random) -> int:
    """Choose a position anywhere, but half of the time in the header."""
    return generator.randrange(min(len(content), generator.choice([64, len(content)])))


def mutate_json(content: bytes, generator: random.Random) -> bytes:
    """Change, remove, rename or move a value somewhere in JSON, or damage the text."""
    if generator.random() < 0.25:
        return mutate_text(content, generator)
    tree = json.loads(content)
    places = list(_places(tree))
    for _ in range(generator.choice([1, 1, 1, 3])):
        holder, key = generator.choice(places)
        way = generator.randrange(5)
        if way == 0:
            holder.pop(key) if isinstance(holder, dict) else holder.clear()
        elif way == 1 and isinstance(holder, dict):
            holder[f"{key}s"] = holder.get(key)
        elif way == 2 and isinstance(holder, dict):
            other, other_key = generator.choice(places)
            holder[key] = json.loads(json.dumps(other.get(other_key) if isinstance(other, dict) else other))
        else:
            _put(holder, key, generator.choice(WRONG))
    return json.dumps(tree).encode()


def _put(holder: dict | list, key: Any, value: Any) -> None:
    if isinstance(holder, dict) or key < len(holder):
        holder[key] = value


def _places(tree: Any):
    """Yield the container and the key of every value in nested dicts and lists."""
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in entries:
        yield tree, key
        yield from _places(value)


def mutate_text(content: bytes, generator: random.Random) -> bytes:
    """Change encoding, line ends or bytes."""
    way = generator.randrange(6)
    if way < 4:
        encodings = ["utf-16", "utf-8-sig", "latin-1", "utf-32"]
        text = content.decode(errors="replace")
        if generator.random() < 0.5:
            text = text.replace("\n", generator.choice(["\r\n", "\r", "\n\n", " \n", "\u2028", ""]))
        return text.encode(generator.choice(encodings), "replace")
    return mutate_bytes(content, generator)


def mutate_table(content: bytes, generator: random.Random, separator: str = ",") -> bytes:
    """Damage a cell, a column or a line of a text table, or change its encoding."""
    if generator.random() < 0.2:
        return mutate_text(content, generator)
    lines = [line.split(separator) for line in content.decode().splitlines()]
    for _ in range(generator.choice([1, 1, 5])):
        row = generator.randrange(len(lines))
        column = generator.randrange(len(lines[row])) if lines[row] else 0
        way = generator.randrange(7)
        if way <= 2 and lines[row]:
            lines[row][column] = generator.choice(CELLS)
        elif way == 3:
            lines[row] = lines[row][:column]
        elif way == 4:
            lines[row] = lines[row] + [generator.choice(CELLS)]
        elif way == 5:
            lines = [[*line[:column], generator.choice(CELLS), *line[column + 1 :]] for line in lines]
        else:
            lines.insert(row, [generator.choice(CELLS)] * generator.choice([1, 3, 7, 500]))
    joint = separator if generator.random() < 0.9 else generator.choice([";", "\t", " ", "|"])
    return "\n".join(joint.join(line) for line in lines).encode()


def mutate_yaml(content: bytes, generator: random.Random) -> bytes:
    """Damage a value, a key, an indent or a line of a recipe, or change its encoding."""
    if generator.random() < 0.15:
        return mutate_text(content, generator)
    lines = content.decode().splitlines()
    for _ in range(generator.choice([1, 1, 2])):
        row = generator.randrange(len(lines))
        key, colon, value = lines[row].partition(":")
        way = generator.randrange(8)
        if way <= 3 and colon:
            lines[row] = f"{key}: {generator.choice([generator.choice(CELLS), json.dumps(generator.choice(WRONG))])}"
        elif way == 4:
            lines[row] = f"{key[:-1]}{colon}{value}"
        elif way == 5:
            lines[row] = generator.choice([" ", "\t", "   ", "- "]) + lines[row]
        elif way == 6:
            lines.insert(row, generator.choice(lines))
        else:
            lines[row : row + generator.randrange(1, 4)] = []
            lines = lines or [""]
    return "\n".join(lines).encode()


def mutate_file(path: Path, generator: random.Random, mutate=mutate_bytes) -> None:
    """Change a file by one of the functions above, remove it, or put a folder in its place."""
    content, way = path.read_bytes(), generator.random()
    if way < 0.03:
        path.unlink()
    elif way < 0.06:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(mutate(content, generator))
