"""Uses the app in Chromium as a person does, and takes screenshots to look at.

    pip install -r tests/browser/requirements.txt "gradio>=6,<7"
    python -m tests.browser.app IMAGE --workdir=RUN --out=screenshots [--chromium=PATH]

No part of the suite: it needs gradio and a browser.
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from oass_jax import app
from oass_jax.evaluation import predictor

LOCAL = ("127.0.0.1", "localhost")
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--workdir", type=Path, required=True, help="of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the screenshots")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    sys.addaudithook(lambda event, details: problems.extend(_left_the_machine(event, details)))
    app.require_gradio()
    model = predictor.load(args.workdir)
    expected = model(str(args.image)).probability
    with app.serve(model, None) as (_, address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                watch(page, address, problems)
                page.goto(address)
                shots = args.out / f"app-{name}-{scheme}"
                problems += [f"{shots.name}: {one}" for one in use(page, args, expected, shots)]
                page.close()
        browser.close()
    print("\n".join(dict.fromkeys(problems)) or f"no problems; look at {args.out}")
    sys.exit(bool(problems))


def watch(page: Page, address: str, problems: list[str]) -> None:
    """Adds what goes wrong in the page to `problems`, and what it asks other machines for."""

    def check_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            problems.append(f"the page asked for {url[:80]}")

    def check_message(kind: str, text: str) -> None:
        if kind == "error":
            problems.append(f"console: {text}")

    page.on("request", lambda request: check_request(request.url))
    page.on("console", lambda message: check_message(message.type, message.text))
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))


def use(page: Page, args: argparse.Namespace, expected: dict[str, float], shots: Path) -> list[str]:
    """Predicts an image and uses every control.

    Returns:
      What is wrong.
    """
    problems = []
    ranked = sorted(expected, key=expected.get, reverse=True)
    page.locator("input[type=file]").set_input_files(args.image)
    bars = page.locator(".bar")
    expect(bars).to_have_count(len(ranked), timeout=60_000)
    drawn = page.locator("#drawing img")
    expect(drawn).to_be_visible()
    page.screenshot(path=f"{shots}.png", full_page=True)
    if (names := bars.locator(".name").all_inner_texts()) != ranked:
        problems.append(f"the bars are {names}, not {ranked}")
    numbers = [float(text) for text in bars.locator(".number").all_inner_texts()]
    if any(abs(x - expected[name]) > 0.006 for x, name in zip(numbers, ranked, strict=True)):
        problems.append(f"the probabilities are {numbers}, not {expected}")

    with page.expect_request(lambda request: "join" in request.url):
        slider = page.get_by_role("slider")
        slider.focus()
        for _ in range(5):
            slider.press("ArrowRight")
    limit = float(slider.input_value())
    above = [name for name in ranked if expected[name] >= limit]
    expect(page.locator(".bar.label")).to_have_count(len(above))
    expect(page.get_by_label("Thresholds of the run")).not_to_be_checked()

    before = drawn.get_attribute("src")
    page.get_by_role("combobox", name="Class map").click()
    page.get_by_role("option", name=ranked[1], exact=True).click()
    expect(drawn).not_to_have_attribute("src", before)
    page.get_by_label("Keypoint and cut").uncheck()
    expect(page.locator("#note")).not_to_contain_text("cut")
    page.screenshot(path=f"{shots}-changed.png", full_page=True)
    # A file that is no image is reported, and the one before is gone.
    invalid = shots.with_name("invalid.png")
    invalid.write_text("no image")
    page.get_by_label("Remove Image").first.click()
    page.locator("input[type=file]").set_input_files(invalid)
    expect(page.get_by_text("invalid.png cannot be decoded")).to_be_visible()
    expect(bars).to_have_count(0)
    expect(drawn).to_have_count(0)
    page.get_by_label("Remove Image").first.click()
    code = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, window = page.evaluate(code)
    if wide > window:
        problems.append(f"the page is {wide} px wide in a window of {window}")
    return problems


def _left_the_machine(event: str, details: tuple) -> list[str]:
    """What the audit event of a connection says of one to another machine."""
    if event == "socket.connect" and isinstance(details[1], tuple):
        host = details[1][0]
    elif event == "socket.getaddrinfo":
        host = details[0]
    else:
        return []
    return [] if host in (*LOCAL, None) else [f"the program asked for {host}"]


if __name__ == "__main__":
    main()
