"""Experiments of a test, as YAML files: quick commands on the tiny model, and the folder with their data."""

import json
import shutil
from pathlib import Path

STEPS = """
title: "A change and what it is"
section: "3"
small:
  about: "tiny"
  model: {model}
  ks: "--k 1"
bring:
  ../pos: "make an adapter"
  ../neg: "make another"
steps:
  - {{does: "The difference", section: "3.1", run: wsteer diff ../pos ../neg -o w.safetensors}}
  - {{does: "A checkpoint", run: "wsteer steer {{model}} w.safetensors {{ks}} -o steered"}}
  - {{does: "Judged", run: "wsteer eval {{model}} --delta w.safetensors --task agreement --judge {{judge}} -o judged"}}
  - {{does: "A page of it", run: wsteer report judged -o page.html}}
  - {{does: "Cosines", section: "5", gate: true,
     run: wsteer monitor w.safetensors --of ../pos --of ../neg -o monitor --fail-above w=0.1}}
"""


def small_experiment(folder: Path, model: Path, adapters: tuple[Path, Path], text: str = STEPS) -> Path:
    """The experiment as a file in `folder`, with the adapters that it takes beside it."""
    for name, adapter in zip(("pos", "neg"), adapters, strict=True):
        shutil.copytree(adapter, folder / name)
    path = folder / "mine.yaml"
    path.write_text(text.format(model=json.dumps(str(model))))  # a text of JSON is one of YAML, whatever is in it
    return path
