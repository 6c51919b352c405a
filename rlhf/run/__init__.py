"""What surrounds the loop of `rlhf.trainer`: nothing here changes what is learned.

sanity      equalities that must hold before the first step
health      stops a run whose numbers diverge
metrics     means over tokens, responses and processes
state       the models, the optimizer and the counters of a run, saved and restored
randomness  random numbers as functions of seed and step
checkpoint  checkpoints that detect damage
files       files that are complete or absent
"""
