"""Whether a package that transformers imports beside torch can be: `python -m worker.engines.beside_torch NAME`.

A wheel for another build of torch fails (`operator torchvision::nms does not exist`), and takes transformers with it.
"""

import importlib
import json
import sys

if __name__ == "__main__":
    import torch  # noqa: F401 - first, as transformers does

    importlib.import_module(sys.argv[1])
    print(json.dumps({"imported": sys.argv[1]}))
