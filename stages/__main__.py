"""`make` runs this: `python -m stages ppo` makes PPO and every stage before it that is missing or out of date."""

from stages.common.pipeline import main

if __name__ == "__main__":
    main()
