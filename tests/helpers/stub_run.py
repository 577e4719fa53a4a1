"""A generation run without a model, for test_evaluation_runs.py:

python stub_run.py FOLDER ITEMS SAMPLES BATCH PAUSE
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common.errors import run
from evaluation.generation_run import GenerationRun, Stop, make_tasks
from sampling.row_random import item_seed


def main():
    folder = sys.argv[1]
    items, samples, batch = map(int, sys.argv[2:5])
    pause = float(sys.argv[5])

    def generate_batch(tasks):
        time.sleep(pause)
        return [
            {
                "text": (
                    f"{item_seed(7, task['item'], task['sample'])} \u2014 text of some length " * 3
                ),
                "length": 9,
            }
            for task in tasks
        ]

    generation = GenerationRun(
        folder, {"seed": 7}, make_tasks([item % 5 for item in range(items)], samples), Stop()
    )
    generation.generate(batch, generate_batch, lambda row: row["item"] % 2 == 0)
    rows = generation.collect()
    if rows is not None:
        print(f"{len(rows)} rows")


if __name__ == "__main__":
    run(main)
