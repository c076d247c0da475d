"""Tables and figures, each by one command; the Makefile's reproduce-…, plan-…, tune-… and status call this.

python scripts/reproduce.py run table2 model=minilm dataset=mr,r8 seed=1,2 search.trials=2 trainer.max_epochs=3
"""

import argparse
import os
import sys

from gloss.plan import failures, show
from gloss.reproduce import ALL, Task, status
from gloss.terminal import status_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "plan", "tune", "status"))
    parser.add_argument("name", nargs="?", default=ALL, help="table2, fig5, few_shot, …, or all (default)")
    parser.add_argument("overrides", nargs="*", help="as for scripts/train.py")
    parser.add_argument("--device", help="of the plan: a100, h100, h200, cpu (default: this machine's)")
    args = parser.parse_args()
    if "=" in args.name:
        args.name, args.overrides = ALL, [args.name, *args.overrides]
    task = Task(args.name, args.overrides)
    if args.what == "run":
        return task.run()
    if args.what == "tune":
        return task.tune_all()
    device = args.device or this_device()
    if args.what == "status":
        if not status(task.outputs, device, os.cpu_count() or 1):
            print(f"nothing was asked for yet: there is no {task.outputs}/selections.yaml")
        return 0
    plan = task.plan(device, os.cpu_count() or 1)
    if plan is None:
        print(f"{args.name} needs no runs")
        return 0
    print(show(plan))
    for failure in failures(plan.lines):
        print(f"failed: {failure}")
    return 0


def this_device() -> str:
    from gloss.device import choose_device, device_name  # here: slow to import

    device = choose_device("auto")
    return "cpu" if device.type == "cpu" else device_name(device)


if __name__ == "__main__":
    sys.exit(status_of(main))
