"""How much more memory a training takes with the default set than without, the first event included.

    python benchmarks/memory.py [--models resnet50 densenet121] [--threads 1]

One epoch of one step, 16 images of 224x224, random weights. Each fit is a process of its own. *Tensors* is the most
bytes that were alive in tensors at a time, weights and images among them; *resident* the largest memory of the process,
libraries among it.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import resource
import subprocess
import sys
import tempfile
import warnings
from itertools import accumulate

import pytorch_lightning as pl
import timm
import torch
from fit import Classifier
from table import Tables, add_options
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import default_suite

MODELS = ("resnet50", "densenet121", "vit_small_patch16_224", "convnext_tiny")
IMAGES = 16


def fit(name: str, side: int, *, pictures: bool, traced: bool) -> dict[str, int]:
    """Return the most bytes in tensors, if traced, and resident, of this process after a fit."""
    torch.manual_seed(0)
    model = Classifier(timm.create_model(name, num_classes=10))
    data = TensorDataset(torch.rand(IMAGES, 3, side, side), torch.arange(IMAGES) % 10)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            default_root_dir=folder,
            callbacks=default_suite(budget=None) if pictures else [],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loaders = DataLoader(data, batch_size=IMAGES), DataLoader(data, batch_size=8)
        if not traced:
            # What the profiler keeps would count.
            trainer.fit(model, *loaders)
            return {"resident": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        there = sum(one.nbytes for one in (*model.state_dict().values(), *data.tensors))
        gc.collect()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            trainer.fit(model, *loaders)
    found = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    return {"tensors": there + max(accumulate(one.nbytes() for one in sorted(found, key=lambda one: one.start_ns())))}


def in_a_process(name: str, side: int, threads: int, *, pictures: bool, traced: bool) -> dict[str, int]:
    """Return what `fit` does in a process of its own."""
    arguments = ["--models", name, "--threads", str(threads), "--one", str(side)]
    arguments += ["--pictures"] * pictures + ["--traced"] * traced
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, side: int, threads: int) -> tuple[str, ...]:
    """Return a model's cells: megabytes without and with pictures and their ratio, in tensors and resident."""
    cells = [name]
    for traced in (True, False):
        (without,), (with_pictures,) = (
            in_a_process(name, side, threads, pictures=pictures, traced=traced).values() for pictures in (False, True)
        )
        cells += [f"{without / 1e6:.0f}", f"{with_pictures / 1e6:.0f}", f"{with_pictures / without:.2f}"]
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    for name, meaning in (("--pictures", "with pictures"), ("--traced", "in tensors")):
        parser.add_argument(name, action="store_true", help=f"of the one fit: {meaning}")
    parser.add_argument("--one", type=int, metavar="SIDE", help="one fit in this process, of images of this side")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if options.one:
        print(json.dumps(fit(options.models[0], options.one, pictures=options.pictures, traced=options.traced)))
        return
    tables = Tables(options, "pytorch-lightning", "timm", threads=options.threads)
    models, side = (("test_resnet",), 32) if options.tiny else (options.models, 224)
    kinds = ("tensors", "resident")
    head = [f"{kind}, MB: {what}" for kind in kinds for what in ("without", "with", "ratio")]
    tables.put("memory", ("", *head), [row(name, side, options.threads) for name in models])


if __name__ == "__main__":
    main()
