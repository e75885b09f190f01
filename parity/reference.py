"""modelscope's own pipeline, one pair at a time: `python reference.py MODEL PAIRS OUT`, in the reference environment.

PAIRS is a folder with pairs.json (a list of {image, caption, premise}); OUT becomes a JSON object: `versions`, and
`answers`, one {label, score, logits, ids} a pair. Label and score are what the pipeline returns; the logits of yes, no
and maybe are seen with a hook on the decoder, where the pipeline reads them.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(PIP_NO_INDEX="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import stand_ins  # type: ignore[import-not-found]  # its neighbour: this file is run as a script
import torch
from PIL import Image

LABELS = ("yes", "no", "maybe")


def main(model: str, pairs: Path, out: Path) -> None:
    """Judge the pairs and write the answers."""
    torch.set_num_threads(int(os.environ.get("PARITY_THREADS", "1")))
    library = stand_ins.install()
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    judge = pipeline(Tasks.visual_entailment, model=model, device="cpu")
    seen: dict[str, Any] = {}
    tokenizer = judge.model.tokenizer
    label_ids = [tokenizer(f" {label}", add_special_tokens=False).input_ids[0] for label in LABELS]

    def look(_module: Any, arguments: Any, output: Any) -> None:
        # The prefix is the question and one label's token; the question's last token predicts the label.
        ids = arguments[0]
        seen["ids"] = ids[0, :-1].tolist()
        seen["logits"] = output[0][0, ids.shape[1] - 2, label_ids].float().tolist()

    judge.model.model.decoder.register_forward_hook(look)
    answers = []
    start = time.monotonic()
    for pair in json.loads((pairs / "pairs.json").read_text(encoding="utf-8")):
        question = {"image": Image.open(pairs / pair["image"]), "text": pair["caption"]}
        if pair["premise"] is not None:
            question["text2"] = pair["premise"]
        answer = judge(question)
        answers.append({"label": answer["labels"], "score": answer["scores"], **seen})
    took = time.monotonic() - start
    versions = {name: version(name) for name in ("modelscope", "torch", "torchvision", "transformers", "pillow")}
    out.write_text(json.dumps({"versions": versions, "took_s": took, "answers": answers}), encoding="utf-8")
    del library


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
