"""The admin port: health, readiness and Prometheus text."""

import re
import urllib.error

import pytest

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)(?: \d+)?$')


def test_health_and_readiness(server):
    for path in ("/healthz", "/readyz"):
        assert server.http(path)[0] == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.http("/no-such-page")
    assert caught.value.code == 404


def test_every_metric_is_described_and_well_formed(server):
    with server.client() as client:
        for i in range(100):
            client.set(f"k{i}", i)
            client.get(f"k{i}")
    status, text, headers = server.http("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert text.endswith("\n")
    helped, typed, series = set(), {}, set()
    for line in text.splitlines():
        if match := re.match(r"^# HELP (\S+) (\S.*)$", line):
            assert match[1] not in helped, f"{match[1]} is described twice"
            helped.add(match[1])
        elif match := re.match(r"^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$", line):
            assert match[1] not in typed, f"{match[1]} has two types"
            typed[match[1]] = match[2]
        elif line and not line.startswith("# EOF"):
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line}"
            name, labels, value = match[1], match[2] or "", float(match[3])
            family = name if name in typed else re.sub(r"_(bucket|sum|count)$", "", name)
            assert family in typed and family in helped, f"{name} lacks HELP or TYPE before it"
            assert family.startswith(("ringfence_", "process_")), name
            if typed[family] == "counter":
                assert name.endswith("_total"), f"the counter {name} should end in _total"
                assert value >= 0, line
            assert (name, labels) not in series, f"{name}{labels} is there twice"
            series.add((name, labels))
    assert helped == set(typed), "a metric with HELP or TYPE alone"
    for core in "01":
        assert ("ringfence_cross_core_forwards_total", f'{{core="{core}"}}') in series
