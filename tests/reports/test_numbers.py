import pytest

from prunus.reports import numbers


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.grouped(0), "0"),
        (numbers.grouped(999), "999"),
        (numbers.grouped(431080), "431 080"),
        (numbers.grouped(2293000.4, 1), "2 293 000.4"),
        (numbers.grouped(-1234), "−1 234"),
        (numbers.grouped(-0.04, 1), "0.0"),
        (numbers.counted(1, "layer"), "1 layer"),
        (numbers.counted(1234, "unit"), "1 234 units"),
        (numbers.measure(0), "0"),
        (numbers.measure(1250), "1 250"),
        (numbers.measure(12.5), "12.5"),
        (numbers.measure(0.00125), "0.00125"),
        (numbers.measure(-0.25), "−0.250"),
        (numbers.measure(1.2e-5), "1.2 × 10⁻⁵"),
        (numbers.measure(3.4e8), "3.4 × 10⁸"),
        (numbers.short(0), "0"),
        (numbers.short(99_999), "99 999"),
        (numbers.short(100_000), "100 k"),
        (numbers.short(999_499), "999 k"),
        (numbers.short(999_500), "1.00 M"),
        (numbers.short(12_345_678), "12.3 M"),
        (numbers.short(1_849_688_064), "1.85 G"),
        (numbers.percent(0.98611), "98.61 %"),
        (numbers.percent(1), "100.00 %"),
        (numbers.points(0.9861, 0.9833), "−0.28 points"),
        (numbers.points(0.9, 0.95), "+5.00 points"),
        (numbers.points(0.9, 0.9), "unchanged"),
        (numbers.points(0.9, 0.89999), "lower by less than 0.01 points"),
        (numbers.times(1.04), "1.04×"),
        (numbers.times(10.045), "10.0×"),
        (numbers.times(99.97), "100×"),
        (numbers.times(1234), "1 234×"),
        (numbers.kept(431080, 42913), "10.0 % kept, 10.0× fewer"),
        (numbers.kept(100000, 42), "0.04 % kept, 2 381× fewer"),
        (numbers.kept(10, 10), "unchanged"),
        (numbers.kept(10, 0), "none kept"),
        (numbers.kept(10, 12), "1.2× more"),
        (numbers.speed(1.8), "1.8× faster"),
        (numbers.speed(0.5), "2.0× slower"),
        (numbers.speed(1.001), "same speed"),
        (numbers.speed_between(1.8, 1.7, 1.94), "1.8× faster (1.70–1.94)"),
        (numbers.speed_between(2.3, 1.9, 2.44), "2.3× faster (1.9–2.4)"),
        (numbers.speed_between(0.8, 0.625, 0.9), "1.2× slower (1.11–1.60)"),
        (numbers.speed_between(1.02, 0.97, 1.04), "same speed, within noise (0.97–1.04)"),
        (numbers.duration(0.00123, 0.0011, 0.0014, 0.001), "1.23 ms (1.10–1.40)"),
        (numbers.duration(0.1234, 0.11, 0.14, 0.1), "123 ms (110–140)"),
        (numbers.duration(0.00005, 0.00004, 0.00006, 0.00005), "50.0 µs (40.0–60.0)"),
        (numbers.duration(2.5, 2.4, 2.6, 2), "2.50 s (2.40–2.60)"),
        (numbers.size(1724320, 1724320), "1 683.9 KiB"),
        (numbers.size(46 * 2**20, 46 * 2**20), "46.0 MiB"),
        (numbers.scientific(3e-7), "3.0 × 10⁻⁷"),
        (numbers.scientific(0), "0"),
    ],
)
def test_numbers_read_as_people_write_them(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_a_number_never_breaks_across_lines() -> None:
    assert " " not in numbers.grouped(1234567) + numbers.percent(0.5) + numbers.size(10**7, 10**7)
