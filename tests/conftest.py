"""How tests run: no network, GPT-2's vocabulary where its file is at hand, each kind of test in its place."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

CACHE = Path(__file__).parents[2] / "shared" / "tiktoken_cache"
if CACHE.is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(CACHE))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()  # where transformers copies the code of models that are trusted
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # a thread that waits does not keep a core

TRAINS = {"make_training", "undisturbed", "trained", "worlds"}  # fixtures that train, or start processes


def pytest_configure(config):
    distributes_only = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not distributes_only:  # which needs no torch
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell has it for what it starts behind itself
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests send it themselves
        gc.disable()  # until all is imported, of which nothing is garbage
        config.pluginmanager.import_plugin("small_fixtures")


def pytest_xdist_auto_num_workers():
    """Take one more than the processors, as some tests wait for processes of their own; xdist counts them alike."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(items):
    """What trains by a fixture is no unit test. Tests of several processes come first, so that all end together."""
    for item in items:
        if TRAINS.intersection(item.fixturenames):
            item.add_marker("process")
    items.sort(key=lambda item: item.path.name not in {"test_reliability.py", "test_world.py"})


def pytest_collection_finish():
    gc.freeze()  # whoever collects garbage need not look through all libraries and tests
    gc.enable()
