"""Build the wheel and try it as a user would: in an environment and a directory that have nothing else."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHAPE = ["--model.n-layer", "1", "--model.n-embd", "32", "--model.n-head", "2", "--model.context-length", "32"]
COMMANDS = [
    ["tokenizer", "compare", "--input", "text.md", "--tokenizer", "bytes", "bpe:512"],
    ["prepare", "files", "--input", "text.md", "--name", "mine", "--tokenizer", "bytes"],
    ["train", "gpt2", "--data", "data/mine", "--device", "cpu", "--steps", "6", "--batch-tokens", "256", *SHAPE],
    ["sample", "--prompt", "The", "--max-tokens", "20", "--seed", "1"],
    ["eval", "--json"],
    ["score", "--text", "The model"],
    ["train", "finetune", "--init-from", "runs/mine-gpt2", "--data", "data/mine", "--device", "cpu", "--epochs", "1"],
    ["memorized", "--samples", "4"],
    ["forgot"],
    ["compare", "mine-gpt2", "mine-finetune"],
    ["plot", "mine-gpt2", "mine-finetune", "--metric", "val_loss"],
    ["export", "--run", "mine-gpt2", "--to", "exported"],
    ["runs"],
    ["cost", "gpt2"],
]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", home / "dist", ROOT], check=True)
        [wheel] = (home / "dist").glob("*.whl")
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        python = home / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        (home / "empty").mkdir()
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        (home / "empty" / "text.md").write_text(text, encoding="utf-8")
        for command in COMMANDS:
            print("$ gpt", *command, flush=True)
            subprocess.run([home / "venv" / "bin" / "gpt", *command], cwd=home / "empty", check=True, stdin=sys.stdin)


if __name__ == "__main__":
    main()
