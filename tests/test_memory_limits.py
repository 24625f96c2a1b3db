import os
from pathlib import Path

import pytest

from gpt.memory import MEGABYTE, UNLIMITED, available

GB = 1 << 30
V1 = "35 32 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def tree(tmp_path):
    """Writes files below a root: {path: text}, and asks what is available there."""

    def ask(files, environment=None):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text, encoding="utf-8")
        return available(tmp_path, environment or {})

    return ask


def v2(path, maximum, current=0, inactive=0, high="max"):
    return {
        f"sys/fs/cgroup{path}/memory.max": f"{maximum}\n",
        f"sys/fs/cgroup{path}/memory.high": f"{high}\n",
        f"sys/fs/cgroup{path}/memory.current": f"{current}\n",
        f"sys/fs/cgroup{path}/memory.stat": f"anon 5\nfile 7\ninactive_file {inactive}\nactive_file 3\n",
    }


def v1(path, limit, usage=0, inactive=0, hierarchical=None):
    text = f"cache 1\ninactive_file 11\ntotal_inactive_file {inactive}\n"
    if hierarchical is not None:
        text += f"hierarchical_memory_limit {hierarchical}\n"
    return {
        f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{path}/memory.usage_in_bytes": f"{usage}\n",
        f"sys/fs/cgroup/memory{path}/memory.stat": text,
    }


def proc(cgroup, mounts):
    return {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts}


V1_NONE = 9223372036854771712  # what an unlimited group of version 1 says

CASES = {
    "nothing": ({}, UNLIMITED),
    "version 2, a container's namespace": (
        proc("0::/\n", V2.format(root="/")) | v2("", 8 * GB, 3 * GB, 1 * GB),
        6 * GB,
    ),
    "version 2, unlimited": (proc("0::/\n", V2.format(root="/")) | v2("", "max", 3 * GB), UNLIMITED),
    "version 2, the least of the ancestors": (
        proc("0::/user.slice/job.scope\n", V2.format(root="/"))
        | v2("/user.slice", 4 * GB, 3 * GB)
        | v2("/user.slice/job.scope", 8 * GB, 1 * GB),
        1 * GB,
    ),
    "version 2, throttled before it is full": (
        proc("0::/a\n", V2.format(root="/")) | v2("/a", 8 * GB, 1 * GB, high=2 * GB),
        1 * GB,
    ),
    "version 2, over its limit": (proc("0::/a\n", V2.format(root="/")) | v2("/a", 2 * GB, 3 * GB), 0),
    "version 2, a group outside of its namespace": (
        proc("0::/../../other\n", V2.format(root="/")) | v2("", 5 * GB, 2 * GB),
        3 * GB,
    ),
    "version 2, a part of the tree is mounted": (
        proc("0::/docker/abc/inner\n", V2.format(root="/docker/abc"))
        | v2("", 5 * GB, 2 * GB)
        | v2("/inner", 4 * GB, 2 * GB),
        2 * GB,
    ),
    "version 2, mounted elsewhere": (
        proc("0::/a\n", "31 23 0:28 / /mnt/my\\040groups rw - cgroup2 none rw\n")
        | {"mnt/my groups/a/memory.max": "100\n", "mnt/my groups/a/memory.current": "30\n"},
        70,
    ),
    "version 1, a container": (
        proc("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n", V1.format(root="/docker/abc"))
        | v1("", 8 * GB, 3 * GB, 1 * GB),
        6 * GB,
    ),
    "version 1, on its machine": (
        proc("3:memory:/slurm/uid_1/job_2\n", V1.format(root="/"))
        | v1("", V1_NONE)
        | v1("/slurm/uid_1", 9 * GB, 8 * GB)
        | v1("/slurm/uid_1/job_2", 4 * GB, 1 * GB),
        1 * GB,
    ),
    "version 1, ancestors that cannot be seen": (
        proc("3:memory:/a\n", V1.format(root="/a")) | v1("", V1_NONE, 1 * GB, hierarchical=3 * GB),
        2 * GB,
    ),
    "version 1, unlimited": (proc("3:memory:/\n", V1.format(root="/")) | v1("", V1_NONE), UNLIMITED),
    "both, memory in version 1": (
        proc(
            "3:cpuset,memory:/a\n1:name=systemd:/b\n0::/b\n",
            "35 32 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,cpuset,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        | v1("/a", 2 * GB, 1 * GB),
        1 * GB,
    ),
    "another controller's mount": (
        proc("3:cpu:/\n", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n")
        | {"sys/fs/cgroup/cpu/memory.limit_in_bytes": "5\n"},
        UNLIMITED,
    ),
    "odd files": (
        proc("0::/a\nnonsense\n::\n", "nonsense\n - \n1 2 3 - cgroup2\n" + V2.format(root="/"))
        | {"sys/fs/cgroup/a/memory.max": "\x00-5 MB", "sys/fs/cgroup/memory.max": "", "proc/self/statm": "a b c"},
        UNLIMITED,
    ),
    "a current usage that cannot be read": (
        proc("0::/\n", V2.format(root="/")) | {"sys/fs/cgroup/memory.max": "4096"},
        4096,
    ),
}


@pytest.mark.parametrize(("files", "left"), CASES.values(), ids=CASES.keys())
def test_control_groups_leave_what_they_do_not_use(tree, files, left):
    assert tree(files) == left


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, 4000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "8"}, 4000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_JOB_CPUS_PER_NODE": "6(x2),4"}, 3000),
        ({"SLURM_MEM_PER_GPU": "2000", "SLURM_GPUS_ON_NODE": "2"}, 4000),
        ({"SLURM_MEM_PER_GPU": "2000"}, None),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "500"}, None),
        ({"SLURM_MEM_PER_NODE": "plenty", "SLURM_MEM_PER_CPU": "", "SLURM_CPUS_ON_NODE": "many"}, None),
    ],
    ids=str,
)
def test_slurm_allows_a_job_so_much_of_a_node(tree, environment, megabytes):
    pages = {"proc/self/statm": "900 100 50 3 0 400 0\n"}
    held = 100 * os.sysconf("SC_PAGESIZE")
    limit = UNLIMITED if megabytes is None else megabytes * MEGABYTE - held
    assert tree(pages, environment | {"SLURM_JOB_ID": "7"}) == limit
    assert tree(pages, environment) == UNLIMITED  # outside a job they are what a user asks of the next one


def test_ulimit_leaves_what_is_not_in_use(tree):
    page = os.sysconf("SC_PAGESIZE")
    limits = "Limit                     Soft Limit           Hard Limit           Units\n"
    lines = {
        "address": "Max address space         {}           unlimited            bytes\n",
        "data": "Max data size             {}           unlimited            bytes\n",
    }
    statm = {"proc/self/statm": "900 100 50 3 0 400 0\n"}
    for line, held in ((lines["address"], 900), (lines["data"], 400)):
        assert tree(statm | {"proc/self/limits": limits + line.format(1 << 30)}) == (1 << 30) - held * page
        assert tree(statm | {"proc/self/limits": limits + line.format("unlimited")}) == UNLIMITED


def test_this_machine_is_no_exception():
    assert available() > 100e6
    assert available(Path("/nonexistent")) >= 0
