"""Tutorial, part 3: infers, and asks where the network finds the neutrino.

    python examples/3_analyse.py

This needs parts 1 and 2. It writes predictions.h5 (a larcv3 file), brings report.html
up to date and draws worst.png, the event in which the network did worst on the
neutrino. From the shell the same is `ctjax infer --config FILE`, then `ctjax show`.
"""

import argparse
import csv
import json
import pathlib

import numpy as np

from ctjax import main as ctjax_main
from ctjax.config import resolve
from ctjax.data.larcv.truth import read_neutrinos
from ctjax.views import picture
from ctjax.views.event import read_view


def main():
    """Runs this part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default="output/tutorial")
    options = parser.parse_args()
    run = options.folder / "run"

    # The configuration of the training, with three changes.
    written = (run / "train_config.json").read_text(encoding="utf-8")
    fields = json.loads(written)["config"]
    fields["mode"].update(name="inference", write_predictions=True)
    fields["data"]["file"] = "test.h5"
    fields["run"]["iterations"] = None  # the whole file
    averages = ctjax_main.run(resolve.resolve(fields))
    print(f"mean over the events of all metrics: mIoU {averages['Average/mIoU']:.3f}")

    # The table has a row per event; the truth has the energy of each neutrino.
    with open(run / "inference_metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    iou = np.array([float(row["Average/Neutrino_IoU"]) for row in rows])
    events = str(options.folder / "test.h5")
    energy = read_neutrinos([events])["energy_gev"]
    has_neutrino = ~np.isnan(energy)
    for low, high in ((0, 1), (1, 2), (2, 4)):
        chosen = has_neutrino & (energy >= low) & (energy < high)
        mean = f"{iou[chosen].mean():.3f}" if chosen.any() else "-"
        print(f"{low} to {high} GeV: {chosen.sum()} events, mean neutrino IoU {mean}")

    worst = int(np.argmin(np.where(has_neutrino, iou, np.inf)))
    view = read_view(events, str(run / "predictions.h5"), worst)
    picture.draw(view).savefig(options.folder / "worst.png")
    print(f"look at {options.folder}/worst.png and {run}/report.html")


if __name__ == "__main__":
    main()
