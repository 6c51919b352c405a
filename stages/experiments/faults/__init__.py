"""PPO with a known mistake each, for the experiment `details`. Each module patches one thing and runs the stage."""
