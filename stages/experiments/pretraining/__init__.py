"""Pretraining with one change each, for the experiment `optimisers`. Each module patches one thing and runs the stage.

An optimizer that transformers names, such as sgd or rmsprop, needs no module: `--trainer '{"optim": "sgd"}'`.
"""
