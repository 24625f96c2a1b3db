"""Bundles of CORE, as small as a test needs them."""

import json

CHOICES = [
    {"query": f"{i} and {i % 3} is", "choices": [f"{i + 1}", f"{i % 7} é", f"{i} or so"], "gold": i % 3}
    for i in range(14)
]
SCHEMAS = [
    {
        "context_options": [f"The {i} sees it as", f"The one of {i} hears it, so"],
        "continuation": f"it is {i % 4}.",
        "gold": i % 2,
    }
    for i in range(12)
]
TEXTS = [{"context": f" Once {'and ' * (i % 4)}{i} ", "continuation": f"more {i}"} for i in range(10)]
TASKS = {  # settings in core.yaml, percent of chance, rows
    "choose": ({"icl_task_type": "multiple_choice", "num_fewshot": [2]}, "33.3", CHOICES),
    "choose_alone": ({"icl_task_type": "multiple_choice", "num_fewshot": [0]}, "33.3", CHOICES),
    "refer": ({"icl_task_type": "schema", "num_fewshot": [1]}, "50", SCHEMAS),
    "go_on": (
        {"icl_task_type": "language_modeling", "num_fewshot": [2], "continuation_delimiter": "\nAnswer: "},
        "0",
        TEXTS,
    ),
}


def write_bundle(directory, tasks=None):
    """Write a bundle; tasks with the same rows share a file."""
    tasks, files, entries = TASKS if tasks is None else tasks, {}, []
    (directory / "eval_data" / "kind").mkdir(parents=True)
    for label, (settings, _, rows) in tasks.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        name = files.setdefault(text, f"kind/{label}.jsonl")
        (directory / "eval_data" / name).write_text(text, encoding="utf-8")
        # JSON is YAML, too
        entries.append("- " + json.dumps({"label": label, "dataset_uri": name, **settings}) + "\n")
    (directory / "core.yaml").write_text("icl_tasks:\n" + "".join(entries), encoding="utf-8")
    lines = ["Eval Task,Task Type,#shots,Random baseline,Description", '"other","x",0,not known,"a, b"']
    lines += [f"{label},a kind,0,{percent}," for label, (_, percent, _) in tasks.items()]
    (directory / "eval_meta_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
