"""Tables and pictures of notebooks: well-formed, escaped, without scripts."""

import math
from xml.etree import ElementTree

from prunus.core import curve_svg, html_table, share_svg


def test_a_table_is_well_formed_and_escapes_what_it_holds() -> None:
    table = html_table("a < b", ["name", "n"], [["<script>", 1234], ["&", 0.5]], note="<i>")
    tree = ElementTree.fromstring(table)
    assert [cell.text for cell in tree.iter("td")] == ["<script>", "1,234", "&", "0.5"]
    assert not list(tree.iter("script")) and not list(tree.iter("i"))
    assert [cell.text for cell in tree.iter("b")] == ["a < b"]


def test_a_long_table_says_how_many_rows_it_leaves_out() -> None:
    tree = ElementTree.fromstring(html_table("", ["n"], [[n] for n in range(100)]))
    assert [cell.text for cell in tree.iter("td")][-1] == "and 60 more"


def test_pictures_stay_inside_their_frame_whatever_the_numbers() -> None:
    for values in ([], [1.0], [0.0, 0.0], [1.0, math.nan, 3.0, math.inf], range(1000)):
        svg = ElementTree.fromstring(curve_svg(list(values), "<title>").svg)
        width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
        (line,) = (each for each in svg if each.tag.endswith("polyline"))
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    for share, filled in ((-1.0, 0.0), (0.5, 59.0), (2.0, 118.0)):
        svg = ElementTree.fromstring(share_svg(share).svg)
        assert float(list(svg)[-1].attrib["width"]) == filled
