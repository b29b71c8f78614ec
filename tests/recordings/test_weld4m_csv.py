"""The sensor CSVs that users have: both dialects, every oddity, and one clear line for what cannot be used."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings.weld4m_csv import SensorFile, SensorFileError, _longest_increasing, read_sensor_csv

TIMED = (
    "Date,Time,Part No,Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage,Remarks "
)
PLAIN = "Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage"
ROW = (3.4, -0.04, 0.19, 177.5, 7.21, 24.7)


def read(tmp_path: Path, text: str | bytes) -> SensorFile:
    path = tmp_path / "weld.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_sensor_csv(path)


def timed(*times: str, date: str = "8/17/2022") -> str:
    rows = [f"{date},{time},P1,3.4,-0.04,0.19,177.5,7.21,24.7" for time in times]
    return "\n".join([TIMED, *rows]) + "\n"


def plain(*rows: str) -> str:
    return "\r\n".join([PLAIN, *rows]) + "\r\n"


def test_dialect_without_times(tmp_path):
    found = read(tmp_path, plain("3.4,-0.04,0.19,177.5,7.21,24.7", "3.4,0,0.19,819.03,7.54,81.91"))
    assert found.t_ns is None
    assert found.started_local is None
    assert found.warnings == ()
    assert found.values.dtype == np.float64
    assert found.values.tolist() == [list(ROW), [3.4, 0, 0.19, 819.03, 7.54, 81.91]]


def test_dialect_with_times_and_ten_names_for_nine_fields(tmp_path):
    found = read(tmp_path, timed("07:50:26.295", "07:50:26.406", "07:50:26.519"))
    assert found.t_ns is not None
    assert found.t_ns.tolist() == [0, 111_000_000, 224_000_000]
    assert found.started_local == "2022-08-17T07:50:26.295000"
    assert found.values[2].tolist() == list(ROW)
    assert found.warnings == ()


def test_midnight_where_the_date_stands_still(tmp_path):
    found = read(tmp_path, timed("23:59:59.900", "00:00:00.010", "00:00:00.120"))
    assert found.t_ns is not None
    assert found.t_ns.tolist() == [0, 110_000_000, 220_000_000]


def test_repeated_and_backward_stamps_are_interpolated_and_said(tmp_path):
    found = read(tmp_path, timed("07:50:26.0", "07:50:26.1", "07:50:26.1", "07:50:25.1", "07:50:26.4"))
    assert found.t_ns is not None
    assert found.t_ns.tolist() == [0, 100_000_000, 200_000_000, 300_000_000, 400_000_000]
    assert len(found.warnings) == 1
    assert "2 stamps repeat" in found.warnings[0]


def test_one_stamp_far_ahead_does_not_spoil_the_rest(tmp_path):
    found = read(tmp_path, timed("07:00:00.0", "09:00:00.0", "07:00:00.2", "07:00:00.3"))
    assert found.t_ns is not None
    assert found.t_ns.tolist() == [0, 100_000_000, 200_000_000, 300_000_000]


def test_unreadable_stamps_leave_times_to_be_inferred(tmp_path):
    found = read(tmp_path, timed("noon", "later", "07:00:00.2"))
    assert found.t_ns is None
    assert "2 of 3 stamps" in found.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + plain("3.4,-0.04,0.19,177.5,7.21,24.7"),
        PLAIN.replace(",", ";") + "\r\n3,4;-0,04;0,19;177,5;7,21;24,7\r\n",
        PLAIN.replace(",", "\t") + "\n3,4\t-0,04\t0,19\t177,5\t7,21\t24,7",
        PLAIN + '\n"3,4","-0,04","0,19","177,5","7,21","24,7"\n',
        PLAIN.upper().replace("WELD VOLTAGE", "WELD VOLTAGE ") + "\n 3.4 ,-0.04,0.19,177.5,7.21,24.7,\n",
        "voltage_v,wire_mm,current_a,feed,co2_flow_l_min,pressure_bar\n24.7,7.21,177.5,0.19,-0.04,3.4\n",
    ],
    ids=["bom", "semicolons", "tabs", "quoted", "case-and-spaces", "own-names-reordered"],
)
def test_other_spellings_of_the_same_row(tmp_path, text):
    assert read(tmp_path, text).values.tolist() == [list(ROW)]


def test_blank_rows_and_a_cut_last_line_are_left_out_and_said(tmp_path):
    found = read(tmp_path, plain("3.4,0,0,0,7,0", "", ",,,,,", "3.4,0,0,0,8,0") + "3.4,0,0")
    assert found.values[:, 4].tolist() == [7, 8]
    assert [w.split()[0] for w in found.warnings] == ["2", "line"]
    assert "line 6 is cut off" in found.warnings[1]


def test_empty_fields_are_not_measured(tmp_path):
    found = read(tmp_path, plain("3.4,,0,0,7,0"))
    assert np.isnan(found.values[0, 1])
    assert found.warnings == ("1 empty fields are kept as not measured",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (plain("3.4,0,0,0,7,0", "3.4,0,0,abc,7,0"), ("line 3", "'Primary Weld Current'", "'abc'", "correct")),
        (plain("3.4,0,0,inf,7,0"), ("line 2", "'inf'", "correct")),
        (PLAIN.replace("Feed,", "") + "\n3.4,0,0,7,0\n", ("line 1", "'Feed'", "'Pressure'", "add or rename")),
        (plain("3.4,0,0", "3.4,0,0,0,7,0"), ("line 2", "3 fields", "names 6")),
        (plain("3,4,0,0,0,7,0,1"), ("line 2", "decimal comma")),
        (PLAIN + ",Feed\n3.4,0,0,0,7,0,1\n", ("line 1", "2 columns", "keep the one")),
        (PLAIN + "\n", ("no data rows", "export")),
        (PLAIN + ',Remarks\n3.4,0,0,0,7,0,"open\n3.4,0,0,0,7,0,\n', ("quote", "export")),
        ("", ("line 1", "nothing")),
        (b"RIFF\x00\x01\xff\xfeAVI LIST\x00\n\x00\x00", ("line 1", "'Pressure'")),
    ],
)
def test_what_cannot_be_used_gets_one_line(tmp_path, text, parts):
    with pytest.raises(SensorFileError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith("weld.csv: ")
    assert "\n" not in message
    assert all(part in message for part in parts), message


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_longest_increasing_subsequence(values):
    kept = _longest_increasing(values)
    assert all(a < b and values[a] < values[b] for a, b in pairwise(kept))
    longest = [1] * len(values)
    for i in range(len(values)):
        longest[i] += max((longest[j] for j in range(i) if values[j] < values[i]), default=0)
    assert len(kept) == max(longest)


@given(st.lists(st.integers(0, 86_399), min_size=2, max_size=30))
def test_times_always_increase(tmp_path_factory, seconds):
    times = [f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in seconds]
    found = read(tmp_path_factory.mktemp("csv"), timed(*times))
    if found.t_ns is not None:
        assert len(found.t_ns) == len(seconds)
        assert found.t_ns[0] == 0
        assert (np.diff(found.t_ns) > 0).all()


def test_real_files(real_weld):
    files = sorted(real_weld.glob("*.csv"))
    assert len(files) == 12
    for file in files:
        found = read_sensor_csv(file)
        assert 195 <= len(found.values) <= 400
        assert found.t_ns is None
        assert found.warnings == ()
        assert not np.isnan(found.values).any()
        assert 100 < np.median(found.values[found.values[:, 3] > 50, 3]) < 350
