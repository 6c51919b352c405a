"""Support for the loop of `rlhf.trainer`: checks, metrics, and the state that a checkpoint holds.

sanity      equalities that must hold before the first step
health      stops a run that diverges
metrics     weighted means over tokens, responses and processes
state       models, optimizer and counters of a run; saving and restoring them
isolation   calls of users' functions that can't disturb the run
randomness  seeds and permutations from seed and step; state of the global generators
checkpoint  checkpoints that detect damage
files       atomic writes: a file is complete or absent
"""
