"""How fast the player is with a trace of 1,024 tokens and 512 steps; run `python tests/show/player/measure_player.py`.

Needs Chromium. Not a test: times belong to a machine. A step is a press of →, up to the end of the frame that shows it; a frame takes
16.7 ms at 60 Hz, so that is the least a step can take. `work` is the part in which the page's thread was busy.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import sync_playwright
from traces import long

from dllm_core import show

STEPS = """async () => {
  const player = document.querySelector('.dllm-player'), took = { step: [], work: [] };
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const press = (key) => player.dispatchEvent(new KeyboardEvent('keydown', { key }));
  press('Home');
  await frame();
  for (let step = 0; step < 512; step++) {
    const begun = performance.now();
    press('ArrowRight');
    document.body.offsetHeight; // lay it out now
    took.work.push(performance.now() - begun);
    await frame();
    took.step.push(performance.now() - begun);
  }
  return took;
}"""

with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
    path = show.save_html(Path(folder) / "long.html", long())
    print(
        f"{path.stat().st_size / 1e6:.2f} MB of HTML; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    engine = play.chromium.launch(executable_path=os.environ.get("DLLM_CHROMIUM") or shutil.which("chromium"),
                                  args=["--no-sandbox", "--disable-gpu"])  # fmt: skip
    page = engine.new_page(viewport={"width": 1280, "height": 900})
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector(".dllm-bar")
    print(f"opens in {time.perf_counter() - began:.2f} s")
    for name, values in page.evaluate(STEPS).items():
        values.sort()
        at = {share: values[int(share * len(values))] for share in (0.5, 0.95, 0.99)}
        print(
            f"{name}: median {at[0.5]:.1f} ms, 95 % {at[0.95]:.1f}, 99 % {at[0.99]:.1f}, mean {statistics.mean(values):.1f}"
        )
    engine.close()
