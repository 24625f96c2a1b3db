"""How much main memory is left to this process by what encloses it: its control groups, SLURM, and the shell's limits.

The system's own figure is the whole machine's, of which a container has a part; beyond that, a process is killed
without a word. Sources: the kernel's admin-guide/cgroup-v2 (memory interface files) and cgroup-v1/memory, proc(5),
srun(1). What is missing, or is not what they say, sets no limit.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 62
MEGABYTE = 1 << 20  # what SLURM counts in
PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096
Numbers = dict[str, int]


@dataclass(frozen=True)
class _Files:
    """The files in which one version of control groups tells a group's memory, and the entry of memory.stat that is
    given back when it is needed."""

    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]


VERSIONS = {
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file",)),
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "inactive_file")),
}


def available(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that this process can still have; UNLIMITED if nothing encloses it. `root` is where proc and sys are."""
    return max(0, min([*_of_groups(root), *_of_slurm(root, environment), *_of_shell(root), UNLIMITED]))


# ---- control groups ----


def _of_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in leaves to it, from its own up to the highest that is mounted here."""
    paths = _group_paths(root)
    for kind, subtree, mount in _mounts(root):
        if kind not in paths:
            continue
        group = PurePosixPath(os.path.normpath(paths[kind]))
        inner = group.relative_to(subtree) if group.is_relative_to(subtree) else PurePosixPath()
        for level in [inner, *inner.parents]:
            yield from _left_in(mount / level, VERSIONS[kind])


def _group_paths(root: Path) -> dict[str, str]:
    """The group of each version that counts memory: {'cgroup2': '/user.slice', 'cgroup': '/docker/…'}."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    return paths


def _mounts(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, the group that lies at the mount point, the mount point) of each hierarchy that can count memory."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        fields, kind = place.split(), (source.split() or [""])[0]
        memory = kind == "cgroup2" or (kind == "cgroup" and "memory" in re.split(r"[ ,]", source))
        if memory and len(fields) > 4:
            yield kind, _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _left_in(group: Path, files: _Files) -> Iterator[int]:
    statistics = _table(group / "memory.stat")
    limits = [_number(_text(group / name)) for name in files.limits]
    limits.append(statistics.get("hierarchical_memory_limit"))  # version 1: of the groups that cannot be seen as well
    used = _number(_text(group / files.used)) or 0
    reclaimable = next((statistics[name] for name in files.reclaimable if name in statistics), 0)
    yield from (limit - max(0, used - reclaimable) for limit in limits if limit is not None)


# ---- SLURM, and the shell ----


def _of_slurm(root: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """What SLURM allows the job on this node, less what this process has of it."""
    each = _number(environment.get("SLURM_MEM_PER_CPU", ""))
    processors = re.match(r"\d+", environment.get("SLURM_CPUS_ON_NODE", environment.get("SLURM_JOB_CPUS_PER_NODE", "")))
    of_gpu, gpus = (_number(environment.get(f"SLURM_{name}", "")) for name in ("MEM_PER_GPU", "GPUS_ON_NODE"))
    limits = [
        _number(environment.get("SLURM_MEM_PER_NODE", "")),
        each * int(processors[0]) if each and processors else None,
        of_gpu * gpus if of_gpu and gpus else None,
    ]
    held = _statm(root).get("resident", 0)
    yield from (limit * MEGABYTE - held for limit in limits if limit)  # 0 stands for all memory


def _of_shell(root: Path) -> Iterator[int]:
    """What `ulimit -v` and `ulimit -d` leave."""
    for name, held in (("Max address space", "size"), ("Max data size", "data")):
        line = re.search(rf"^{name} +(\d+)", _text(root / "proc/self/limits"), re.MULTILINE)
        if line:
            yield int(line[1]) - _statm(root).get(held, 0)


def _statm(root: Path) -> Numbers:
    """Bytes of this process, as the kernel counts them in pages."""
    names = ("size", "resident", "shared", "text", "library", "data")
    numbers = map(_number, _text(root / "proc/self/statm").split())
    return {name: n * PAGE for name, n in zip(names, numbers, strict=False) if n is not None}


# ---- files ----


def _text(file: Path) -> str:
    """What a file says; nothing if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    """A decimal number; None for what is none, such as "max"."""
    return int(text) if re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII) else None


def _table(file: Path) -> Numbers:
    """The numbers of lines such as "inactive_file 4096"."""
    pairs = (line.split() for line in _text(file).splitlines())
    numbers = {pair[0]: _number(pair[1]) for pair in pairs if len(pair) == 2}
    return {name: number for name, number in numbers.items() if number is not None}
