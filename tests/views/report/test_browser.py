"""The report page in a real Chromium without a window: it loads, switches and zooms."""

import os
import re
import shutil

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.commands import simulate
from ctjax.views import event as views_event
from ctjax.views import legends
from ctjax.views.report import events, records
from ctjax.views.report import page as report_page
from tests.support import head_tables, processes
from tests.support import other_predictions as other

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed"
)

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
LAYERS = ("charge", "truth", "prediction", "errors")


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    with playwright.sync_playwright() as player:
        try:
            opened = player.chromium.launch(executable_path=path or None, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder of a run over simulated events, and its page."""
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "events.h5"
    simulate.main(
        ["--events", "20", "--output", str(file), "--seed", "1", "--shape", "64,64"]
    )
    fields = {"data__synthetic": False, "data__file": file, "data__downsample": 1}
    run = folder / "run"
    processes.run(run, data__aux_file=file, run__aux_iterations=2, **fields)
    inference = {"mode__name": "inference", "mode__write_predictions": True}
    processes.run(run, run__iterations=None, **inference, **fields)
    return run


def open_page(browser, report, **options):
    """A page of the report, and the list of what it complains about or asks for."""
    context = browser.new_context(**options)
    page, faults = context.new_page(), []

    def on_console(message):
        if message.type == "error":
            faults.append(message.text)

    def on_request(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            faults.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", on_request)
    context.set_offline(True)
    page.goto(f"file://{report}/report.html")
    page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    return page, faults


@pytest.fixture
def desktop(browser, report):
    page, faults = open_page(browser, report, viewport={"width": 1400, "height": 900})
    yield page
    page.context.close()
    assert faults == []


@pytest.fixture
def phone(browser, report):
    page, faults = open_page(
        browser,
        report,
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
    )
    yield page
    page.context.close()
    assert faults == []


def model(page, name, attribute):
    script = f"Bokeh.documents[0].get_model_by_name('{name}').{attribute}"
    return page.evaluate(script)


def visible_layers(page):
    return {
        layer
        for layer in LAYERS
        for plane in range(3)
        if model(page, f"{layer}{plane}", "visible")
    }


def span(page, name="ticks0"):
    return model(page, name, "start"), model(page, name, "end")


def changed_span(page, before):
    """The span when it has changed and then stayed for a while, on a busy machine."""
    last, same = before, 0
    for _ in range(100):
        page.wait_for_timeout(100)
        now = span(page)
        same = same + 1 if now == last and now != before else 0
        if same == 5:
            return now
        last = now
    raise AssertionError(f"still {before}")


def colours(page, plane=0):
    """Different colours in the picture of a plane, as they are on the screen."""
    import io

    from PIL import Image

    page.wait_for_timeout(300)
    shot = page.locator(".plane").nth(plane).screenshot()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    return {colour for _, colour in picture.getcolors(1 << 20)}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_it_loads_and_draws(desktop, report):
    record = records.read_record(str(report))
    assert desktop.title() == "ctjax: run"
    assert desktop.locator("#event option").count() == 9
    first = desktop.locator("#event option").first.text_content()
    best = int(np.argmax(record.inference["Average/mIoU"]))
    assert f"best: entry {int(record.inference['entry'][best])}" in first
    assert visible_layers(desktop) == {"charge"}
    assert len(colours(desktop)) > 20
    assert len(desktop.locator(".bk-Figure").all()) == 3 + 2 + 2 + 5 + 2


def test_the_browser_unpacks_what_was_predicted(desktop, report):
    record = records.read_record(str(report))
    picked = desktop.evaluate(
        "JSON.parse(document.getElementById('picked').textContent)"
    )
    kinds = set()
    for number, (place, _) in enumerate(events.pick(record, 3)):
        desktop.locator("#event").select_option(str(number))
        desktop.wait_for_selector(f"body[data-shown='{number}']")
        view = views_event.read_predicted_view(
            str(report / "predictions.h5"), place, 2, ""
        )
        for plane, pixels in enumerate(view.planes):
            kinds |= compare(desktop, plane, pixels, picked[number], COSMIC_TAGGER)
    # An untrained network makes every kind of error, or nearly.
    assert len(kinds) >= 4


def compare(page, plane, pixels, event, detector):
    """Compares a plane's columns in the browser with its pixels; kinds of error."""
    source = f"Bokeh.documents[0].get_model_by_name('pixels{plane}')"
    columns = {
        name: np.array(page.evaluate(f"[...{source}.get_column('{name}')]"))
        for name in ("x", "y", *LAYERS)
    }
    truth = legends.drawn(pixels.truth, detector)
    expected = {
        "x": 2 * pixels.columns + 1,
        "y": 2 * pixels.rows + 1,
        "charge": np.clip(pixels.charge, event["low"], event["high"]),
        "truth": truth,
        "prediction": pixels.prediction,
        "errors": legends.error_table(detector)[truth, pixels.prediction],
    }
    at, expected_at = (np.lexsort((c["y"], c["x"])) for c in (columns, expected))
    assert len(at) == len(expected_at)
    for name, values in expected.items():
        np.testing.assert_allclose(
            columns[name][at], values[expected_at], rtol=0.02, err_msg=name
        )
    return set(expected["errors"].tolist())


def test_the_switches_switch(desktop):
    cosmic, error = rgb("#0072B2"), rgb("#000000")
    assert cosmic not in colours(desktop)
    for layer in LAYERS:
        desktop.locator("#layers label", has_text=layer).click()
        assert visible_layers(desktop) == {layer}
        legend = desktop.locator(".legend[data-for]:visible")
        assert legend.count() == 1
        assert layer in legend.get_attribute("data-for")
        if layer == "truth":
            assert cosmic in colours(desktop)
    assert error in colours(desktop)
    before = len(model(desktop, "pixels0", "data.x"))
    desktop.locator("#noise").uncheck()
    assert 0 < len(model(desktop, "pixels0", "data.x")) < before
    desktop.locator("#which label", has_text="2").click()
    assert [place.is_visible() for place in desktop.locator(".plane").all()] == [
        *(False, False, True)
    ]


def test_the_zoom_zooms(desktop):
    whole = span(desktop)
    assert whole == (0, 64)
    desktop.locator("[data-zoom=in]").click()
    inside = span(desktop)
    assert inside[1] - inside[0] == pytest.approx(0.6 * 64)
    desktop.locator("[data-zoom=whole]").click()
    assert span(desktop) == whole
    event = desktop.evaluate(
        "JSON.parse(document.getElementById('picked').textContent)"
    )
    number = next(i for i, e in enumerate(event) if e["planes"][0]["box"])
    desktop.locator("#event").select_option(str(number))
    desktop.wait_for_selector(f"body[data-shown='{number}']")
    desktop.locator("[data-zoom=class]").click()
    assert list(span(desktop, "wires0")) == event[number]["planes"][0]["box"][2:]
    desktop.locator("[data-zoom=whole]").click()
    desktop.locator(".plane canvas").first.scroll_into_view_if_needed()
    box = desktop.locator(".plane").first.bounding_box()
    desktop.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    desktop.mouse.wheel(0, -300)
    wheeled = changed_span(desktop, whole)
    assert wheeled[1] - wheeled[0] < 60
    desktop.mouse.down()
    desktop.mouse.move(
        box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"] + 40, steps=5
    )
    desktop.mouse.up()
    dragged = changed_span(desktop, wheeled)
    assert dragged[0] > wheeled[0]
    assert dragged[1] - dragged[0] == pytest.approx(wheeled[1] - wheeled[0])


def test_the_keyboard(desktop):
    viewer = desktop.locator("#viewer")
    viewer.focus()
    for key, layer in zip(
        "2341", ("truth", "prediction", "errors", "charge"), strict=True
    ):
        viewer.press(key)
        assert visible_layers(desktop) == {layer}
    viewer.press("+")
    low, high = span(desktop)
    assert high - low == pytest.approx(0.6 * 64)
    viewer.press("ArrowUp")
    assert span(desktop)[0] == pytest.approx(low + 0.2 * (high - low))
    viewer.press("0")
    assert span(desktop) == (0, 64)
    viewer.press("]")
    desktop.wait_for_selector("body[data-shown='1']")
    viewer.press("[")
    desktop.wait_for_selector("body[data-shown='0']")
    # The layers are radio buttons: Tab reaches them, arrows choose.
    desktop.locator("#layers input[value=charge]").focus()
    desktop.keyboard.press("ArrowRight")
    assert visible_layers(desktop) == {"truth"}


def test_another_event_has_other_pixels(desktop, report):
    first = model(desktop, "pixels0", "data.x")
    desktop.locator("#next").click()
    desktop.wait_for_selector("body[data-shown='1']")
    second = model(desktop, "pixels0", "data.x")
    assert first != second
    event = desktop.evaluate(
        "JSON.parse(document.getElementById('picked').textContent)"
    )
    assert len(second) == event[1]["planes"][0]["count"]
    words = desktop.locator(".plane .metrics").first.text_content().replace("\xa0", " ")
    assert f"mIoU {event[1]['metrics']['plane0/mIoU']:.3f}" in words


def test_the_menu_of_metrics(desktop, report):
    record = records.read_record(str(report))
    name = "events_energy_0"
    desktop.locator("#metric").select_option("Cosmic_IoU")
    values = desktop.evaluate(
        f"[...Bokeh.documents[0].get_model_by_name('{name}').get_column('y')]"
    )
    known = ~np.isnan(record.neutrinos["energy_gev"])
    expected = record.inference["Average/Cosmic_IoU"][known]
    np.testing.assert_allclose(values, expected)
    assert not np.allclose(expected, record.inference["Average/Neutrino_IoU"][known])


def test_on_a_phone(phone):
    # Nothing is wider than the screen, and one plane leaves room to scroll.
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    shown = [place.is_visible() for place in phone.locator(".plane").all()]
    assert shown == [True, False, False]
    phone.locator("#layers label", has_text="errors").tap()
    assert visible_layers(phone) == {"errors"}
    phone.locator("#which label", has_text="1").tap()
    shown = [place.is_visible() for place in phone.locator(".plane").all()]
    assert shown == [False, True, False]
    phone.locator("[data-zoom=in]").tap()
    low, high = span(phone)
    assert high - low == pytest.approx(0.6 * 64)
    phone.wait_for_timeout(300)
    assert len(colours(phone, plane=1)) > 3


SHAPES = ((8, 16), (6, 9), (4, 12), (8, 9))


@pytest.fixture(scope="module")
def of_others(tmp_path_factory):
    """A folder with the page of predictions of four planes of different sizes."""
    folder = tmp_path_factory.mktemp("others")
    source = other.source_of(SHAPES)
    results = other.made_results(np.random.default_rng(0), 2, len(SHAPES))
    other.write(folder / "predictions.h5", results, [1, 1], source, other.ATTRIBUTES)
    other.write_run(folder, source)
    report_page.write([str(folder)], str(folder / "report.html"))
    return folder


def test_planes_and_classes_of_others(browser, of_others):
    opened, faults = open_page(
        browser, of_others, viewport={"width": 1400, "height": 900}
    )
    picked = opened.evaluate(
        "JSON.parse(document.getElementById('picked').textContent)"
    )
    view = views_event.read_predicted_view(str(of_others / "predictions.h5"), 0, 2, "")
    assert view.detector.has_ignored and view.detector.classes[1] == "muon"
    for plane, pixels in enumerate(view.planes):
        compare(opened, plane, pixels, picked[0], view.detector)
        # No padding is shown.
        rows, columns = SHAPES[plane]
        assert span(opened, f"ticks{plane}") == (0, 2 * rows)
        assert span(opened, f"wires{plane}") == (0, 2 * columns)
    opened.locator("[data-zoom=class]").click()
    box = picked[0]["planes"][2]["box"]
    assert [*span(opened, "ticks2"), *span(opened, "wires2")] == box
    assert opened.locator("[data-zoom=class]").text_content() == "pion"
    assert opened.locator("#which label").count() == 1 + len(SHAPES)
    words = opened.locator(".plane .metrics").last.text_content()
    assert words == "mIoU 0.500 · pion IoU 0.500 · muon IoU 0.500"
    opened.context.close()
    assert faults == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_and_every_count_is_readable_in_the_dark(browser, report, width):
    page, faults = open_page(
        browser,
        report,
        viewport={"width": width, "height": 844},
        color_scheme="dark",
    )
    cut = """() => [...document.querySelectorAll(".scroll")]
      .filter((box) => box.scrollWidth > box.clientWidth + 1)
      .map((box) => box.innerText)"""
    assert page.evaluate(cut) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cells = page.locator(".confusion td").all()
    styles = page.evaluate("""() => [...document.querySelectorAll(".confusion td")].map(
      (cell) => [cell, cell.querySelector("small")].map((part) =>
        [getComputedStyle(cell).backgroundColor, getComputedStyle(part).color]))""")
    assert len(styles) == len(cells) == 4 * 9
    for parts in styles:
        for back, front in parts:
            dark, light = sorted(map(luminance, (back, front)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5
    page.context.close()
    assert faults == []


@pytest.mark.parametrize("width", [1280, 390])
def test_vertices_are_marked_and_may_be_hidden(browser, tmp_path, width):
    folder = head_tables.write_run(tmp_path)
    report_page.write([str(folder)], str(folder / "report.html"))
    view = {"width": width, "height": 844}
    page, faults = open_page(browser, folder, viewport=view, color_scheme="dark")
    page.locator("#event").select_option("1")
    page.wait_for_selector("body[data-shown='1']")
    marks = ("true vertex 0", "predicted vertex 0")
    places = [[model(page, mark, f"data.{axis}") for axis in "xy"] for mark in marks]
    # Wire and tick: each pixel is two of each.
    assert places == [[[2], [2]], [[6], [4]]]
    words = page.locator(".plane .metrics").first.text_content()
    assert words.endswith("vertex 1.1 cm off, score 0.75")
    page.wait_for_timeout(300)
    marked = page.locator(".plane").first.screenshot()
    page.locator("#vertices").uncheck()
    page.wait_for_timeout(300)
    assert page.locator(".plane").first.screenshot() != marked
    assert [model(page, mark, "data.x") for mark in marks] == [[], []]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#heads .confusion td").count() == 16
    page.context.close()
    assert faults == []


def luminance(colour):
    """Relative luminance (WCAG 2) of a colour as the browser writes it."""
    values = [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]
    scale = 1 if colour.startswith("color(") else 255
    red, green, blue = (
        share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4
        for share in (value / scale for value in values)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
