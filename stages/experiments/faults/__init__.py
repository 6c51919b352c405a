"""PPO with a known mistake each, for `details` and `normalisation`. Each module patches one thing and runs the stage."""
