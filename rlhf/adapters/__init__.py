"""LoRA adapters (arXiv 2106.09685) with PEFT: models that share one frozen trunk, and folders in PEFT's format.

    options    the options of a stage that trains adapters
    folders    finds the model that an adapter was trained on
    lora       adds, saves, loads and merges adapters; copies of a model that share its frozen weights

`folders` and `options` don't import torch, because make reads them.
"""
