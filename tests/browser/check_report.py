"""Opens reports in Chromium: what only a browser can tell, and screenshots to look at.

    pip install -r tests/browser/requirements.txt
    python -m tests.browser.check_report report.html --out=screenshots [--chromium=PATH]

No part of the suite: it needs a browser.
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SIZES = {"phone": (360, 740), "desktop": (1280, 900)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the screenshots")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for report in args.reports:
            for name, (width, height) in SIZES.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(
                        viewport={"width": width, "height": height}, color_scheme=scheme
                    )
                    found = check(page, report, args.out / f"{report.stem}-{name}-{scheme}")
                    problems += [f"{report.name}, {name}, {scheme}: {one}" for one in found]
                    page.close()
            without = browser.new_page(java_script_enabled=False)
            without.goto(report.resolve().as_uri())
            problems += [f"{report.name}, no scripts: {one}" for one in without_scripts(without)]
            without.close()
        browser.close()
    print("\n".join(problems) or f"no problems; look at {args.out}")
    sys.exit(bool(problems))


def check(page: Page, report: Path, shots: Path) -> list[str]:
    """Opens a report, uses it, and takes screenshots.

    Returns:
      What is wrong.
    """
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"not loaded: {request.url[:80]}"))
    page.on(
        "request",
        lambda request: (
            problems.append(f"asked for {request.url[:80]}")
            if not request.url.startswith(("data:", "file:"))
            else None
        ),
    )
    page.goto(report.resolve().as_uri())
    page.screenshot(path=f"{shots}-top.png")
    problems += overflow(page)
    problems += sorting(page)
    problems += slider(page, shots)
    problems += overflow(page)
    for section in page.locator("main > section").all():
        name = section.get_attribute("aria-labelledby")
        if section.locator("details").count() < 2:
            section.screenshot(path=f"{shots}-{name}.png")
    if shots.name.endswith("desktop-light"):
        page.pdf(path=f"{shots}.pdf", format="A4")
        closed = page.locator("details:not([open])").count()
        problems += [f"{closed} classes are closed in print"] * bool(closed)
    return problems


def overflow(page: Page) -> list[str]:
    """The page must not be wider than the window."""
    code = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, window = page.evaluate(code)
    return [f"the page is {wide} px wide in a window of {window}"] if wide > window else []


def sorting(page: Page) -> list[str]:
    """A click on a header sorts by it, another the other way."""
    table = page.locator("section[aria-labelledby=classes] table")
    column, problems = table.locator("thead tr > *").all_inner_texts().index("AP"), []
    for direction, sign in (("descending", -1), ("ascending", 1)):
        table.get_by_role("button", name="AP", exact=True).click()
        state = table.locator("thead tr > *").nth(column).get_attribute("aria-sort")
        cells = table.locator(f"tbody tr > *:nth-child({column + 1})")
        values = [float(x) for x in cells.evaluate_all("all => all.map(x => x.dataset.value)")]
        values = [x for x in values if x == x]
        if state != direction or values != sorted(values, key=lambda x: sign * x):
            problems.append(f"the table is not {direction}: {state}, {values}")
    return problems


def slider(page: Page, shots: Path) -> list[str]:
    """The link of a class opens it; its images are drawn; its slider changes the numbers."""
    problems = []
    page.locator("section[aria-labelledby=classes] tbody th a").first.click()
    opened = page.locator("details[open]")
    if opened.count() != 1:
        return [f"{opened.count()} classes are open after a click on one"]
    for image in opened.locator("svg.thumbnail").all()[:4]:
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        if not box or box["width"] < 20 or len(set(image.screenshot())) < 100:
            problems.append("an image is empty")
    output, control = opened.locator("output"), opened.locator("input[type=range]")
    before = output.inner_text()
    control.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    if output.inner_text() == before:
        problems.append("the slider changes nothing")
    opened.screenshot(path=f"{shots}-class.png")
    return problems


def without_scripts(page: Page) -> list[str]:
    """All is there but what would not work."""
    problems = []
    if page.locator("main button:visible, main input:visible").count():
        problems.append("a control is shown that does nothing")
    page.locator("summary").first.click()
    if not page.locator("details[open] output:visible").count():
        problems.append("a class does not open")
    return problems


if __name__ == "__main__":
    main()
