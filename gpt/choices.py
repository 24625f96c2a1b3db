"""The words that settings choose from, and the target that does not count."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]
MatmulPrecision = Literal["highest", "medium"]
Parallel = Literal["ddp", "fsdp", "hsdp"]
Recompute = Literal["none", "activations", "blocks"]
Exact = Literal["auto", "on", "off"]
Overflow = Literal["error", "slide", "keep-prefix"]
WeightDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
BadBytes = Literal["replace", "skip", "error"]
Markup = Literal["drop", "keep"]
UnicodeForm = Literal["none", "nfc", "nfkc"]
EncoderName = Literal["auto", "tiktoken", "gigatoken"]
Overlap = Literal["move", "drop", "report"]
Faulty = Literal["error", "skip"]
IGNORE_INDEX = -100  # a target that does not count, as cross_entropy has it
