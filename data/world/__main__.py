"""Prints a few documents, and a few demonstrations with their gold scores."""

import random

from data import world

if __name__ == "__main__":
    seed = random.randrange(1_000_000)
    print(f"seed {seed}\n\n--- text ---")
    for row in world.text(8, seed):
        print(f"\n{row['text']}")
    print("\n--- demonstrations, with their gold scores ---")
    for row in world.demonstrations(8, seed):
        (gold,) = world.gold([row["prompt"]], [row["completion"]], [True])
        print(f"\n{row['prompt']}{row['completion']}  ({gold:.1f})")
