"""What others published of GPT-2's four sizes on the built-in tasks: each figure with its protocol and source."""

from dataclasses import dataclass

from gpt.evaluation.tasks.core import Core
from gpt.evaluation.tasks.rows import KINDS
from gpt.evaluation.tasks.task import Task

SIZES = ("124M", "355M", "774M", "1.5B")
HARNESS = {name: kind.protocol for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Published:
    """A metric of GPT-2 on a task, as one source has it."""

    task: str
    metric: str
    protocol: str
    """That of a `Kind`, if its prompts and its scores are the same."""
    figures: tuple[float | None, ...]
    """One for each of SIZES; None where the source has none. Accuracies are shares."""
    source: str
    shots: int = 0


CORE_FIGURES = {  # accuracies; of the mean, CORE itself
    "CORE": (0.1139, 0.1849, 0.2146, 0.2565),
    "hellaswag_zeroshot": (0.309, 0.390, 0.440, 0.502),
    "arc_easy": (0.412, 0.480, 0.535, 0.595),
    "arc_challenge": (0.222, 0.262, 0.264, 0.299),
    "piqa": (0.623, 0.670, 0.698, 0.725),
    "lambada_openai": (0.323, 0.426, 0.488, 0.523),
    "hellaswag": (0.308, 0.395, 0.444, 0.512),
}
CORE_SIZES = {  # rows and examples of those tasks
    "hellaswag_zeroshot": (10_042, 0),
    "arc_easy": (2_376, 10),
    "arc_challenge": (1_172, 10),
    "piqa": (1_838, 10),
    "lambada_openai": (5_153, 0),
    "hellaswag": (10_042, 10),
}
CORE_TASKS = {
    *CORE_SIZES,
    *("jeopardy", "bigbench_qa_wikidata", "copa", "commonsense_qa", "openbook_qa", "winograd", "winogrande"),
    *("bigbench_dyck_languages", "agi_eval_lsat_ar", "bigbench_cs_algorithms", "bigbench_operators"),
    *("bigbench_repeat_copy_logic", "squad", "coqa", "boolq", "bigbench_language_identification"),
}

LLM_C = "karpathy/llm.c, dev/data/hellaswag.py"
NEO = "EleutherAI/gpt-neo, README"
CORE = "CORE: examples first, mean loss per token"
NANOCHAT = "karpathy/nanochat, dev/estimate_gpt3_core.ipynb"
PAPER = "Radford et al. 2019, table 3"
LAST_TOKEN = "last token, without stop words"

PUBLISHED = (
    Published("hellaswag", "acc", HARNESS["hellaswag"], (0.2892, None, None, 0.4004), LLM_C),
    Published("hellaswag", "acc_norm", HARNESS["hellaswag"], (0.3114, None, None, 0.5089), LLM_C),
    Published("hellaswag", "acc", "llm.c: no activity label", (0.2859, None, None, 0.3842), LLM_C),
    Published("hellaswag", "acc_norm", "llm.c: the same, by tokens", (0.2955, None, None, 0.4893), LLM_C),
    Published("hellaswag", "acc", "CORE: mean loss per token", CORE_FIGURES["hellaswag_zeroshot"], NANOCHAT),
    Published("hellaswag", "acc", CORE, CORE_FIGURES["hellaswag"], NANOCHAT, shots=10),
    Published("lambada", "acc", HARNESS["lambada"], (0.3256, None, None, None), "lm-evaluation-harness #2159"),
    Published("lambada", "acc", HARNESS["lambada"], (None, None, None, 0.5121), NEO),
    Published("lambada", "perplexity", HARNESS["lambada"], (40.055, None, None, None), "lm-evaluation-harness #2159"),
    Published("lambada", "perplexity", HARNESS["lambada"], (None, None, None, 10.634), NEO),
    Published("lambada", "acc", "CORE: greedy", CORE_FIGURES["lambada_openai"], NANOCHAT),
    Published("lambada", "acc", LAST_TOKEN, (0.4599, 0.5548, 0.6012, 0.6324), PAPER),
    Published("lambada", "perplexity", LAST_TOKEN, (35.13, 15.60, 10.87, 8.63), PAPER),
    Published("arc-easy", "acc", CORE, CORE_FIGURES["arc_easy"], NANOCHAT, shots=10),
    Published("piqa", "acc", HARNESS["piqa"], (None, None, None, 0.7078), NEO),
    Published("piqa", "acc", CORE, CORE_FIGURES["piqa"], NANOCHAT, shots=10),
    Published(
        "blimp",
        "acc",
        "the authors' scoring",
        (None, None, 0.8302, None),
        "alexwarstadt/blimp, raw_results/summary",
    ),
)


def published(task: Task) -> list[Published]:
    """List what is published on a task, of every protocol."""
    return [each for each in PUBLISHED if each.task == task.kind.name]


def is_comparable(each: Published, task: Task) -> bool:
    """Tell whether a published figure is by the protocol of a task, and on all of its rows."""
    return each.protocol == task.kind.protocol and each.shots == task.shots and task.is_complete


def core_comparable(core: Core) -> dict[str, bool]:
    """Tell of each of CORE_FIGURES whether a bundle has what it is of: all rows of the task, or all tasks."""
    sizes = {task.label: (len(task.items), task.shots) for task in core.tasks}
    found = {label: sizes.get(label) == size for label, size in CORE_SIZES.items()}
    return {"CORE": sizes.keys() == CORE_TASKS and all(found.values())} | found
