"""How far one training comes apart on two types of processor, read from the published ledger; it trains nothing.

`python -m benchmarks.processors`: the claim `schedule_and_clipping` has runs without a scheduler from one type and runs
with one from another. Where the scheduler never lowered the rate both are the same training (on one machine their bytes
are equal: “clipping” and “both” on that claim's page), so that what differs is the processor.
"""

from __future__ import annotations

from fer_core import claims, report, schema
from fer_core.artifacts import Run, digest
from fer_core.schema import ROOT, Params

LEDGER = ROOT / "reports" / "published" / "fer2013" / "runs"
CLAIM = "05_analysis/schedule_and_clipping"


def runs() -> dict[str, list[Run]]:
    """The claim's runs on the ledger, by arm."""
    shelf = {}
    for folder in LEDGER.iterdir():
        run = Run("", Params(), folder)
        shelf[digest(run.provenance["parameters"])] = run
    arms = schema.claim_runs(schema.resolve_page(schema.load_page(CLAIM), False), False)
    return {arm: [shelf[digest(schema.run_values(params))] for params in wanted] for arm, wanted in arms.items()}


def main() -> None:
    found = runs()
    for seed, (one, other) in enumerate(zip(found["neither"], found["scheduler"], strict=True)):
        processors = [run.provenance["processor"] for run in (one, other)]
        if other.history["learning_rate"].nunique() == 1 and processors[0] != processors[1]:
            first, second = (run.metrics["validation"]["accuracy"] for run in (one, other))
            late = [claims.metric_of(run, "late_loss_variability") for run in (one, other)]
            print(f"seed {seed}, {' and '.join(processors)}: {first:.1%} and {second:.1%} of the validation images,")
            print(f"  late variability of the validation loss {late[0]:.3f} and {late[1]:.3f} nats")
    allowed = report.tolerance(found["neither"][0], found["neither"])["validation"]
    print(f"04_complex_cnn/default calls accuracies the same within {allowed * 100:.1f} points (validation)")


if __name__ == "__main__":
    main()
