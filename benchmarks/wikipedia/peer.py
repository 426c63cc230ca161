"""Run the usual steps after WikiExtractor: tokenize its articles one by one and write them with Megatron's builder.

    python -m benchmarks.wikipedia.peer EXTRACTED_FOLDER TOKENIZER_FOLDER OUTPUT_PREFIX

This is the loop of Megatron-LM's preprocess_data.py with one worker. Prints one JSON object: CPU seconds of its parts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    folder, tokenizer_folder, prefix = sys.argv[1:]
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    start_up = time.process_time()
    seconds = dict.fromkeys(("read", "tokenize", "build"), 0.0)
    documents = tokens = 0
    for path in sorted(Path(folder).rglob("wiki_*")):
        for line in path.open(encoding="utf-8"):
            began = time.process_time()
            text = json.loads(line)["text"]
            read = time.process_time()
            ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            tokenized = time.process_time()
            if ids:
                builder.add_item(torch.IntTensor(ids))
                builder.end_document()
                documents, tokens = documents + 1, tokens + len(ids)
            built = time.process_time()
            seconds["read"] += read - began
            seconds["tokenize"] += tokenized - read
            seconds["build"] += built - tokenized
    began = time.process_time()
    builder.finalize(f"{prefix}.idx")
    seconds["build"] += time.process_time() - began
    print(json.dumps({"start_up": start_up, **seconds, "documents": documents, "tokens": tokens}))


if __name__ == "__main__":
    main()
