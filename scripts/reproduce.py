"""Tables and figures, each by one command; the Makefile's reproduce-…, plan-…, tune-… and status call this.

python scripts/reproduce.py run table2 model=minilm dataset=mr,r8 seed=1,2 search.trials=2 trainer.max_epochs=3
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.reproduce import ALL, Task, confirm, status, this_device
from gloss.report.plan import failures, show
from gloss.runtime.terminal import run_with_exit_code


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
    if args.what in ("run", "tune"):
        if os.environ.get("YES") != "1" and (plan := task.plan(this_device(), os.cpu_count() or 1)) is not None:
            runs, searches, _ = plan.hours()
            confirm(args.name, searches + runs * (args.what == "run"))
        return task.run() if args.what == "run" else task.tune_all()
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


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
