"""Pages, tables and distributions say what the JSON of the same run says, and need nothing from elsewhere."""

import csv
import html.parser
import re
import struct
import subprocess
import zlib

import pytest

from bench import FAILED, PASSED, Redis, Running, bench, counted, percentiles, was_late

BROWSER = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    # Whatever a page would ask of the network fails.
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Result:
    """A call that has ended, with its files."""

    def __init__(self, folder, *arguments, may=(PASSED,)):
        files = ["--html", folder / "report.html", "--csv", folder / "run.csv", "--hgrm", folder / "run.hgrm"]
        self.folder = folder
        self.done = bench(*arguments, *files, "--json")
        assert (self.done.code in may or was_late(self.done)) and self.done.err == "", self.done
        self.report = self.done.report
        self.page = (folder / "report.html").read_text()

    def rows(self):
        return list(csv.DictReader((self.folder / "run.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def run(server, tmp_path_factory):
    server.empty()
    load = ["--keys", 1000, "--rate", 4000, "--duration", "1s", "--warmup", "500ms", "--connections", 8]
    mix = ["--mix", "get=8,set=2,delete=1,mget=1"]
    return Result(tmp_path_factory.mktemp("run"), *server.target, *load, *mix, "--slo", "p50=1s,p99=2s")


@pytest.fixture(scope="module")
def search(server, tmp_path_factory):
    server.empty()
    # One connection takes one request after the other: that is soon too much for it.
    steps = ["--slo", "p50=5ms", "--step", "200ms", "--warmup", "0s", "--duration", "300ms", "--keys", 100]
    return Result(tmp_path_factory.mktemp("search"), *server.target, *steps, "--connections", 1, may=(PASSED, FAILED))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    peers = []
    for name in ("one", "<b>two</b>"):
        peers += ["--against", f"{name}=redis-server --port {{port}} --save '' --dir {folder}"]
    load = ["--keys", 500, "--closed", "--duration", "300ms", "--warmup", "100ms", "--rounds", 2]
    return Result(folder, *peers, *load)


def browse(folder, *options):
    """What the browser makes of the page."""
    page = folder / "report.html"
    profile = folder / f"profile-{options[0].strip('-').split('=')[0]}"
    call = [*BROWSER, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(call, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


class Document(html.parser.HTMLParser):
    """Text, and elements with their attributes."""

    VOID = {"meta", "link", "br", "hr", "img", "input", "path", "line", "circle", "rect"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        # A title within a drawing is shown when it is pointed at, and read out.
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=["run", "search", "comparison"])
def shown(request):
    """A result, and the document that a browser makes of its page."""
    result = request.getfixturevalue(request.param)
    return result, Document(browse(result.folder, "--dump-dom"))


def grouped(number):
    return f"{number:,}"


def per_second(rate):
    return f"{rate:.3g}" if rate < 99.95 else grouped(round(rate))


def test_the_page_has_the_figures_of_the_json(shown):
    result, document = shown
    report, text = result.report, document.text
    if report["outcome"] == "run":
        counts = report["run"]["counts"]
        assert f"{grouped(counts['answered'])} answered of {grouped(counts['sent'])} sent" in text, text
        assert f"{per_second(report['run']['reached_per_s'])} " in text
        for kind, latencies in report["run"]["by_kind_us"].items():
            assert f"{kind} {grouped(latencies['count'])}" in text, kind
        for fault in report["verdict"]["faults"]:
            assert fault["text"] in text
    elif report["outcome"] == "search":
        for step in report["search"]["steps"]:
            assert f"{per_second(step['offered_per_s'])} requests/s: p50" in text, step["offered_per_s"]
    else:
        for contender in report["comparison"]["contenders"]:
            assert contender["name"] in text and contender["command"] in text
            assert per_second(contender["figures"]["requests_per_s"]["median"]) in text, contender["figures"]
    for name, value in {**report["setup"], **report["host"]}.items():
        assert name in text and re.sub(r"\s+", " ", value) in text, name
    assert report["command"] in text
    headline = report["verdict"]["text"].replace("<=", "≤")
    assert headline.lower() in text.lower()


def test_the_page_has_plots_that_can_be_read_out(shown):
    result, document = shown
    labels = [svg["aria-label"] for svg in document.all("svg") if svg.get("role") == "img"]
    assert len(labels) >= 3 and all(len(label) > 20 for label in labels), labels
    # Whatever is drawn is either told or declared to be decoration.
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in document.all("svg"))
    words = {
        "run": ["Requests answered per second over time", "99.9th percentile of latency over time"],
        "search": ["Latency by requests/s offered, against p50 <= 5 ms"],
        "comparison": ["one: ", "<b>two</b>: "],
    }
    for word in words[result.report["outcome"]]:
        assert any(word in label for label in labels), (word, labels)
    drawn = [path.get("d", "") for path in document.all("path")]
    assert len([line for line in drawn if line.count("L") + line.count(" ") > 5]) >= 2, "there are lines in the plots"


def test_the_page_needs_nothing_from_elsewhere(shown):
    """No script, no address, no reference beyond the page itself; and it says so to the browser."""
    result, document = shown
    policy, = [meta["content"] for meta in document.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'"), policy
    for tag in ("script", "link", "img", "iframe", "object", "embed", "use", "image", "foreignobject", "base", "a"):
        assert document.all(tag) == [], tag
    for tag, attributes in document.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "href", "xlink:href", "srcset"), (tag, name)
            assert "://" not in (value or "") or name.startswith("xmlns") or tag == "meta", (tag, name, value)
    assert not re.search(r"@import|url\((?!#)|://", re.search(r"<style>(.*?)</style>", result.page, re.DOTALL)[1])


def test_the_page_is_whole(shown):
    """The browser made of it what was written: no element was closed or opened for us."""
    result, document = shown
    written = Document(result.page)
    assert written.open == [] or set(written.open) <= Document.VOID, written.open
    for tag in ("svg", "table", "tr", "td", "th", "figure", "section", "dl", "dd", "text", "title"):
        assert len(written.all(tag)) == len(document.all(tag)) > 0 or tag in ("figure",), tag
    assert "<b>two</b>" not in result.page, "names are text, not markup"


def pixels(data):
    """Width, height and the pixels of each row of a PNG as a browser writes it: 8 bits, RGB or RGBA, not interlaced."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, head = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        head = struct.unpack(">IIBBBBB", body) if kind == b"IHDR" else head
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colour, _, _, interlaced = head
    assert (depth, interlaced) == (8, 0) and colour in (2, 6), head
    step = 3 if colour == 2 else 4
    raw, before, rows = zlib.decompress(packed), bytes(width * step), []
    for row in range(height):
        begin = row * (width * step + 1)
        line = bytearray(raw[begin + 1 : begin + 1 + width * step])
        undo(raw[begin], line, before, step)
        rows.append([bytes(line[i : i + 3]) for i in range(0, width * step, step)])
        before = bytes(line)
    return width, height, rows


def undo(kind, line, above, step):
    """Takes the filter of a row off, in place."""
    for i in range(len(line)):
        left, up, corner = (line[i - step] if i >= step else 0), above[i], (above[i - step] if i >= step else 0)
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            guess = min((left, up, corner), key=lambda c: abs(left + up - corner - c))
        else:
            assert kind == 0
            return
        line[i] = line[i] + guess & 255


@pytest.mark.parametrize("name", ["run", "search", "comparison"])
def test_the_page_can_be_seen(request, name):
    result = request.getfixturevalue(name)
    picture = result.folder / "page.png"
    browse(result.folder, f"--screenshot={picture}", "--window-size=600,900")
    width, height, rows = pixels(picture.read_bytes())
    assert (width, height) == (600, 900)
    colours = {}
    for row in rows:
        for pixel in row:
            colours[pixel] = colours.get(pixel, 0) + 1
    # A background, and on it letters and lines of many shades, from the top to the bottom.
    background = max(colours, key=colours.get)
    assert len(colours) > 50 and 0.3 < colours[background] / (width * height) < 0.98, len(colours)
    drawn = [any(pixel != background for pixel in row) for row in rows]
    assert sum(drawn[:300]) > 50 and sum(drawn[300:600]) > 50 and sum(drawn[600:]) > 50


COUNTS = ["sent", "answered", "errors", "lost", "unsent", "violations", "hits", "misses", "hits_expected", "leftovers"]
COUNTS += ["redirected", "sent_bytes", "received_bytes"]


def assert_adds_up(rows, run):
    """The rows are the intervals, and those that were measured are all that was."""
    assert len(rows) == len(run["intervals"])
    for row, interval in zip(rows, run["intervals"]):
        assert float(row["at_s"]) == interval["at_s"] and row["measured"] == str(interval["measured"]).lower()
        assert int(row["answered"]) == interval["counts"]["answered"]
        if interval["latency_us"]:
            assert float(row["p99_us"]) == interval["latency_us"]["p99"]
            assert float(row["max_us"]) == interval["latency_us"]["max"]
    measured = [row for row in rows if row["measured"] == "true"]
    for name in COUNTS:
        assert sum(int(row[name]) for row in measured) == run["counts"][name], name
    assert sum(float(row["time_s"]) for row in measured) == pytest.approx(run["measured_s"], abs=0.001 * len(measured))
    longest = max(float(row["max_us"]) for row in measured if row["max_us"])
    assert longest == run["latency_us"]["max"]


def test_the_rows_of_the_time_series_add_up_to_the_run(run):
    rows = run.rows()
    assert [row["measured"] for row in rows] == ["false"] * 2 + ["true"] * 4
    assert_adds_up(rows, run.report["run"])


def test_the_rows_of_each_step_add_up_to_it(search):
    rows = search.rows()
    for number, step in enumerate(search.report["search"]["steps"], 1):
        assert_adds_up([row for row in rows if row["step"] == str(number)], step["run"])


def test_the_rows_of_each_round_add_up_to_it(comparison):
    rows = comparison.rows()
    for contender in comparison.report["comparison"]["contenders"]:
        for number, one in enumerate(contender["rounds"], 1):
            own = [row for row in rows if (row["contender"], row["round"]) == (contender["name"], str(number))]
            assert_adds_up(own, one)


def assert_distribution(text, run):
    rows = percentiles(text)
    latency = run["latency_us"]
    for before, after in zip(rows, rows[1:]):
        assert before[0] <= after[0] and before[1] <= after[1] and before[2] <= after[2], (before, after)
    assert rows[-1][1:] == (1.0, latency["count"])
    # Three digits are told apart.
    assert rows[-1][0] * 1000 == pytest.approx(latency["max"], rel=0.002)
    median = next(value for value, part, _ in rows if part >= 0.5)
    assert median * 1000 == pytest.approx(latency["p50"], rel=0.002)
    total, = re.findall(r"Total count += +(\d+)\]", text)
    mean, = re.findall(r"#\[Mean += +([0-9.]+),", text)
    longest, = re.findall(r"#\[Max += +([0-9.]+),", text)
    assert int(total) == latency["count"] and float(mean) * 1000 == pytest.approx(latency["mean"], rel=0.001)
    assert float(longest) * 1000 == pytest.approx(latency["max"], rel=0.001)


def test_the_distribution_is_that_of_the_run(run):
    text = (run.folder / "run.hgrm").read_text()
    assert_distribution(text, run.report["run"])
    assert run.report["run"]["latency_us"]["count"] == run.report["run"]["counts"]["answered"]


def test_the_distribution_of_a_search_is_that_of_the_run_it_shows(search):
    text = (search.folder / "run.hgrm").read_text()
    rate, = re.findall(r"^# The run at ([0-9,.]+) requests/s$", text, re.MULTILINE)
    rate, steps = float(rate.replace(",", "")), search.report["search"]["steps"]
    # The one that confirmed the result stands behind the one that found it.
    shown = [step["run"] for step in steps if abs(step["offered_per_s"] - rate) < 1][-1]
    assert_distribution(text, shown)


def test_the_json_of_a_run_is_consistent(run):
    found = run.report["run"]
    counts, kinds = found["counts"], found["by_kind_us"]
    assert run.report["schema"] == 1 and found["loop"] == "open" and found["arrivals"] == "poisson"
    assert sum(kind["count"] for kind in kinds.values()) == found["latency_us"]["count"] == counts["answered"]
    assert found["slip_us"]["count"] == counts["sent"] + counts["unsent"]
    # What was under way at the end is answered after it, and what was under way at the begin within it: as many as
    # there are connections, and behind them what became due while the machine stood still.
    stall = max(found["latency_us"]["max"] / 1e6, 0.005)
    apart = abs(found["reached_per_s"] * found["measured_s"] - counts["answered"])
    assert apart <= 8 + 0.5 + 2 * 4000 * stall, found
    for name in ("latency_us", "service_us", "slip_us", "connect_us", *[("by_kind_us", kind) for kind in kinds]):
        figures = found[name] if isinstance(name, str) else found[name[0]][name[1]]
        values = [figures[key] for key in ("min", "p50", "p90", "p99", "p99.9", "p99.99", "max")]
        assert values == sorted(values) and figures["min"] <= figures["mean"] <= figures["max"], figures
    # What waited to be sent is in the latency, and not in the service time.
    assert found["latency_us"]["mean"] >= found["service_us"]["mean"]
    for process in ("server", "generator"):
        cost = found[process]
        assert 0 < cost["cpu_s"] < 2 * found["measured_s"] and 1 << 20 < cost["rss_bytes"] <= cost["rss_peak_bytes"]
        assert cost["cpu_us_per_request"] == pytest.approx(cost["cpu_s"] / counts["answered"] * 1e6, rel=0.01)
    assert counts["sent_bytes"] > 30 * counts["sent"] and counts["received_bytes"] > counts["answered"]


def test_the_server_is_charged_what_the_kernel_says(server):
    """Its CPU time over the run, seen from outside as well."""
    def used():
        # utime and stime in ticks of a hundredth of a second.
        fields = open(f"/proc/{server.process.pid}/stat").read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    load = [*server.target, "--closed", "--keys", 100, "--pipeline", 8, "--duration", "1s", "--warmup", "0s"]
    before = used()
    cost = counted(*load).run["server"]
    # The keys were written ahead of the measured time, and that is little.
    assert cost["pid"] == server.process.pid and cost["cpu_s"] == pytest.approx(used() - before, abs=0.15)
    assert cost["cpu_s"] > 0.3


def test_what_is_wrong_is_on_the_page_as_text(server, tmp_path):
    """Bytes of a server that mean something in a page, or to a terminal, mean nothing in a report."""
    server.empty()
    evil = b"<script>alert(1)</script>\x1b[31m\xff" * 3
    load = ["--closed", "--keys", 10, "--mix", "get=1", "--duration", "1s", "--html", tmp_path / "report.html"]
    with server.client() as client, Running(*server.target, *load) as running:
        running.until(lambda: client.dbsize() == 10)
        while running.process.poll() is None:
            client.set("key:000000000003", evil)
        done = running.end()
    assert done.code == FAILED and "<script>alert(1)</script>" in done.out and "\x1b" not in done.out, done
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "\x1b" not in page
    document = Document(browse(tmp_path, "--dump-dom"))
    assert document.all("script") == [] and "<script>alert(1)</script>" in document.text


def test_files_take_their_names_only_when_they_are_whole(server, tmp_path):
    """While it runs there is something under another name, and an older report stays where it is."""
    server.empty()
    page = tmp_path / "report.html"
    page.write_text("an older report")
    load = ["--keys", 100, "--rate", 500, "--duration", "1s", "--warmup", "0s", "--html", page]
    with Running(*server.target, *load) as running:
        running.until(lambda: server.calls().get("get", 0) > 50)
        assert page.read_text() == "an older report"
        part, = [file for file in tmp_path.iterdir() if file != page]
        assert part.name.endswith(".part")
        assert running.end().code in (PASSED, FAILED)
    assert list(tmp_path.iterdir()) == [page] and page.read_text().startswith("<!DOCTYPE html>")
