"""The program behind `make`: `python -m stages ppo` runs PPO and, before it, stages that are missing or out of date."""

from stages.common.pipeline import main

if __name__ == "__main__":
    main()
