"""The trace of a few steps that `--profile` asks for."""

import json
from dataclasses import replace

from helpers import require_equal, weights


def test_a_profile_traces_a_few_steps_and_names_the_costliest_operations(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, steps=8))
    assert training.fit(profile=True)
    trace = json.loads((training.run / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#4", "ProfilerStep#5"} <= names
    assert "ProfilerStep#2" not in names and "ProfilerStep#6" not in names
    assert any("10 costliest operations of 3 steps" in line for line in said)
    (table,) = (line for line in said if "Self CPU" in line)
    assert "aten::mm" in table or "aten::addmm" in table
    plain_run = make_training(replace(tiny_config, steps=8), "plain")
    plain_run.fit()
    assert not (plain_run.run / "trace.json").exists()
    require_equal(weights(training), weights(plain_run))


def test_a_trace_that_cannot_be_written_ends_no_training(make_training, tiny_config, said):
    training = make_training(replace(tiny_config, steps=8))
    (training.run / "trace.json" / "in the way").mkdir(parents=True)
    assert training.fit(profile=True)
    assert any("trace.json: cannot be written" in line for line in said)
