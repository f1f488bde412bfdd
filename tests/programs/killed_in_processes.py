"""Execute a map on the kind of executor that is named, in a folder, until somebody kills this.

Arguments: the folder, the kind, and how many items there are.
"""

import functools
import sys
from pathlib import Path

import pooled

import durably


def main() -> None:
    folder, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

    @durably.job
    def job(step):
        return len(
            step.map(
                "m",
                functools.partial(pooled.notes, folder),
                range(count),
                executor=pooled.EXECUTORS[kind],
                max_workers=2,
                key=lambda n: n,
            )
        )

    app = durably.Durably(Path(folder) / "maps.db", synchronous="normal", max_deaths=100_000)
    print("begins", flush=True)
    try:
        print(app.run(job, key="one").output, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        app.close()


if __name__ == "__main__":
    main()
